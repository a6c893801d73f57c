"""A federation in which one site is a process of its own, killed with SIGKILL at random moments."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.world import RUNTIME, MemorySites

from fedward_client.round import SiteService
from fedward_client.site import open_site
from fedward_common.messages import Message

LONGEST_LIFE = 14
"""Orders that a process lives to get; a sum takes three or four."""

LONGEST_ORDER_SECONDS = 0.05
"""The power fails within this time of the last order's arrival: before, in or after its work."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.killed_site"])  # a life does not begin with an import


class Died(Exception):  # noqa: N818  (not an error: the site's power fails)
    """The site's process is gone; whether it had done what it was asked is for its disk to say."""


def serve(path: str, orders: Connection) -> None:
    """The site's process: real folder, real service, nothing else."""
    with open_site(Path(path), runtime=RUNTIME) as site:
        service = SiteService(site)
        orders.send_bytes(b"ready")
        while True:
            orders.send_bytes(service.handle(orders.recv_bytes()))


@dataclass
class _Life:
    """One process of the site, killed ``seconds`` after its order number ``last`` has come."""

    process: BaseProcess
    orders: Connection
    last: int
    seconds: float
    timer: threading.Timer | None = None

    @classmethod
    def begin(cls, path: Path, last: int, seconds: float) -> _Life:
        """Start it; it lives on if ``last`` is 0."""
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=serve, args=(str(path), theirs), daemon=True)
        process.start()
        theirs.close()
        if ours.recv_bytes() != b"ready":
            raise Died
        return cls(process, ours, last, seconds)

    def ask(self, data: bytes) -> bytes:
        self.last -= 1
        if self.last == 0:
            end = (self.process.pid, signal.SIGKILL)
            self.timer = threading.Timer(self.seconds, os.kill, end)
            self.timer.start()
        try:
            self.orders.send_bytes(data)
            return self.orders.recv_bytes()
        except (EOFError, OSError) as error:
            raise Died from error

    def end(self) -> None:
        if self.timer is not None:
            self.timer.join()
        self.process.kill()
        self.process.join()
        self.orders.close()


@dataclass
class KilledSites(MemorySites):
    """As :class:`MemorySites`; ``victim`` is killed ``kills`` times, at moments of ``moments``.

    ``on_death`` is called after every kill, before the next process opens the site's folder.
    """

    victim: str = "site-1"
    kills: int = 0
    moments: random.Random = field(default_factory=lambda: random.Random(0))
    on_death: Callable[[], None] = lambda: None
    died: int = 0
    _life: _Life | None = None

    def exchange(
        self, orders: Mapping[str, Message], deadline_seconds: float
    ) -> Iterator[tuple[str, Message]]:
        """An order that its site did not survive has no answer."""
        for name, order in orders.items():
            try:
                yield from super().exchange({name: order}, deadline_seconds)
            except Died:
                self.end_life()

    def end_life(self) -> None:
        if self._life is not None:
            killed = self._life.timer is not None
            self._life.end()
            self._life = None
            if killed:
                self.died += 1
                self.on_death()

    def close(self) -> None:
        self.end_life()
        super().close()

    def _handle(self, name: str, data: bytes) -> bytes:
        if name != self.victim:
            return super()._handle(name, data)
        if self._life is None:
            last = 0 if self.died >= self.kills else self.moments.randint(1, LONGEST_LIFE)
            seconds = self.moments.uniform(0.0, LONGEST_ORDER_SECONDS)
            self._life = _Life.begin(self.world.root / name, last, seconds)
        return self._life.ask(data)
