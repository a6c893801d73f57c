"""Which study runs: one after another, each as often as it takes, in Flower runs of its own.

A run whose ServerApp dies is over for Flower; the study is not. The next run goes on from the
checkpoint, with the attempts that are left, and no completed round is asked for again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedward_server.server_folder import signed_study
from fedward_server.status import study_names
from fedward_server.study_files import LOG, failure, forget_failure, is_finished, is_held

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
GONE_SECONDS = 3.0
"""After a ServerApp gave its lock back: time for Flower to say that the run is over."""

START_SECONDS = 120.0
"""For a ServerApp to take its lock; a machine under load imports slowly."""


class Runs(Protocol):
    """What the agenda needs of the SuperLink: :class:`~fedward_server.control.Control`."""

    def start(self, server_folder: str, study: str) -> int:
        """Begin a run and return its id."""
        ...

    def outcome(self, run: int) -> str | None:
        """How a run ended, or None while it goes on."""
        ...

    def stop_all(self) -> None:
        """Stop every run that is not over."""
        ...


@dataclass
class _Current:
    """The run under way: ``held`` once its ServerApp was seen to hold the study's lock."""

    study: str
    run: int
    started: float
    held: bool = False
    gone: float | None = None


class Agenda:
    """The studies of a coordinator's folder: those named, or all that are signed, in order.

    Tick it. It raises what ``runs`` raises and is unchanged by that.
    """

    def __init__(self, server: Path, names: Sequence[str], runs: Runs) -> None:
        self._server = server
        self._names = tuple(names)
        self._runs = runs
        self._current: _Current | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._not_before = 0.0
        for name in names:
            forget_failure(signed_study(server, name).folder)

    @property
    def busy(self) -> bool:
        """Whether a study's process works now."""
        return self._current is not None and is_held(self._folder(self._current.study))

    def failed(self) -> list[str]:
        """The named studies that cannot go on."""
        return [name for name in self._names if failure(self._folder(name)) is not None]

    def done(self) -> bool:
        """Whether every named study is over; never, if none was named."""
        return bool(self._names) and not self._waiting()

    @property
    def log_file(self) -> Path | None:
        """What the study's process writes, while one is known."""
        return self._folder(self._current.study) / LOG if self._current else None

    def tick(self) -> None:
        """Begin what is to begin, and see how the run under way stands."""
        now = time.monotonic()
        if self._current is None:
            waiting = self._waiting()
            if waiting and now >= self._not_before:
                run = self._runs.start(str(self._server.resolve()), waiting[0])
                self._current = _Current(waiting[0], run, now)
                log.info("study %s runs", waiting[0])
        elif self._over(self._current, now):
            self._end(self._current, now)

    def _over(self, current: _Current, now: float) -> bool:
        folder = self._folder(current.study)
        if is_held(folder):
            current.held, current.gone = True, None
            return False
        if is_finished(folder) or failure(folder) is not None:
            return True
        if current.held and current.gone is None:
            current.gone = now
        vanished = current.gone is not None and now - current.gone > GONE_SECONDS
        unborn = not current.held and now - current.started > START_SECONDS
        return vanished or unborn or self._runs.outcome(current.run) is not None

    def _end(self, current: _Current, now: float) -> None:
        folder = self._folder(current.study)
        reason = failure(folder)
        if is_finished(folder):
            log.info("study %s is finished: %s", current.study, folder)
        elif reason is not None:
            log.error("study %s cannot go on: %s", current.study, reason)
        else:
            self._runs.stop_all()
            if now - current.started > STEADY_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            log.warning(
                "the run of study %s ended before its plan; it goes on in %g s",
                current.study,
                self._pause,
            )
            self._not_before = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        self._current = None

    def _waiting(self) -> list[str]:
        names = self._names or study_names(self._server)
        folders = ((name, self._folder(name)) for name in names)
        return [n for n, folder in folders if not is_finished(folder) and failure(folder) is None]

    def _folder(self, study: str) -> Path:
        return self._server / "studies" / study
