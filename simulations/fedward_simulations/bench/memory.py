"""Peak memory of the server and of a site, by ``tracemalloc``, which numpy reports to.

The server runs alone in a process of its own, so that nothing of the sites is counted. Traced
Python is slow: no time is measured here.
"""

from __future__ import annotations

import multiprocessing
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

from fedward_common.secagg.parameters import Group
from fedward_simulations.bench.secagg import Case, Server, Site, make_addend, make_group, play

_CLOSE = -1


@dataclass(frozen=True)
class Peak:
    """Most bytes held at once during a round: messages, sums and state, without the program.

    ``client`` does not count the addend that the site brings.
    """

    client: int
    server: int


class _Remote:
    """The server in the other process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def receive(self, index: int, message: bytes) -> None:
        """Take a site's message."""
        self._connection.send(index)
        self._connection.send_bytes(message)

    def close(self) -> Mapping[int, bytes]:
        """End the step; returns the requests of the next one."""
        self._connection.send(_CLOSE)
        count: int = self._connection.recv()
        return {self._connection.recv(): self._connection.recv_bytes() for _ in range(count)}


class _TracedSite(Site):
    """A site that knows the most bytes that any of its steps took."""

    peak = 0

    def answer(self, request: bytes) -> bytes:
        """Take the next of steps A3.2 to A3.4."""
        tracemalloc.start()
        try:
            return super().answer(request)
        finally:
            self.peak = max(self.peak, len(request) + tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()


def measure_peak(case: Case) -> Peak:
    """Run one round of ``case`` with the server in a process of its own."""
    group, keys = make_group(case.sites)
    addend = make_addend(case.parameters)
    traced = _TracedSite(group, keys[0], addend)
    sites = [traced, *(Site(group, key, addend) for key in keys[1:])]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, group, case.parameters), daemon=True)
    process.start()
    theirs.close()
    try:
        play(sites, _Remote(ours), case.dropouts)
        server: int = ours.recv()
    finally:
        ours.close()
        process.join()
    return Peak(client=traced.peak, server=server)


def _serve(connection: Connection, group: Group, parameters: int) -> None:
    """Run the server's side of a round, then send its peak."""
    tracemalloc.start()
    server = Server(group, parameters)
    while True:
        index: int = connection.recv()
        if index != _CLOSE:
            server.receive(index, connection.recv_bytes())
            continue
        requests = server.close()
        connection.send(len(requests))
        for receiver, request in requests.items():
            connection.send(receiver)
            connection.send_bytes(request)
        if not requests:
            break
    connection.send(tracemalloc.get_traced_memory()[1])
