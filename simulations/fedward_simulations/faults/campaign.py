"""The campaign: a study goes on while its processes are killed and its network fails.

Troubles are drawn from the operating system's randomness and spread over the study's rounds: the
more rounds are done, the more troubles are due, so that none is left at the end. Every one is noted
with its moment.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fedward_common.errors import StorageError
from fedward_simulations.faults.backup import RestoredBackup
from fedward_simulations.faults.deployment import SERVER_APP, Deployment, Network
from fedward_simulations.faults.processes import Process, descendants
from fedward_simulations.faults.troubles import (
    End,
    cut_off,
    fill_disk,
    lock_database,
    set_clock_wrong,
    slow_down,
)

KILL, OUTAGE = "kill", "outage"
OLD_BACKUP = "old backup"
OTHERS = ("full disk", "locked database", "wrong clock", "slow site")
SHORTEST_ROUNDS = 10
"""Shorter campaigns have kills and outages only."""

OUTAGE_SECONDS = (2.0, 12.0)
OTHER_SECONDS = 15.0
PAUSE_SECONDS = 2.0
"""Longest pause between two troubles that are due."""

ORPHAN_SECONDS = 30.0
"""A process that outlives its parent by this is an orphan."""

LONGEST_SECONDS = 3 * 3600.0


@dataclass(frozen=True)
class Event:
    """One trouble: when (seconds since the start), at which round, what, to whom."""

    seconds: float
    round: int
    kind: str
    victim: str
    detail: str = ""


@dataclass
class Campaign:
    """Runs one study to its end through ``kills``, ``outages`` and one each of the others."""

    deployment: Deployment
    network: Network
    rounds: int
    kills: int
    outages: int
    tell: Callable[[Event], None] = lambda _: None
    events: list[Event] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    backup: RestoredBackup | None = None
    _draw: random.Random = field(default_factory=random.SystemRandom)
    _ends: list[tuple[float, End]] = field(default_factory=list)
    _watched: list[tuple[float, list[Process]]] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Until every sum is published.

        Raises:
            StorageError: the study has made no end in LONGEST_SECONDS.
        """
        due = self._shuffled()
        total, pause = len(due), 0.0
        while (position := len(self.deployment.history)) < self.rounds:
            self._turn()
            allowed = total * (position + 1) / max(1, self.rounds - 1)
            if due and total - len(due) < allowed and time.monotonic() >= pause:
                self._happen(due.pop(), position)
                pause = time.monotonic() + self._draw.uniform(0.0, PAUSE_SECONDS)
            if time.monotonic() - self._started > LONGEST_SECONDS:
                raise StorageError(f"the study stands at {position} of {self.rounds} sums")
        self.seconds = time.monotonic() - self._started
        self._calm()

    def _shuffled(self) -> list[str]:
        """What is to happen, the first last. The backup is in the first half: it takes time."""
        due = [KILL] * self.kills + [OUTAGE] * self.outages
        if self.rounds < SHORTEST_ROUNDS:
            self._draw.shuffle(due)
            return due
        due += OTHERS
        self._draw.shuffle(due)
        due.insert(self._draw.randint(len(due) // 2, len(due)), OLD_BACKUP)
        return due

    def _turn(self) -> None:
        """Restart what ended, end what has lasted long enough, look for orphans."""
        self.deployment.tick()
        if self.backup is not None:
            self.backup.tick()
        now = time.monotonic()
        for at, end in [item for item in self._ends if item[0] <= now]:
            self._ends.remove((at, end))
            end()
        for at, processes in [item for item in self._watched if item[0] <= now]:
            self._watched.remove((at, processes))
            self.orphans += [p.command for p in processes if p.alive]

    def _calm(self) -> None:
        """End every trouble that is still on."""
        for _, end in self._ends:
            end()
        self._ends.clear()
        if self.backup is not None:
            self.backup.finish()
        while self._watched:
            self._turn()

    def _happen(self, kind: str, position: int) -> None:
        for victim, detail in self._cause(kind):
            seconds = round(time.monotonic() - self._started, 1)
            event = Event(seconds, position, kind, victim, detail)
            self.events.append(event)
            self.tell(event)

    def _cause(self, kind: str) -> Iterator[tuple[str, str]]:
        match kind:
            case "kill":
                yield self._kill()
            case "outage":
                yield self._outage()
            case "old backup":
                site = self._site()
                self.backup = RestoredBackup(self.deployment, site)
                yield site, "stopped, copied, started; its old copy is put back later"
            case _:
                yield from self._other(kind)

    def _kill(self) -> tuple[str, str]:
        """SIGKILL to one process, drawn from all that run."""
        while not (alive := self._victims()):
            self._turn()
        role = self._draw.choice(sorted(alive))
        victim = alive[role]
        below = descendants(victim)
        victim.kill()
        self._watched.append((time.monotonic() + ORPHAN_SECONDS, below))
        return role, f"pid {victim.pid}"

    def _victims(self) -> dict[str, Process]:
        found = self.deployment.processes()
        if self.backup is not None and self.backup.away:
            found.pop(self.backup.site, None)
        return found

    def _outage(self) -> tuple[str, str]:
        """Of one site or of all, broken or hanging."""
        names = self.deployment.made.names
        sites = names if self._draw.random() < 0.3 else (self._draw.choice(names),)
        hang = self._draw.random() < 0.5
        seconds = self._draw.uniform(*OUTAGE_SECONDS)
        self._last(seconds, cut_off(self.network, sites, hang=hang))
        who = "all sites" if len(sites) > 1 else sites[0]
        return who, f"{seconds:.1f} s, connections {'hang' if hang else 'break'}"

    def _other(self, kind: str) -> Iterator[tuple[str, str]]:
        made, site = self.deployment.made, self._site()
        end: End | None = None
        if kind == "full disk":
            yield from self._fill_disks(site)
            return
        if kind == "locked database":
            with contextlib.suppress(sqlite3.OperationalError):  # never free: not this time
                end = lock_database(made.site(site))
        elif kind == "wrong clock":
            end = set_clock_wrong(self.deployment, site)
        elif kind == "slow site":
            end = slow_down(self.network, site)
        if end is None:
            self.skipped[kind] = "this machine cannot make it"
            return
        self._last(OTHER_SECONDS, end)
        yield site, f"{OTHER_SECONDS:.0f} s"

    def _fill_disks(self, site: str) -> Iterator[tuple[str, str]]:
        """Of a hospital and of the coordinator."""
        processes, done = self.deployment.processes(), False
        for role in (site, SERVER_APP):
            end = fill_disk(processes[role]) if role in processes else None
            if end is not None:
                done = True
                self._last(OTHER_SECONDS, end)
                yield role, f"{OTHER_SECONDS:.0f} s"
        if not done:
            self.skipped["full disk"] = "no limit can be set on a running process"

    def _site(self) -> str:
        """Any site whose folder is its own now."""
        away = {self.backup.site} if self.backup is not None else set()
        return self._draw.choice([n for n in self.deployment.made.names if n not in away])

    def _last(self, seconds: float, end: End) -> None:
        self._ends.append((time.monotonic() + seconds, end))
