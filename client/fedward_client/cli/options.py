"""What several commands of ``fedward-client`` share: options, progress, printing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]

DEFAULT_SITE = Path("site")


def tell(lines: Iterable[str]) -> None:
    """Print lines for a person."""
    for line in lines:
        typer.echo(line)


def tell_json(value: Any) -> None:
    """Print one JSON value for a script."""
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that moves a bar on a terminal's standard error, else nothing."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _done, _total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
