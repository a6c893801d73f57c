"""What several commands of ``fedward-client`` share: options, progress, printing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from fedward_common.errors import OperatorError

if TYPE_CHECKING:
    from fedward_client.intake.reconcile import Reconciliation
    from fedward_client.studies import StudyRecord

SiteOption = Annotated[
    Path,
    typer.Option(
        "--site",
        envvar="FEDWARD_SITE",
        show_envvar=False,
        show_default=False,
        help="The site's folder; FEDWARD_SITE or ./site without it.",
    ),
]
JobsOption = Annotated[
    int,
    typer.Option("--jobs", help="Processes that de-identify; 0 is one a core.", min=0, max=256),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]

DEFAULT_SITE = Path("site")


def tell(lines: Iterable[str]) -> None:
    """Print lines for a person."""
    for line in lines:
        typer.echo(line)


def tell_json(value: Any) -> None:
    """Print one JSON value for a script."""
    typer.echo(json.dumps(value, indent=2))


def tell_report(report: Reconciliation, *, as_json: bool) -> None:
    """Print what became of the files of an intake, in counts."""
    if as_json:
        tell_json(asdict(report))
    else:
        tell(report.lines())


def find_study(
    records: Iterable[StudyRecord], plan: str, *, none: str = "no such plan here"
) -> StudyRecord:
    """The one of ``records`` whose plan's digest begins with ``plan``.

    Raises:
        OperatorError: none does, which ``none`` says in words, or several do.
    """
    found = [r for r in records if r.plan_digest.hex().startswith(plan.lower())]
    if len(found) != 1:
        problem = "stands for several plans; give more of it" if found else none
        which = plan or "(none given)"
        raise OperatorError(f"plan {which}: {problem}; `fedward-client plan show` lists them")
    return found[0]


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that moves a bar on a terminal's standard error, else nothing."""
    with progress_bars(title, quiet=quiet) as (progress,):
        yield progress


@contextmanager
def progress_bars(*titles: str, quiet: bool) -> Iterator[list[Callable[[int, int], None]]]:
    """A callback as of :func:`progress_bar` for each title; a bar appears when it first moves."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield [lambda _done, _total: None for _ in titles]
        return
    with Progress(console=console, transient=True) as bar:
        yield [_moving(bar, title) for title in titles]


def _moving(bar: Progress, title: str) -> Callable[[int, int], None]:
    task = bar.add_task(title, total=None, visible=False)
    return lambda done, total: bar.update(task, completed=done, total=total, visible=True)
