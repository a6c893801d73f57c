"""Watching a run while it goes on: an observer is told, and shows what it wants.

Three observers: nothing (`NullObserver`), one line every few seconds where the output is a file
or a pipe (`PlainObserver`), and a live display on a terminal (`LiveObserver`). `make_observer`
picks one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from fedward_server.report.model import RoundPoint
from fedward_server.report.text import count, duration, epsilon, figure, size

PLAIN_INTERVAL_SECONDS = 5.0
RECENT_ROUNDS = 20
CURVE_POINTS = 24
CURVE_MARKS, CURVE_MARKS_ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"


@dataclass(frozen=True)
class RunFacts:
    """What is known before the first round; ``epsilon`` is the guarantee of the whole plan."""

    title: str
    sites: int
    parameters: int
    epsilon: float
    delta: float


class RunObserver(Protocol):
    """Told what happens in a run; never changes it. Rounds may start above 1 after a resume."""

    def started(self, total_rounds: int, facts: RunFacts) -> None:
        """The run begins (or goes on); ``total_rounds`` counts all private sums of the plan."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Work outside rounds, such as reading images; ``total`` 0 says that it is unknown."""

    def round_finished(self, point: RoundPoint) -> None:
        """One private sum was decoded and used."""

    def finished(self) -> None:
        """Nothing more will come, after success or failure; may be called twice."""


class NullObserver:
    """Shows nothing (``--quiet``, ``--json``)."""

    def started(self, total_rounds: int, facts: RunFacts) -> None:
        """Ignore it."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Ignore it."""

    def round_finished(self, point: RoundPoint) -> None:
        """Ignore it."""

    def finished(self) -> None:
        """Ignore it."""


@dataclass
class Tally:
    """What has happened so far, for display only. ``clock`` returns seconds that never go back."""

    clock: Callable[[], float]
    total: int = 0
    round: int = 0
    wire_bytes: int = 0
    aucs: list[float] = field(default_factory=list)
    point: RoundPoint | None = None
    times: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_ROUNDS + 1))

    def begin(self, total: int) -> None:
        """Rounds are about to run."""
        self.total = total
        self.times.append(self.clock())

    def add(self, point: RoundPoint) -> None:
        """One round is done."""
        self.point, self.round = point, point.round
        self.wire_bytes += point.wire_bytes
        self.times.append(self.clock())
        if point.auc is not None:
            self.aucs.append(point.auc)

    def seconds_left(self) -> float | None:
        """From the pace of the last rounds; None before the first."""
        if len(self.times) < 2:
            return None
        pace = (self.times[-1] - self.times[0]) / (len(self.times) - 1)
        return pace * max(0, self.total - self.round)

    def status(self, marks: str = "") -> str:
        """``AUC 0.912 ▁▄▆▇  ε 1.53  61.4 MB  8 sites  48 s left``; no curve without ``marks``."""
        if self.point is None:
            return ""
        auc = (
            [f"AUC {figure(self.aucs[-1])} {curve(self.aucs, marks)}".strip()] if self.aucs else []
        )
        left = self.seconds_left()
        parts = [
            *auc,
            f"epsilon {epsilon(self.point.epsilon_spent)}",
            size(self.wire_bytes),
            f"{self.point.sites} sites",
            *([f"{duration(left)} left"] if left else []),
        ]
        return "   ".join(parts)


class PlainObserver:
    """Writes one line at each change of stage, then at most one every ``interval`` seconds."""

    def __init__(
        self,
        stream: TextIO,
        *,
        interval: float = PLAIN_INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._interval = interval
        self._clock = clock
        self._tally = Tally(clock)
        self._stage = ""
        self._written: float | None = None

    def started(self, total_rounds: int, facts: RunFacts) -> None:
        """Write what is about to run."""
        self._tally.begin(total_rounds)
        self._write(headline(total_rounds, facts))

    def stage(self, name: str, done: int, total: int) -> None:
        """Write it if it is new, done, or the last line is old."""
        new, self._stage = name != self._stage, name
        if new or (total and done >= total) or self._due():
            self._write(f"{one_line(name)}: {count(done)}" + (f"/{count(total)}" if total else ""))

    def round_finished(self, point: RoundPoint) -> None:
        """Write it if it is the last, or the last line is old."""
        self._tally.add(point)
        if point.round >= self._tally.total or self._due():
            place = f"round {point.round}/{self._tally.total} ({one_line(point.query)})"
            self._write(f"{place}   {self._tally.status()}")

    def finished(self) -> None:
        """Every line stands on its own: nothing to close."""

    def _due(self) -> bool:
        return self._written is None or self._clock() - self._written >= self._interval

    def _write(self, line: str) -> None:
        self._written = self._clock()
        self._stream.write(line + "\n")
        self._stream.flush()


class LiveObserver:
    """A bar for the stage, a bar for the rounds and a status line, redrawn on a terminal."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._tally = Tally(clock)
        self._marks = CURVE_MARKS_ASCII if console.options.ascii_only else CURVE_MARKS
        self._display = _Display(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            console=console,
            expand=True,
            transient=False,
        )
        self._rounds = self._display.add_task("rounds", total=None, visible=False)
        self._stage = self._display.add_task("stage", total=None, visible=False)

    def started(self, total_rounds: int, facts: RunFacts) -> None:
        """Show the headline and an empty bar."""
        self._tally.begin(total_rounds)
        self._display.start()
        self._console.print(Text(headline(total_rounds, facts), style="bold"))
        self._display.update(self._rounds, total=total_rounds, visible=True)

    def stage(self, name: str, done: int, total: int) -> None:
        """Move the bar of this stage, which hides when it is done."""
        self._display.start()
        self._display.update(
            self._stage,
            description=one_line(name),
            completed=done,
            total=total or None,
            visible=not total or done < total,
        )

    def round_finished(self, point: RoundPoint) -> None:
        """Move the bar of the rounds."""
        self._tally.add(point)
        self._display.status = Text(self._tally.status(self._marks), style="dim", no_wrap=True)
        self._display.update(
            self._rounds, description=one_line(point.query), completed=point.round, visible=True
        )

    def finished(self) -> None:
        """Leave the last state on the screen and give the terminal back."""
        self._display.update(self._stage, visible=False)
        self._display.stop()


class _Display(Progress):
    """rich's bars with a status line below them."""

    status = Text("")

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, then the status."""
        yield self.make_tasks_table(self.tasks)
        if self.status:
            yield self.status


def make_observer(*, quiet: bool, stream: TextIO) -> RunObserver:
    """The observer that suits ``stream`` (usually standard error); nothing if ``quiet``."""
    if quiet:
        return NullObserver()
    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveObserver(console)
    return PlainObserver(stream)


def headline(total_rounds: int, facts: RunFacts) -> str:
    """What is about to run, in one line."""
    return (
        f"{one_line(facts.title)}: {facts.sites} sites, {count(facts.parameters)} parameters, "
        f"{count(total_rounds)} rounds, epsilon {epsilon(facts.epsilon)} at delta "
        f"{facts.delta:g}"
    )


def curve(values: list[float], marks: str) -> str:
    """All values, thinned out, as a row of marks from lowest to highest; empty without marks."""
    if not marks or len(values) < 2:
        return ""
    stride = -(-len(values) // CURVE_POINTS)
    shown = values[::-1][::stride][::-1]
    low, span = min(shown), (max(shown) - min(shown)) or 1.0
    return "".join(marks[round((value - low) / span * (len(marks) - 1))] for value in shown)


def one_line(text: str) -> str:
    """Text from a plan without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
