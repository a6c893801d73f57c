"""A consortium under way: coordinator, network and hospitals as processes of this machine."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from fedward_common.errors import StorageError
from fedward_common.randomness import os_random
from fedward_server.consortium import gateway_certificate
from fedward_server.study_files import is_finished
from fedward_simulations.faults.processes import Process, Unit, descendants, marked
from fedward_simulations.faults.relay import RelayConfig
from fedward_simulations.faults.world import SCRIPTS, Consortium, Ports

TICK_SECONDS = 0.1
SERVER_APP = "ServerApp"
"""The coordinator's part of one study: it ends with it."""

ROLES = {
    "gateway_process": "gateway",
    "flower-superlink": "SuperLink",
    "flower-superexec": "SuperExec",
    "flwr-serverapp": SERVER_APP,
}
"""Programs below the supervisor, by a word of their command lines."""


def free_ports() -> Ports:
    """Three ports of loopback that nobody listens on now."""
    probes = [socket.socket() for _ in range(3)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return Ports(*(probe.getsockname()[1] for probe in probes))
    finally:
        for probe in probes:
            probe.close()


class Network:
    """The relay process between hospitals and gateway; see :mod:`.relay`."""

    def __init__(
        self, made: Consortium, *, plain: Path | None = None, host: Sequence[str] = ()
    ) -> None:
        self.record = made.root / "addends.jsonl"
        self._made = made
        certificate = gateway_certificate(made.server, datetime.now(UTC), os_random)
        config = RelayConfig(
            listen=(made.ports.outside, made.ports.published),
            upstream=(made.ports.inside, made.ports.listening),
            certificate=str(certificate),
            authority=str(made.server / "authority" / "certificate"),
            record=str(self.record),
            sites={name: str(made.site(name)) for name in made.names},
            plain=str(plain) if plain else "",
        )
        path = made.root / "relay.json"
        path.write_text(config.to_json())
        command = (*host, sys.executable, "-m", "fedward_simulations.faults.relay", str(path))
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answered("ready")

    def change(self, site: str, **what: Any) -> None:
        """Slow a site's way down (``delay``, seconds) or ``cut`` it."""
        if self._process.stdin is None:
            return
        self._process.stdin.write(json.dumps({"site": site, **what}) + "\n")
        self._process.stdin.flush()
        self._answered("done")

    def addends(self) -> set[tuple[str, int]]:
        """(site, e) of every masked addend that has left so far."""
        lines = [json.loads(line) for line in self.record.read_text("ascii").splitlines()]
        return {(line["site"], line["e"]) for line in lines}

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)

    def _answered(self, word: str) -> None:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if line.strip() != word:
            raise StorageError("the relay has ended; see its messages above")


@dataclass
class Deployment:
    """The units of a consortium. Use it in a ``with`` statement.

    ``hosts`` holds, by unit, what runs a command on another host (``ip netns exec NAME``).
    """

    made: Consortium
    hosts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        logs = self.made.root / "logs"
        logs.mkdir(exist_ok=True)
        run = (str(SCRIPTS / "fedward-server"), "run", "--server", str(self.made.server))
        self.server = Unit("supervisor", run, logs / "supervisor.log", self.mark)
        self.daemons = {
            name: Unit(name, self.daemon_command(name), logs / f"{name}.log", self.mark)
            for name in self.made.names
        }
        for unit in self.units:
            unit.command = (*self.hosts.get(unit.name, ()), *unit.command)

    def daemon_command(self, name: str) -> tuple[str, ...]:
        """What runs a hospital's daemon."""
        return (str(SCRIPTS / "fedward-client"), "run", "--site", str(self.made.site(name)))

    @property
    def units(self) -> tuple[Unit, ...]:
        """The coordinator's unit and one for each hospital."""
        return (self.server, *self.daemons.values())

    def __enter__(self) -> Self:
        for unit in self.units:
            unit.start()
        return self

    def __exit__(self, *_: object) -> None:
        for unit in reversed(self.units):
            unit.stop()
        for left in marked(self.mark):
            left.kill()

    def log(self, name: str) -> str:
        """What a unit has said."""
        return (self.made.root / "logs" / f"{name}.log").read_text("utf-8", "replace")

    def tick(self) -> None:
        """Start again what has ended, and wait a moment."""
        for unit in self.units:
            unit.tick()
        time.sleep(TICK_SECONDS)

    def processes(self) -> dict[str, Process]:
        """What can be killed now, by its role; a hospital's role is its name."""
        found = {unit.name: unit.process for unit in self.units}
        alive = {name: process for name, process in found.items() if process is not None}
        supervisor = alive.get(self.server.name)
        for process in descendants(supervisor) if supervisor else ():
            for word, role in ROLES.items():
                if word in process.command:
                    alive[role] = process
        return alive

    @property
    def history(self) -> list[dict[str, Any]]:
        """The coordinator's record of every published sum."""
        try:
            record = json.loads((self.made.study / "history.json").read_text())
        except FileNotFoundError:
            return []
        return list(record["rounds"])

    @property
    def finished(self) -> bool:
        """Whether the study is over and its model written."""
        return is_finished(self.made.study)

    @property
    def attempts(self) -> int:
        """The highest attempt that the coordinator has begun."""
        try:
            return int(json.loads((self.made.study / "attempts.json").read_text())["e"])
        except FileNotFoundError:
            return 0
