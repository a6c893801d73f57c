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
from fedward_client.daemon.pace import Pace
from fedward_client.daemon.state import StateFile
from fedward_client.daemon.stopping import Stop
from fedward_client.daemon.transport import CLOCK_WARNING_SECONDS, LinkError
from fedward_client.enrolment import WARN_BEFORE, Connection
from fedward_client.round import SiteService
from fedward_common.errors import FedwardError, PeerError
from fedward_common.messages import REPLIES, Refusal, StepReply, decode_message
from fedward_common.randomness import RandomBytes, os_random

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.5, 20.0
"""Pause before connecting again, doubled at every failure and drawn between half and all of it."""

STEADY_SECONDS = 20.0
"""A session that has lasted so long, or brought an order, ends the growth of these pauses."""

ACTIVATION_SECONDS = 2.0
BEAT_SECONDS = 0.5 * HEARTBEAT_SECONDS
"""A site counts as gone after twice ``HEARTBEAT_SECONDS``: a beat may be lost, with all the time
that it is given (:data:`~fedward_client.daemon.transport.BEAT_TIMEOUT`)."""

MAX_LOOKED_AT = 1 << 16
"""Bytes of an answer up to which its kind is read from it; only masked addends are longer."""

MAX_SESSIONS = 5
"""In which one order is fetched, or its answer offered, before it is given up."""

