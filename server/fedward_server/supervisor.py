"""`fedward-server run`: SuperLink, SuperExec and gateway kept running, studies begun and watched.

Everything happens in one thread, tick by tick. What must last is on the disk before it is acted
on, so that this process may be killed at any moment and started again (G6).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from fedward_common.errors import FedwardError, MisuseError, OperatorError, StorageError
from fedward_common.files import write_atomic
from fedward_common.randomness import os_random
from fedward_common.text import printable
from fedward_server.admission import Admission
from fedward_server.agenda import Agenda
from fedward_server.children import Child, Program
from fedward_server.consortium import gateway_certificate, gateway_of, refused, retire, retiring
from fedward_server.control import Control
from fedward_server.relay import Relay
from fedward_server.study_files import (
    PROCESSES,
    ask_to_stop,
    exclusive,
    forget_stop,
    is_held,
    read_json,
    write_nodes,
)
from fedward_server.superlink import LINK_FOLDER, SuperLink, is_free, prepare_superlink

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
CLAIM_SECONDS = 1.0
"""Whoever looks whether a server runs holds its lock for a moment."""

ASK_SECONDS = 1.0
SYNC_SECONDS = 10.0
"""Between two looks at the nodes if no enrolment changes; each costs the SuperLink a query."""

RENEW_SECONDS = 3600.0
DRAIN_SECONDS = 30.0
"""After SIGTERM, for the round in hand to end. What is cut short goes on in the next run."""


def supervise(server: Path, studies: Sequence[str], nginx_port: int | None = None) -> list[str]:
    """Run until the named ``studies`` are over, or until SIGTERM; returns those that failed.

    With ``nginx_port`` there is no gateway: nginx is, before a SuperLink on that loopback port.

    Raises:
        OperatorError: no address was given at `init`, no such study, or it runs already.
    """
    gateway_of(server)
    try:
        with exclusive(server, CLAIM_SECONDS), _termination() as terminated:
            forget_stop(server)
            (server / PROCESSES).unlink(missing_ok=True)  # its numbers are other processes' now
            return _Supervisor(server, studies, nginx_port, terminated).run()
    except MisuseError as error:
        raise OperatorError(f"{server}: a server runs here already; stop it first") from error


def stop(server: Path, seconds: float) -> None:
    """End the server that runs in this folder, after the round in hand.

    Raises:
        OperatorError: none runs, or it has not ended within ``seconds``.
    """
    if not is_held(server):
        raise OperatorError(f"{server}: no server runs here")
    pid, end = 0, time.monotonic() + seconds
    while is_held(server):
        if not pid and (pid := int(read_json(server / PROCESSES).get("pid", 0))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if time.monotonic() > end:
            raise OperatorError(f"{server}: the server (process {pid}) has not ended yet; wait")
        time.sleep(0.1)


class _Supervisor:
    def __init__(
        self,
        server: Path,
        studies: Sequence[str],
        nginx_port: int | None,
        terminated: Callable[[], bool],
    ) -> None:
        self._server = server.resolve()
        self._terminated = terminated
        self._nginx_port = nginx_port
        link = self._link = self._prepare()
        gateway_certificate(server, datetime.now(UTC), os_random)
        self._superlink = Child(link.superlink())
        self._superexec = Child(link.superexec())
        gateway = Child(_gateway_program(self._server, link))
        self._gateways = (gateway,) if nginx_port is None else ()
        self._children = (self._superlink, self._superexec, *self._gateways)
        self._control = Control(link)
        self._agenda = Agenda(self._server, studies, self._control)
        self._cleared = self._synced = False
        self._troubles: dict[str, str] = {}
        self._noted = ""
        self._next_ask = self._next_sync = self._next_renewal = 0.0
        self._admission = Admission(self._server)
        self._relay = Relay()

    def run(self) -> list[str]:
        try:
            while not self._terminated() and not self._agenda.done():
                self._tick()
                time.sleep(TICK_SECONDS)
            self._drain()
        finally:
            for child in reversed(self._children):
                child.stop()
            self._control.close()
            (self._server / PROCESSES).unlink(missing_ok=True)
        return self._agenda.failed()

    def _tick(self) -> None:
        for step in (self._renew, self._keep_running, self._note, self._ask_superlink):
            self._attempt(step)

    def _attempt(self, step: Callable[[], None]) -> None:
        """A full disk or a stray file must not end the server: it is said once, and tried again."""
        try:
            step()
        except (FedwardError, OSError) as error:
            if self._troubles.get(step.__name__) != str(error):
                log.warning("%s; it is tried again", printable(str(error)))
            self._troubles[step.__name__] = str(error)
        else:
            self._troubles.pop(step.__name__, None)

    def _keep_running(self) -> None:
        if not self._nginx_port and self._superlink.due and not is_free(self._link.port):
            self._move()
        self._superlink.tick()
        for gateway in self._gateways:
            gateway.tick()

    def _ask_superlink(self) -> None:
        if time.monotonic() < self._next_ask:
            return
        self._next_ask = time.monotonic() + ASK_SECONDS
        if not self._control.healthy():
            return
        self._attempt(self._clear)
        self._attempt(self._sync)
        if self._cleared and self._synced:
            self._attempt(self._pass_on)
            self._attempt(self._agenda.tick)
        self._superexec.tick()

    def _prepare(self) -> SuperLink:
        folder = self._server / LINK_FOLDER
        return prepare_superlink(folder, datetime.now(UTC), os_random, port=self._nginx_port)

    def _move(self) -> None:
        """Somebody else has taken the SuperLink's port: all that connect to it follow it."""
        log.warning("port %d is taken; the SuperLink starts on another", self._link.port)
        self._begin_anew()

    def _begin_anew(self) -> None:
        link = self._link = self._prepare()
        self._superlink.restart(link.superlink())
        self._superexec.restart(link.superexec())
        for gateway in self._gateways:
            gateway.restart(_gateway_program(self._server, link))
        self._control.move(link)

    def _clear(self) -> None:
        """End the runs of an earlier supervisor, whose processes are gone."""
        if not self._cleared:
            self._control.stop_all()
            self._cleared = True

    def _pass_on(self) -> None:
        self._relay.tick(self._agenda.log_file)

    def _sync(self) -> None:
        """Make nodes of who is enrolled; end the grace of a key whose successor is in use."""
        now = datetime.now(UTC)
        if not self._admission.refresh() and time.monotonic() < self._next_sync:
            return
        names, old = self._admission.names(), retiring(self._server, now)
        self._next_sync = 0.0  # until it has worked
        nodes = self._control.sync_nodes(names, refused(self._server, now))
        write_nodes(self._server, {node.number: names[key] for key, node in nodes.items()})
        self._synced = True  # no study begins before it can tell members from others
        online = {key for key, node in nodes.items() if node.online}
        for name in {names[key] for key in online - old.keys()} & set(old.values()):
            retire(self._server, name, now)
            log.info("%s uses its new key; the old one is refused from now on", name)
        self._next_sync = time.monotonic() + SYNC_SECONDS

    def _renew(self) -> None:
        if time.monotonic() < self._next_renewal:
            return
        self._next_renewal = time.monotonic() + RENEW_SECONDS
        path = self._server / "gateway.tls"
        before = path.read_bytes()
        gateway_certificate(self._server, datetime.now(UTC), os_random)
        if path.read_bytes() != before:
            log.info("the gateway's certificate is renewed")
            for gateway in self._gateways:
                gateway.restart()
        if self._link.needs_tls(datetime.now(UTC)):
            log.info("the SuperLink's certificate is renewed: nginx, if used, must be reloaded")
            self._begin_anew()

    def _drain(self) -> None:
        """Let the round in hand end; an idle server has none."""
        with suppress(StorageError):  # no room for the note: it is cut short then
            ask_to_stop(self._server)
        end = time.monotonic() + DRAIN_SECONDS
        while self._agenda.busy and time.monotonic() < end:
            for child in self._children:
                child.tick()
            time.sleep(TICK_SECONDS)

    def _note(self) -> None:
        """Say which processes run, for `status` and `stop`."""
        children = {c.program.name: {"pid": c.pid, "restarts": c.restarts} for c in self._children}
        text = json.dumps({"pid": os.getpid(), "processes": children})
        if text != self._noted:
            write_atomic(self._server / PROCESSES, text.encode("ascii"))
            self._noted = text


def _gateway_program(server: Path, link: SuperLink) -> Program:
    command = (sys.executable, "-m", "fedward_server.gateway_process", str(server), str(link.port))
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return Program("gateway", command, environment, server)


@contextmanager
def _termination() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT has come, while this lasts."""
    came: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in signals}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
