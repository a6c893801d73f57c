"""A site's side of a round: every order is decoded, served once, stored, then answered.

A repeated identical order gets the stored bytes, a different one for the same step is refused (A3).
The masked addend leaves at the plan's fixed delay, so that its timing tells nothing (B2).
What the audit log names it names before it leaves; what cannot be noted does not leave (G7).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import datetime

from fedward_client import evidence, steps
from fedward_client.admission import begin_study, greet, receive_proposal
from fedward_client.running import Running, end_study, open_running
from fedward_client.site import Site
from fedward_client.studies import StudyState
from fedward_client.witness import Watch, testify
from fedward_common.codec import digest
from fedward_common.errors import FedwardError, PeerError, PolicyRefusalError
from fedward_common.messages import (
    MAX_TEXT,
    ORDERS,
    AgreeOrder,
    Begin,
    EvidenceOrder,
    Hello,
    MaskOrder,
    Message,
    Propose,
    Publish,
    Refusal,
    ShareOrder,
    Standing,
    StepReply,
    UnmaskOrder,
    Witnessed,
    WitnessOrder,
    decode_message,
)

log = logging.getLogger(__name__)

REFUSED = "mask-refused"
"""In the audit log: a refusal that left in a masked addend's place."""

UNSERVED = "this site cannot serve the request; its operator sees why"

CLOSED = Refusal("Closed", "outside this site's opening hours")
"""What a site answers when it does not compute: the server counts it as absent."""

StepOrder = ShareOrder | MaskOrder | AgreeOrder | UnmaskOrder


