"""The daemon's loop: ask for orders, answer them, come back whatever happens to the network.

One order at a time, in the order in which they come. Nothing that a server sends ends the loop;
SIGTERM does, after the order in hand has been answered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fedward_client.daemon.fleet import (
    HEARTBEAT_SECONDS,
    FleetLink,
    NotActivatedError,
    RunEndedError,
)
from fedward_client.daemon.inbox import Announced, Inbox, Order
from fedward_client.daemon.notify import Notifier
from fedward_client.daemon.state import StateFile, boot_id
from fedward_client.daemon.stopping import Stop
from fedward_client.daemon.transport import CLOCK_WARNING_SECONDS, LinkError
from fedward_client.enrolment import WARN_BEFORE, Connection
from fedward_client.round import SiteService
from fedward_common.errors import FedwardError, PeerError
from fedward_common.messages import REPLIES, Refusal, StepReply, decode_message
from fedward_common.randomness import RandomBytes, os_random

log = logging.getLogger(__name__)

BUSY_SECONDS, IDLE_SECONDS, SLOWER = 0.1, 1.0, 1.25
"""Pause between two questions: from just after an order to a quiet time, and its growth."""

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.5, 20.0
"""Pause before connecting again, doubled at every failure and drawn between half and all of it."""

ACTIVATION_SECONDS = 2.0
BEAT_SECONDS = 0.4 * HEARTBEAT_SECONDS
MAX_LOOKED_AT = 1 << 16
"""Bytes of an answer up to which its kind is read from it; only masked addends are longer."""

MAX_PUSHES = 5
"""Sessions in which one answer is offered before it is given up: the server asks again."""


class Daemon:
    """Serves one site. ``connection`` is read anew for every session."""

    def __init__(
        self,
        service: SiteService,
        inbox: Inbox,
        state: StateFile,
        connection: Callable[[], Connection],
        *,
        outdated: Callable[[], bool] = lambda: False,
        stop: Stop | None = None,
        on_session: Callable[[], None] = lambda: None,
        notifier: Notifier | None = None,
        random: RandomBytes = os_random,
    ) -> None:
        self._service = service
        self._inbox = inbox
        self._state = state
        self._connection = connection
        self._on_session = on_session
        self._notifier = notifier or Notifier()
        self._random = random
        self._outdated = outdated
        self._stop = stop or Stop()
        self._announced: Announced | None = None
        self._answer: tuple[bytes, bytes] | None = None
        self._pushes = 0

    def stop(self) -> None:
        """Ask the loop to end after the order in hand; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until :meth:`stop`, or until ``outdated``: the site must be opened anew."""
        self._state.update(started=time.time(), connected=0.0, problem="", retry=0.0)
        self._notifier.ready()
        self._service.warm_up()
        self._resume()
        retry = FIRST_RETRY_SECONDS
        while not self._ending():
            try:
                with self._session() as link:
                    retry = FIRST_RETRY_SECONDS
                    self._serve(link)
            except NotActivatedError as error:
                self._wait(str(error), ACTIVATION_SECONDS)
            except FedwardError as error:
                self._wait(str(error), retry)
                retry = min(2 * retry, LAST_RETRY_SECONDS)
        if self._stop.is_set():
            self._notifier.stopping()
            self._state.update(connected=0.0, problem="stopped by its operator", retry=0.0)
            log.info("stopped")
        else:
            log.info("the policy or the configuration was edited: the site is opened anew")

    def _ending(self) -> bool:
        return self._stop.is_set() or self._outdated()

    @contextmanager
    def _session(self) -> Iterator[FleetLink]:
        """One activated session, which says goodbye unless its connection broke."""
        connection = self._connection()
        self._warn_of_expiry(connection)
        with FleetLink(connection) as link:
            ahead = link.measure_clock()
            if abs(ahead) > CLOCK_WARNING_SECONDS:
                log.warning("the server's clock is %.0f s ahead of this one: set the clock", ahead)
            link.activate(self._state.abandoned())
            self._connected(link, ahead)
            beating = threading.Event()
            thread = threading.Thread(target=self._beat, args=(link, beating), daemon=True)
            thread.start()
            try:
                yield link
                self._leave(link)
            finally:
                beating.set()
                thread.join()
                self._state.update(connected=0.0)

    def _connected(self, link: FleetLink, ahead: float) -> None:
        now = time.time()
        self._state.update(
            connected=now,
            contact=now,
            problem="",
            retry=0.0,
            clock_ahead=round(ahead, 1),
            node=link.node_id,
            boot=boot_id(),
        )
        self._notifier.status("connected")
        log.info("connected to the coordinator")
        self._on_session()

    def _leave(self, link: FleetLink) -> None:
        with suppress(LinkError):
            link.deactivate()
            self._state.update(node=0)

    def _beat(self, link: FleetLink, ended: threading.Event) -> None:
        """Say that the site is there, also while it computes; failures show at the next pull."""
        while not ended.wait(BEAT_SECONDS):
            with suppress(FedwardError):
                link.heartbeat()
            self._notifier.alive()

    def _serve(self, link: FleetLink) -> None:
        self._finish(link)
        pause = BUSY_SECONDS
        while not self._ending():
            if self._next(link):
                pause = BUSY_SECONDS
                continue
            self._state.update(now=False, contact=time.time())
            self._stop.wait(pause)
            pause = min(pause * SLOWER, IDLE_SECONDS)

    def _next(self, link: FleetLink) -> bool:
        """Answer the next order; False if there is none."""
        try:
            self._announced = link.pull()
        except PeerError as error:
            log.warning("order refused: %s", error)
            return True
        if self._announced is None:
            return False
        self._inbox.keep(self._announced)
        self._finish(link)
        return True

    def _finish(self, link: FleetLink) -> None:
        """Fetch what was announced, answer it, send the answer; go on where a session broke."""
        try:
            if self._announced is not None:
                order = Order(self._announced.envelope, link.fetch(self._announced))
                self._announced = None
                self._inbox.keep(order)
                self._handle(order)
            if self._answer is not None:
                self._offer(link, *self._answer)
        except RunEndedError:
            log.info("an order's run has ended: its answer is not awaited")
        except PeerError as error:
            log.warning("order refused: %s", error)
        self._announced = self._answer = None
        self._pushes = 0
        self._inbox.clear()

    def _offer(self, link: FleetLink, envelope: bytes, answer: bytes) -> None:
        """Send an answer. A session that breaks over it leaves it for the next."""
        try:
            link.push(envelope, answer)
        except LinkError:
            self._pushes += 1
            if self._pushes < MAX_PUSHES:
                raise
            log.warning("an answer was given up after %d sessions", self._pushes)
        self._state.update(now=False, contact=time.time())

    def _handle(self, order: Order) -> None:
        answer = self._service.handle(order.content)
        self._answer = (order.envelope, answer)
        self._state.update(now=False, answered=time.time(), answer=kind_of(answer))

    def _resume(self) -> None:
        """Answer the order over which an earlier process died, from the site's stored state."""
        match self._inbox.take():
            case Order() as order:
                log.info("an order was in hand when the last process ended: it is answered now")
                self._handle(order)
            case Announced() as announced:
                log.info("an order was announced when the last process ended: it is fetched now")
                self._announced = announced

    def _wait(self, reason: str, seconds: float) -> None:
        share = int.from_bytes(self._random(4), "big") / 2**32
        pause = seconds * (1 + share) / 2  # so that sites do not come back all at once
        if reason != self._state.state.problem:
            log.warning("%s; it is tried again for as long as it takes", reason)
        self._notifier.status(f"waiting: {reason}")
        self._notifier.alive()
        self._state.update(problem=reason, retry=time.time() + pause, connected=0.0)
        self._stop.wait(pause)

    def _warn_of_expiry(self, connection: Connection) -> None:
        left = connection.expires.timestamp() - time.time()
        if left < WARN_BEFORE.total_seconds():
            log.warning(
                "this site's certificate ends in %.0f days: ask the coordinator for a new welcome",
                left / 86_400,
            )


def kind_of(answer: bytes) -> str:
    """What kind of answer this is, for the operator: a tag, or the kind of a refusal."""
    if len(answer) > MAX_LOOKED_AT:
        return StepReply.TAG
    try:
        reply = decode_message(answer, REPLIES)
    except PeerError:
        return ""
    return f"refusal: {reply.kind}" if isinstance(reply, Refusal) else reply.TAG
