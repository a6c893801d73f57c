from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from tests import report_samples as samples

from fedward_server.progress import (
    CURVE_MARKS,
    LiveObserver,
    NullObserver,
    PlainObserver,
    RunFacts,
    RunObserver,
    curve,
    make_observer,
)

FACTS = RunFacts("Chest \x1b[31m[red]study", sites=8, parameters=5714, epsilon=2.0, delta=1e-5)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watch(observer: RunObserver, clock: Clock, rounds: int = 48, step: float = 1.0) -> None:
    for done in (0, 1, 2):
        observer.stage("reading images", done, 2)
    observer.started(rounds + 2, FACTS)
    for point in samples.rounds(rounds):
        clock.now += step
        observer.round_finished(point)
    observer.finished()
    observer.finished()


def test_plain_lines_come_every_few_seconds_and_at_the_end():
    stream, clock = io.StringIO(), Clock()
    watch(PlainObserver(stream, interval=10.0, clock=clock), clock)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["reading images: 0/2", "reading images: 2/2"]
    assert "8 sites, 5,714 parameters, 50 rounds, epsilon 2.00 at delta 1e-05" in lines[2]
    rounds = [int(re.match(r"round (\d+)/50", line)[1]) for line in lines[3:]]
    assert rounds == [10, 20, 30, 40, 50]
    assert "AUC 0.8" in lines[-1]
    assert "epsilon 2.00" in lines[-1]
    assert "20.4 MB" in lines[-1]
    assert "10 s left" in lines[-2]
    assert "\x1b" not in stream.getvalue()


def test_the_time_left_follows_the_pace_of_the_last_rounds():
    stream, clock = io.StringIO(), Clock()
    observer = PlainObserver(stream, interval=0.0, clock=clock)
    observer.started(102, FACTS)
    for point in samples.rounds(60):
        clock.now += 50.0 if point.round <= 30 else 2.0
        observer.round_finished(point)
    assert "1 min 20 s left" in stream.getvalue().splitlines()[-1]


def test_the_live_display_shows_rounds_and_status_and_ends_clean():
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    watch(LiveObserver(console, clock=clock), clock)
    shown = stream.getvalue()
    assert "50/50" in shown
    assert "epsilon 2.00" in shown
    assert "[red]study" in shown  # markup of a plan is text
    assert "\x1b[31m[red]" not in shown  # and its control characters are gone
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back


def test_the_observer_follows_the_stream(monkeypatch):
    assert isinstance(make_observer(quiet=True, stream=io.StringIO()), NullObserver)
    assert isinstance(make_observer(quiet=False, stream=io.StringIO()), PlainObserver)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(make_observer(quiet=False, stream=Terminal()), LiveObserver)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_observer(quiet=False, stream=Terminal()), PlainObserver)


def test_nothing_is_shown_when_quiet(capfd):
    watch(make_observer(quiet=True, stream=io.StringIO()), Clock())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("length", [2, 23, 24, 25, 1000])
def test_the_curve_rises_with_its_values_and_stays_short(length):
    drawn = curve([float(index) for index in range(length)], CURVE_MARKS)
    assert 2 <= len(drawn) <= 24
    assert drawn == "".join(sorted(drawn))
    assert drawn[-1] == CURVE_MARKS[-1]
    assert curve([1.0], CURVE_MARKS) == ""
    assert set(curve([0.5] * length, CURVE_MARKS)) == {CURVE_MARKS[0]}
