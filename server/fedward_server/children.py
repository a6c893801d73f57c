"""Child processes that are kept running: restarted with backoff, ended as whole groups."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that has lived this long has recovered: its next end is a first one."""

STOP_SECONDS = 5.0
"""From SIGTERM to SIGKILL. What a child must not lose is on the disk at any moment (G6)."""


@dataclass(frozen=True)
class Program:
    """What to run: a name for people, the command, its whole environment, its folder."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path


class Child:
    """One program, started again whenever it ends, in a session of its own.

    Start and tick it from one thread that lives as long as the supervisor: the kernel binds the
    child's life to the thread that started it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._not_before = 0.0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def due(self) -> bool:
        """Whether the next tick starts it."""
        now = time.monotonic()
        if self._process is not None and (status := self._process.poll()) is not None:
            self._bury(status, now)
        return self._process is None and now >= self._not_before

    def tick(self) -> None:
        """Start it if it is not running and its pause is over."""
        if self.due:
            self._process, self._started = _start(self.program), time.monotonic()

    def stop(self) -> None:
        """End it and everything that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        _kill_group(process.pid)
        process.wait()

    def restart(self, program: Program | None = None) -> None:
        """Stop it; the next tick starts it, or another ``program`` in its place."""
        self.stop()
        self.program = program or self.program
        self._not_before = 0.0

    def _bury(self, status: int, now: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            _kill_group(process.pid)
        if now - self._started > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        log.warning(
            "%s ended with status %d; it starts again in %.1f s",
            self.program.name,
            status,
            self._pause,
        )
        self.restarts += 1
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)


def _start(program: Program) -> subprocess.Popen[bytes]:
    bound = (sys.executable, "-m", "fedward_server.bound", str(os.getpid()))
    return subprocess.Popen(  # noqa: S603
        (*bound, *program.command),
        env=dict(program.environment),
        cwd=program.folder,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