EXPIRY_SECONDS = 86_400.0
"""How often the end of the site's certificate is looked at."""


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
        self._sessions = 0
        self._retry = FIRST_RETRY_SECONDS
        self._settled = False
        self._problem = ""
        self._expiry_due = 0.0

    def stop(self) -> None:
        """Ask the loop to end after the order in hand; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until :meth:`stop`, or until ``outdated``: the site must be opened anew."""
        self._state.update(started=time.time(), connected=0.0, problem="", retry=0.0)
        self._notifier.ready()
        with _repeating(BEAT_SECONDS, self._notifier.alive):
            self._service.warm_up()
            self._resume()
            while not self._ending():
                self._try_session()
        if self._stop.is_set():
            self._notifier.stopping()
            self._state.update(connected=0.0, problem="stopped by its operator", retry=0.0)
            log.info("stopped")
        else:
            log.info("the policy or the configuration was edited: the site is opened anew")

    def _try_session(self) -> None:
        """One session, to its end; after a failure the pause before the next."""
        try:
            with self._session() as link:
                self._serve(link)
        except NotActivatedError as error:
            self._wait(str(error), ACTIVATION_SECONDS)
        except FedwardError as error:
            self._wait_longer(str(error))
        except Exception as error:  # noqa: BLE001  (nothing that a server sends ends the loop)
            self._wait_longer(f"unexpected {type(error).__name__}: please report it")

    def _ending(self) -> bool:
        return self._stop.is_set() or self._outdated()

    @contextmanager
    def _session(self) -> Iterator[FleetLink]:
        """One activated session, which says goodbye unless its connection broke."""
        self._settled = False
        self._warn_of_expiry()
        with FleetLink(self._connection()) as link:
            ahead = link.measure_clock()
            link.activate(self._state.abandoned())
            self._state.begun(link.node_id, ahead)
            try:
                with _repeating(BEAT_SECONDS, link.heartbeat):
                    yield link
                self._leave(link)
            finally:
                self._state.update(connected=0.0)

    def _settle(self) -> None:
        """Orders can be asked for: only then is a session one, and what was wrong over."""
        if self._settled:
            return
        self._settled = True
        self._on_session()
        self._state.update(connected=time.time(), problem="", retry=0.0)
        self._notifier.status("connected")
        log.info("connected to the coordinator")
        ahead = self._state.state.clock_ahead
        if abs(ahead) > CLOCK_WARNING_SECONDS:
            log.warning("the server's clock is %.0f s ahead of this one: set the clock", ahead)

    def _recovered(self) -> None:
        """What was wrong is over; one that breaks each session soon is asked less and less."""
        self._retry, self._problem = FIRST_RETRY_SECONDS, ""

    def _leave(self, link: FleetLink) -> None:
        with suppress(LinkError):
            link.deactivate()
            self._state.update(node=0)

    def _serve(self, link: FleetLink) -> None:
        self._finish(link)
        pace, begun = Pace(), time.monotonic()
        free = begun
        while not self._ending():
            self._warn_of_expiry()
            asked = time.monotonic()
            ordered = self._next(link)
            if ordered or asked - begun > STEADY_SECONDS:
                self._recovered()
            if ordered:
                pace.after_order(asked - free)
                free = time.monotonic()
            else:
                self._state.update(now=False, contact=time.time())
                self._stop.wait(pace.after_nothing())

    def _next(self, link: FleetLink) -> bool:
        """Answer the next order; False if there is none."""
        try:
            self._announced = link.pull()
        except PeerError as error:
            log.warning("order refused: %s", error)
            return False
        self._settle()
        if self._announced is None:
            return False
        self._inbox.keep(self._announced)
        self._finish(link)
        return True

    def _finish(self, link: FleetLink) -> None:
        """Fetch what was announced, answer it, send the answer; go on where a session broke."""
        try:
            if self._sessions < MAX_SESSIONS:
                self._sessions += 1
                self._work_off(link)
            else:
                log.warning("an order was given up after %d sessions", self._sessions)
        except RunEndedError:
            log.info("an order's run has ended: its answer is not awaited")
        except PeerError as error:
            log.warning("order refused: %s", error)
        self._announced = self._answer = None
        self._sessions = 0
        self._inbox.clear()

    def _work_off(self, link: FleetLink) -> None:
        """Whatever breaks the session in here leaves what is in hand for the next."""
        if self._announced is not None:
            order = Order(self._announced.envelope, link.fetch(self._announced))
            self._announced, self._sessions = None, 1
            self._inbox.keep(order)
            self._handle(order)
        if self._answer is not None:
            link.push(*self._answer)
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

    def _wait_longer(self, reason: str) -> None:
        self._wait(reason, self._retry)
        self._retry = min(2 * self._retry, LAST_RETRY_SECONDS)

    def _wait(self, reason: str, seconds: float) -> None:
        share = int.from_bytes(self._random(4), "big") / 2**32
        pause = seconds * (1 + share) / 2  # so that sites do not come back all at once
        if reason != self._problem:
            log.warning("%s; it is tried again for as long as it takes", reason)
        self._problem = reason
        self._notifier.status(f"waiting: {reason}")
        self._notifier.alive()
        self._state.update(problem=reason, retry=time.time() + pause, connected=0.0)
        self._stop.wait(pause)

    def _warn_of_expiry(self) -> None:
        """Once a day, for a session may last for months."""
        if time.monotonic() < self._expiry_due:
            return
        self._expiry_due = time.monotonic() + EXPIRY_SECONDS
        left = self._connection().expires.timestamp() - time.time()
        if left < WARN_BEFORE.total_seconds():
            log.warning(
                "this site's certificate ends in %.0f days: ask the coordinator for a new welcome",
                left / 86_400,
            )


@contextmanager
def _repeating(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Do ``action`` again and again meanwhile; whatever it raises, it is done again."""
    ended = threading.Event()

    def work() -> None:
        told = ""
        while not ended.wait(seconds):
            try:
                action()
            except FedwardError:  # shows at the next order that is asked for
                continue
            except Exception as error:  # noqa: BLE001  (a coordinator's answer must not end this)
                if told != type(error).__name__:
                    told = type(error).__name__
                    log.error("failed: %s", told)  # noqa: TRY400

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def kind_of(answer: bytes) -> str:
    """What kind of answer this is, for the operator: a tag, or the kind of a refusal."""
    if len(answer) > MAX_LOOKED_AT:
        return StepReply.TAG
    try:
        reply = decode_message(answer, REPLIES)
    except PeerError:
        return ""
    return f"refusal: {reply.kind}" if isinstance(reply, Refusal) else reply.TAG
