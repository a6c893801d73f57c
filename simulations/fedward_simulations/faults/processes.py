"""Processes as a service manager would keep them: started, watched, started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MARK = "FEDWARD_FAULTS_ID"
"""Environment variable by which every process of one campaign is found, whoever its parent is."""

RESTART_SECONDS = 1.0
"""RestartSec= of the units in deploy/systemd, less for the sake of a shorter campaign."""


@dataclass(frozen=True, order=True)
class Process:
    """A process of the machine: its number alone may be given to another one."""

    pid: int
    started: int
    """Clock ticks after the boot (proc(5), field 22 of stat)."""

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that waits to be reaped does not."""
        found = _stat(self.pid)
        return found is not None and found[1] == self.started and found[0] != "Z"

    @property
    def command(self) -> str:
        """Its command line; empty if it is gone."""
        try:
            return (PROC / str(self.pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return ""

    def cpu_seconds(self, *, children: bool = False) -> float:
        """CPU time used so far, user and system; 0.0 if it is gone.

        With ``children``, also that of children which have ended and were waited for.
        """
        try:
            text = (PROC / str(self.pid) / "stat").read_text()
        except OSError:
            return 0.0
        fields = text.rpartition(")")[2].split()
        used = sum(int(field) for field in fields[11 : 15 if children else 13])
        return used / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int:
        """Its share of memory: what it shares with others counts in parts (Pss); 0 if gone."""
        try:
            lines = (PROC / str(self.pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            return 0
        return next((1024 * int(x.split()[1]) for x in lines if x.startswith("Pss:")), 0)

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Unit:
    """One service: its command is started again whenever it ends in failure."""

    def __init__(self, name: str, command: Iterable[str], log: Path, mark: str) -> None:
        self.name = name
        self.command = tuple(command)
        self.starts = 0
        self.wanted = False
        self.environment: dict[str, str] = {}
        self._log = log
        self._mark = mark
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: float | None = None

    @property
    def process(self) -> Process | None:
        """Its main process while it runs."""
        if self._process is None or self._process.poll() is not None:
            return None
        found = _stat(self._process.pid)
        return None if found is None else Process(self._process.pid, found[1])

    @property
    def status(self) -> int | None:
        """How it ended last; None while it runs or before its first start."""
        return None if self._process is None else self._process.poll()

    def tick(self) -> None:
        """Start it if it is wanted and not running; one that ended well is left alone."""
        now, process = time.monotonic(), self._process
        if process is not None and (status := process.poll()) is None:
            return
        if process is not None and self._ended is None:
            self._ended = now
            self.wanted = self.wanted and status != 0
        if self.wanted and (self._ended is None or now - self._ended >= RESTART_SECONDS):
            self._launch()

    def _launch(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                bound(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    MARK: self._mark,
                    **self.environment,
                },
            )
        self.starts += 1
        self._ended = None

    def start(self) -> None:
        """Want it, from now on."""
        self.wanted = True
        if self.process is None:
            self._launch()

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM; returns its exit status. A unit that does not end in time is killed."""
        self.wanted = False
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def bound(command: Iterable[str]) -> tuple[str, ...]:
    """The command as a program that does not outlive this process, however it ends."""
    return (sys.executable, "-m", "fedward_server.bound", str(os.getpid()), *command)


def process_of(pid: int) -> Process:
    """The process that has this number now."""
    found = _stat(pid)
    return Process(pid, 0 if found is None else found[1])


def marked(mark: str) -> list[Process]:
    """Every process of the campaign ``mark``, found by its environment."""
    needle = f"{MARK}={mark}".encode()
    return [p for p in _processes() if needle in _environment(p.pid)]


def descendants(of: Process) -> list[Process]:
    """The processes that descend from one, without itself."""
    parents = {p: _parent(p.pid) for p in _processes()}
    found, wave = list[Process](), {of.pid}
    while wave:
        children = [p for p, parent in parents.items() if parent in wave]
        found += children
        wave = {p.pid for p in children}
    return found


def _processes() -> Iterator[Process]:
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (found := _stat(int(entry.name))) and found[0] != "Z":
            yield Process(int(entry.name), found[1])


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _parent(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def _environment(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""
