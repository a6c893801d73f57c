"""One private sum from the server's side: four exchanges, or three when step 1 rode along (A3).

Before step 4 an attempt may fail, and the next e is tried. From step 4 on it is finished, whatever
it takes: a site that released shares never computes on the same public input again (A2).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedward_common.errors import FedwardError, IntegrityError, PeerError, PolicyRefusalError
from fedward_common.messages import (
    MAX_SUMS,
    AgreeOrder,
    Begin,
    MaskOrder,
    Message,
    Publish,
    Refusal,
    ShareOrder,
    Standing,
    StepReply,
    UnmaskOrder,
)
from fedward_common.progress import Progress
from fedward_common.secagg.closing import RoundAbortedError
from fedward_common.secagg.messages import Agreement, MaskedAddend, ShareMessage, UnmaskReply
from fedward_common.secagg.parameters import Group
from fedward_common.secagg.server import (
    CollectingAddends,
    CollectingAgreements,
    CollectingReveals,
    CollectingShares,
    Summed,
)
from fedward_common.study import Study
from fedward_server.evidence import Spool
from fedward_server.pending import Pending, Store
from fedward_server.sites import Sites

log = logging.getLogger(__name__)

S = TypeVar("S", CollectingShares, CollectingAddends, CollectingAgreements, CollectingReveals)


REPEAT_SECONDS = 1.0
"""Pause before step 4 is asked for again."""

FINAL = frozenset(kind.__name__ for kind in (PeerError, IntegrityError, PolicyRefusalError))
"""Refusals of step 4 that repeating does not mend: the site has no such attempt or study, or its
ledger went back."""

Heard = Callable[[int, Message, Any], None]
"""Told a site's index, its reply, and the step's message in it if that was accepted."""


class SumLostError(FedwardError):
    """A sum that can never be opened, and never be asked for again: the study is over."""


@dataclass
class RoundRunner:
    """Runs attempts of one study.

    ``standing`` is how many sums each site has folded in, ``wishes`` the sum, counted from 1, whose
    evidence it has asked for (A3.5).
    """

    study: Study
    group: Group
    begin: Begin
    sites: Sites
    store: Store
    spool: Spool
    standing: dict[str, int] = field(default_factory=dict)
    wishes: dict[str, int] = field(default_factory=dict)
    riding: dict[int, dict[str, bytes]] = field(default_factory=dict)

    @property
    def digest(self) -> bytes:
        """H over plan and approvals: the study as sites know it."""
        return self.group.plan_digest

    def admit(self) -> list[str]:
        """Begin the study where sites have not told where they stand; name those that are there."""
        present = self.sites.present()
        new = [name for name in present if name not in self.standing]
        for name, reply in self._exchange(dict.fromkeys(new, self.begin)):
            if isinstance(reply, Standing):
                self.standing[name] = reply.position
                if reply.wish:
                    self.wishes[name] = reply.wish
        return [name for name in present if name in self.standing]

    def attempt(self, e: int, progress: Progress) -> Summed:
        """One attempt at the sum that follows ``progress``.

        Raises:
            RoundAbortedError: too few sites answered a step before the last; the next e is to be
                tried.
            SumLostError: too few sites can still release shares.
        """
        try:
            reveals = self._until_agreed(e, progress)
        except RoundAbortedError as error:
            self.spool.drop(e)
            self._leave_out(error.dealers, e)
            raise
        pending = Pending(reveals, self._following(e, progress.position))
        self.store.save_pending(pending)  # A2: before a site may release
        return self.finish(pending, progress.position)

    def finish(self, pending: Pending, position: int) -> Summed:
        """Ask for the shares of step 4, the same again and again, until the sum opens (A3.4).

        Raises:
            SumLostError: those who have not answered can never do so, or their shares are wrong.
        """
        state, lost = pending.reveals, set[int]()
        e, request = state.attempt.context.e, state.request.encode()
        order = UnmaskOrder(self.digest, e, request, pending.following)

        def heard(index: int, reply: Message, message: object) -> None:
            if isinstance(reply, Refusal) and reply.kind in FINAL:
                lost.add(index)
            elif isinstance(reply, StepReply) and message is not None:
                self.standing[self._name(index)] = position
                if pending.following and reply.share:
                    riding = self.riding.setdefault(pending.following, {})
                    riding[self._name(index)] = reply.share

        while True:
            orders = {self._name(i): order for i in state.waiting - lost}
            state = self._collect(state, orders, UnmaskReply.decode, heard)
            try:
                summed, _ = state.close()
            except RoundAbortedError as error:
                self._leave_out(error.dealers, e)
                self._check_possible(state, lost, error, position)
                log.warning("attempt %d: %s; step 4 is asked for again", e, error)
                time.sleep(REPEAT_SECONDS)
                self.sites.present()
            else:
                self._leave_out(summed.dealers, e)
                return summed

    def _check_possible(
        self, state: CollectingReveals, lost: set[int], error: RoundAbortedError, position: int
    ) -> None:
        """Go on asking while somebody may still answer, and the answers may suffice."""
        left = state.waiting - lost
        if left and len(state.replies) + len(left) >= self.group.threshold:
            return
        names = ", ".join(self._name(i) for i in sorted(lost)) or "none"
        raise SumLostError(
            f"sum {position + 1} cannot be opened: {error}; sites that lost the attempt: {names}; "
            "no site computes on one model twice: the sums so far are kept, make a new plan"
        ) from error

    def _until_agreed(self, e: int, progress: Progress) -> CollectingReveals:
        """Steps 1 to 3."""
        task, round_number = self.study.at(progress.position)
        shares = self._collect_shares(e)
        addends, mask_requests = shares.close(
            task.name, round_number, progress.public_digest(task), task.dimension
        )
        addends = self._collect(
            addends,
            {
                self._name(i): self._mask_order(
                    e, progress.position, self._name(i), request.encode()
                )
                for i, request in mask_requests.items()
            },
            lambda data: MaskedAddend.decode(data, task.dimension),
            self._keep,
        )
        agreements, agree_requests = addends.close()
        agreements = self._collect(
            agreements,
            {
                self._name(i): AgreeOrder(self.digest, e, request.encode())
                for i, request in agree_requests.items()
            },
            Agreement.decode,
        )
        reveals, _ = agreements.close()
        return reveals

    def _keep(self, index: int, reply: Message, message: object) -> None:
        """Spool an accepted addend, and note what its site wishes to audit (A3.5)."""
        if isinstance(reply, StepReply) and isinstance(message, MaskedAddend):
            self.spool.put(message.e, index, message.y)
            if reply.wish:
                self.wishes[self._name(index)] = reply.wish

    def _leave_out(self, dealers: Iterable[int], e: int) -> None:
        """Take no more shares from members who certainly dealt wrong ones (A3.5)."""
        for name in map(self._name, dealers):
            if name not in self.store.left_out():
                reason = f"more than c members hold wrong shares of it in attempt {e}"
                log.error("%s is left out from now on: %s", name, reason)
                self.store.leave_out(name, reason)

    def catch_up(self, position: int) -> None:
        """Send sites that were away for long what they missed, a few sums at a time."""
        while behind := {n: s for n, s in self.standing.items() if position - s > MAX_SUMS}:
            orders = {
                name: Publish(self.digest, start, self.store.sums(start, start + MAX_SUMS), b"")
                for name, start in behind.items()
            }
            answered = 0
            for name, reply in self._exchange(orders):
                if isinstance(reply, Standing) and reply.position > behind[name]:
                    self.standing[name] = reply.position
                    answered += 1
            if not answered:
                return

    def _collect_shares(self, e: int) -> CollectingShares:
        """Step 1: what rode on the last unmasking, and an exchange with everyone else."""
        left_out = self.store.left_out()
        indices = {self._index(name) for name in left_out}
        state = CollectingShares(self.group, e, frozenset(indices))
        riding = self.riding.pop(e, {})
        self.riding.clear()
        for name, data in riding.items():
            if name not in left_out:
                state, _ = self._receive(state, name, data, ShareMessage.decode)
        absent = [self._name(i) for i in state.waiting]
        orders = {name: ShareOrder(self.digest, e) for name in absent}
        return self._collect(state, orders, ShareMessage.decode)

    def _following(self, e: int, position: int) -> int:
        """The e whose step 1 rides on this step 4; 0 after the last sum or the last attempt."""
        plan = self.study.plan
        over = position + 1 == self.study.total_rounds or e == plan.schedule.maximum_attempts
        return 0 if over else e + 1

    def _mask_order(self, e: int, position: int, name: str, request: bytes) -> MaskOrder:
        # The last sum is always sent, so that after a crash of either side a request is the same.
        start = max(min(self.standing.get(name, position - MAX_SUMS), position - 1), 0)
        return MaskOrder(self.digest, e, start, self.store.sums(start, position), request)

    def _collect(
        self,
        state: S,
        orders: Mapping[str, Message],
        decode: Callable[[bytes], object],
        heard: Heard = lambda _index, _reply, _message: None,
    ) -> S:
        for name, reply in self._exchange(orders):
            message: object = None
            if isinstance(reply, StepReply):
                state, message = self._receive(state, name, reply.reply, decode)
            elif not isinstance(reply, Refusal):
                log.warning("%s: an unexpected reply", name)
            heard(self._index(name), reply, message)
        return state

    def _exchange(self, orders: Mapping[str, Message]) -> Iterator[tuple[str, Message]]:
        deadline = self.study.plan.schedule.round_deadline_seconds
        return self.sites.exchange(orders, deadline) if orders else iter(())

    def _receive(
        self, state: S, name: str, data: bytes, decode: Callable[[bytes], object]
    ) -> tuple[S, object]:
        """Fold one site's message in and return it; a malformed one counts as none."""
        try:
            message = decode(data)
            return state.receive(self._index(name), message), message  # type: ignore[arg-type]
        except PeerError as error:
            log.warning("%s: message refused: %s", name, error)
            return state, None

    def _name(self, index: int) -> str:
        return self.group.members[index].name

    def _index(self, name: str) -> int:
        return next(i for i, member in enumerate(self.group.members) if member.name == name)
