"""One private sum from the server's side: four exchanges, or three when step 1 rode along (A3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from fedward_common.errors import PeerError
from fedward_common.messages import (
    MAX_SUMS,
    AgreeOrder,
    Begin,
    MaskOrder,
    Message,
    Publish,
    ShareOrder,
    Standing,
    StepReply,
    UnmaskOrder,
)
from fedward_common.progress import Progress
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
from fedward_server.sites import Sites

log = logging.getLogger(__name__)

S = TypeVar("S", CollectingShares, CollectingAddends, CollectingAgreements, CollectingReveals)


class Published(Protocol):
    """Sums that sites may have missed."""

    def sums(self, start: int, stop: int) -> tuple[bytes, ...]:
        """Published sums from ``start`` up to ``stop``."""
        ...


@dataclass
class RoundRunner:
    """Runs attempts of one study. ``standing`` is how many sums each site has folded in."""

    study: Study
    group: Group
    begin: Begin
    sites: Sites
    published: Published
    standing: dict[str, int] = field(default_factory=dict)
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
        return [name for name in present if name in self.standing]

    def attempt(self, e: int, progress: Progress) -> Summed:
        """One attempt at the sum that follows ``progress``.

        Raises:
            RoundAbortedError: too few sites answered some step; the next e is to be tried.
        """
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
        reveals, unmask_requests = agreements.close()
        following = self._following(e, progress.position)
        reveals = self._collect(
            reveals,
            {
                self._name(i): UnmaskOrder(self.digest, e, request.encode(), following)
                for i, request in unmask_requests.items()
            },
            UnmaskReply.decode,
            following,
        )
        for index in reveals.replies:
            self.standing[self._name(index)] = progress.position
        summed, _ = reveals.close()
        return summed

    def catch_up(self, position: int) -> None:
        """Send sites that were away for long what they missed, a few sums at a time."""
        while behind := {n: s for n, s in self.standing.items() if position - s > MAX_SUMS}:
            orders = {
                name: Publish(self.digest, start, self.published.sums(start, start + MAX_SUMS))
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
        state = CollectingShares(self.group, e)
        riding = self.riding.pop(e, {})
        self.riding.clear()
        for name, data in riding.items():
            state = self._receive(state, name, data, ShareMessage.decode)
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
        return MaskOrder(self.digest, e, start, self.published.sums(start, position), request)

    def _collect(
        self,
        state: S,
        orders: Mapping[str, Message],
        decode: Callable[[bytes], object],
        following: int = 0,
    ) -> S:
        for name, reply in self._exchange(orders):
            if not isinstance(reply, StepReply):
                log.warning("%s: an unexpected reply", name)
                continue
            state = self._receive(state, name, reply.reply, decode)
            if following and reply.share:
                self.riding.setdefault(following, {})[name] = reply.share
        return state

    def _exchange(self, orders: Mapping[str, Message]) -> Iterator[tuple[str, Message]]:
        deadline = self.study.plan.schedule.round_deadline_seconds
        return self.sites.exchange(orders, deadline) if orders else iter(())

    def _receive(self, state: S, name: str, data: bytes, decode: Callable[[bytes], object]) -> S:
        """Fold one site's message in; a malformed one counts as none."""
        try:
            return state.receive(self._index(name), decode(data))  # type: ignore[arg-type]
        except PeerError as error:
            log.warning("%s: message refused: %s", name, error)
            return state

    def _name(self, index: int) -> str:
        return self.group.members[index].name

    def _index(self, name: str) -> int:
        return next(i for i, member in enumerate(self.group.members) if member.name == name)
