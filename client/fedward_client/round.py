"""A site's side of a round: every order is decoded, served once, stored, then answered.

A repeated identical order gets the stored bytes, a different one for the same step is refused (A3).
The masked addend leaves at the plan's fixed delay, so that its timing tells nothing (B2).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from fedward_client import steps
from fedward_client.admission import begin_study, greet, receive_proposal
from fedward_client.running import Running, open_running
from fedward_client.site import Site
from fedward_common.errors import FedwardError, PeerError, PolicyRefusalError
from fedward_common.messages import (
    MAX_TEXT,
    ORDERS,
    AgreeOrder,
    Begin,
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
    decode_message,
)

log = logging.getLogger(__name__)

UNSERVED = "this site cannot serve the request; its operator sees why"

StepOrder = ShareOrder | MaskOrder | AgreeOrder | UnmaskOrder


class SiteService:
    """Answers the server's orders, one at a time, for every study of one site."""

    def __init__(
        self,
        site: Site,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._site = site
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._running: dict[bytes, Running] = {}

    def handle(self, data: bytes) -> bytes:
        """Answer one encoded order with one encoded reply; never raises for what a peer sent."""
        with self._lock:
            try:
                return self._answer(decode_message(data, ORDERS), data)
            except FedwardError as error:
                # The reason stays here: what leaves is only the kind of error.
                log.warning("refused: %s", error)
                return Refusal(type(error).__name__, _public_reason(error)).encode()
            except Exception as error:  # noqa: BLE001  (a bug of ours must not tell of the data)
                # Never the exception itself: its text may hold data.
                log.error("failed: %s", type(error).__name__)  # noqa: TRY400
                return Refusal("InternalError", UNSERVED).encode()

    def _answer(self, order: Message, data: bytes) -> bytes:
        match order:
            case Hello():
                return greet(self._site, order).encode()
            case Propose():
                return receive_proposal(self._site, order).encode()
            case Begin():
                digest = begin_study(self._site, order)
                return Standing(digest, self._study(digest).progress.position).encode()
            case Publish():
                return self._publish(order).encode()
            case ShareOrder() | MaskOrder() | AgreeOrder() | UnmaskOrder():
                return self._step(order, data)
            case _:
                raise PeerError("no site answers this message")

    def _step(self, order: StepOrder, data: bytes) -> bytes:
        arrived = self._clock()
        stored = self._site.rounds.replied(order.study, order.e, order.TAG, data)
        if stored is not None:
            self._site.audit.sent(order.TAG, order.e, stored, self._site.ledger.head())
            return stored
        running = self._study(order.study)
        try:
            reply = self._serve(order, running, data).encode()
            self._site.audit.sent(order.TAG, order.e, reply, self._site.ledger.head())
        finally:  # an addend and a refusal of one leave at the same moment
            if isinstance(order, MaskOrder):
                self._leave_on_time(order, arrived, running.study.plan.schedule.reply_delay_seconds)
        return reply

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
        running = self._study(order.study)
        running.publish(order.position, order.sums)
        return Standing(order.study, running.progress.position)

    def _study(self, digest: bytes) -> Running:
        if digest not in self._running:
            self._running[digest] = open_running(self._site, digest)
        return self._running[digest]

    def _leave_on_time(self, order: MaskOrder, arrived: float, delay: float) -> None:
        """Wait for the plan's fixed delay; a site that overruns it sits the attempt out (B2).

        Even the refusal leaves at a multiple of the delay, so that timing tells next to nothing.
        """
        if delay == 0:  # simulations only
            return
        taken = self._clock() - arrived
        self._sleep(max(math.ceil(taken / delay), 1) * delay - taken)
        if taken > delay:
            self._site.rounds.abandon(order.study, order.e)
            log.error(
                "attempt %d took %.1f s, above the plan's reply_delay_seconds %.1f: sat out",
                order.e,
                taken,
                delay,
            )
            raise PolicyRefusalError(f"attempt {order.e}: this site sits out")


def _public_reason(error: FedwardError) -> str:
    """What may leave: the peer's own faults. Policy, budget and our failures stay here."""
    return str(error)[:MAX_TEXT] if isinstance(error, PeerError) else UNSERVED