class SiteService:
    """Answers the server's orders, one at a time, for every study of one site."""

    def __init__(
        self,
        site: Site,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._site = site
        self._watch = Watch(site)
        self._auditor = evidence.Auditor(site)
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._running: dict[bytes, Running] = {}
        self._left: set[tuple[bytes, int]] = set()
        for record in site.studies.ended():  # A1: if a kill came between the end and this
            end_study(site, record)

    def warm_up(self) -> None:
        """Open what running studies need: a process' first addend must not be late for it (B2)."""
        with self._lock:
            for record in self._site.studies.all():
                if record.state is not StudyState.RUNNING or record.digest is None:
                    continue
                try:
                    steps.get_ready(self._site, self._known(record.digest))
                except FedwardError as error:  # the first order of the study tells it again
                    log.warning("study not ready: %s", error)

    def handle(self, data: bytes) -> bytes:
        """Answer one encoded order with one encoded reply; never raises for what a peer sent."""
        with self._lock:
            try:
                return self._answer(decode_message(data, ORDERS), data)
            except Exception as error:  # noqa: BLE001  (a bug of ours must not tell of the data)
                return _refusal(error)

    def _answer(self, order: Message, data: bytes) -> bytes:
        reply: Message
        match order:
            case ShareOrder() | MaskOrder() | AgreeOrder() | UnmaskOrder():
                return self._step(order, data)
            case Hello():
                reply = greet(self._site, order)
            case Propose():
                reply = receive_proposal(self._site, order)
                self._log(order.TAG, digest("plan", order.plan), 0, reply.encode())
            case Begin():
                reply = self._begin(order)
            case WitnessOrder():
                reply = testify(self._site, self._known(order.study), order)
                self._log(order.TAG, order.study, 0, reply.encode())
            case Witnessed():
                running = self._study(order.study)
                reply = self._watch.hear(running, order) or self._standing(running)
            case Publish():
                reply = self._publish(order)
            case EvidenceOrder():
                reply = self._auditor.take(self._study(order.study), order)
                self._log(order.TAG, order.study, 0, reply.encode())
            case _:
                raise PeerError("no site answers this message")
        return reply.encode()

    def _begin(self, order: Begin) -> Message:
        running = self._study(begin_study(self._site, order))
        running.check_package()
        if not self._site.policy.is_open(self._now()):
            return CLOSED
        return self._watch.needed(running) or self._standing(running)

    def _standing(self, running: Running) -> Standing:
        """Where the study stands here, and again the wish for evidence of its last sum (A3.5)."""
        wish = evidence.open_wish(self._site, running)
        return Standing(running.digest, running.progress.position, wish)

    def _step(self, order: StepOrder, data: bytes) -> bytes:
        arrived = self._clock()
        running = self._study(order.study)
        stored = self._site.rounds.replied(order.study, order.e, order.TAG, data)
        if stored is not None:
            return self._repeat(order, running, stored, arrived)
        refusal = self._watch.needed(running) or self._closed(running, order)
        if refusal is not None:  # before anything is looked at
            return refusal.encode()
        if isinstance(order, MaskOrder):
            kind, reply = self._mask(order, running, data, arrived)
        else:
            kind, reply = order.TAG, self._serve(order, running, data).encode()
        return self._leaves(kind, order, running, reply)

    def _repeat(self, order: StepOrder, running: Running, stored: bytes, arrived: float) -> bytes:
        """Send the same bytes again (A3).

        An addend of an earlier process, which may have died within the delay, waits for all of it.
        """
        if isinstance(order, MaskOrder) and (order.study, order.e) not in self._left:
            late = self._leave_on_time(order, arrived, running)
            if late is not None:
                return _refusal(late)
        return self._leaves(order.TAG, order, running, stored)

    def _leaves(self, kind: str, order: StepOrder, running: Running, reply: bytes) -> bytes:
        """Note what leaves now; of a study that was ended meanwhile, nothing does (G7)."""
        running.check_going_on()
        self._log(kind, order.study, order.e, reply)
        return reply

    def _mask(
        self, order: MaskOrder, running: Running, data: bytes, arrived: float
    ) -> tuple[str, bytes]:
        """What leaves, and the log's word for it; an addend and a refusal take the same time."""
        try:
            kind, reply = order.TAG, self._serve(order, running, data).encode()
        except Exception as error:  # noqa: BLE001  (a bug of ours must not tell of the data)
            kind, reply = REFUSED, _refusal(error)
        late = self._leave_on_time(order, arrived, running)
        return (kind, reply) if late is None else (REFUSED, _refusal(late))

    def _closed(self, running: Running, order: StepOrder) -> Refusal | None:
        """An attempt that was computed in time is finished; nothing else is begun."""
        if not isinstance(order, ShareOrder | MaskOrder):
            return None
        running.check_package()
        return None if self._site.policy.is_open(self._now()) else CLOSED

    def _log(self, kind: str, study: bytes, e: int, reply: bytes) -> None:
        self._site.audit.sent(kind, study, e, reply, self._site.ledger.head())

    def _serve(self, order: StepOrder, running: Running, data: bytes) -> StepReply:
        match order:
            case ShareOrder():
                return steps.share(self._site, running, order, data)
            case MaskOrder():
                return steps.mask(self._site, running, order, data)
            case AgreeOrder():
                return steps.agree(self._site, running, order, data)
            case UnmaskOrder():
                return steps.unmask(self._site, running, order, data)

    def _publish(self, order: Publish) -> Standing:
        """Catch up (A2); the last sum of the study may be asked to be proven (A3.5)."""
        running = self._study(order.study)
        last = order.transcript and not running.finished
        subject = (
            evidence.subject_of(self._site, running, order.position, order.sums) if last else None
        )
        running.publish(order.position, order.sums, order.transcript)
        self._auditor.forget(running.digest)  # of earlier sums: the server has gone on
        wish = evidence.ask(self._site, running, running.progress.position, subject)
        return Standing(order.study, running.folded_position, wish)

    def _study(self, digest: bytes) -> Running:
        running = self._known(digest)
        running.check_going_on()
        return running

    def _known(self, digest: bytes) -> Running:
        """The study as the database has it now; one that was stopped may still bear witness."""
        if digest in self._running:
            self._running[digest].refresh()
        else:
            self._running[digest] = open_running(self._site, digest)
        return self._running[digest]

    def _leave_on_time(
        self, order: MaskOrder, arrived: float, running: Running
    ) -> PolicyRefusalError | None:
        """Wait for the plan's fixed delay; a site that overruns it sits the attempt out (B2).

        Even the refusal leaves at a multiple of the delay, so that timing tells next to nothing.
        """
        delay = running.study.plan.schedule.reply_delay_seconds
        if delay == 0:  # simulations only
            return None
        taken = self._clock() - arrived
        self._sleep(max(math.ceil(taken / delay), 1) * delay - taken)
        if taken <= delay:
            self._left = {(order.study, order.e)}
            return None
        self._site.rounds.abandon(order.study, order.e)
        log.error(
            "attempt %d took %.1f s, above the plan's reply_delay_seconds %.1f: sat out",
            order.e,
            taken,
            delay,
        )
        return PolicyRefusalError(f"attempt {order.e}: this site sits out")


def _refusal(error: Exception) -> bytes:
    """What leaves in an answer's place; the reason of most refusals stays here."""
    if isinstance(error, FedwardError):
        log.warning("refused: %s", error)
        return Refusal(type(error).__name__, _public_reason(error)).encode()
    log.error("failed: %s", type(error).__name__)  # never the exception: its text may hold data
    return Refusal("InternalError", UNSERVED).encode()


def _public_reason(error: FedwardError) -> str:
    """What may leave: the peer's own faults. Policy, budget and our failures stay here."""
    return str(error)[:MAX_TEXT] if isinstance(error, PeerError) else UNSERVED
