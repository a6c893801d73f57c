"""Options and output that the commands of the coordinator share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_SERVER = Path("server")

ServerOption = Annotated[
    Path,
    typer.Option(
        "--server",
        envvar="FEDWARD_SERVER",
        show_envvar=False,
        show_default=False,
        help="The coordinator's folder; FEDWARD_SERVER or ./server without it.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


def tell(record: dict[str, Any], lines: tuple[str, ...], *, as_json: bool) -> None:
    """Print ``record`` as JSON, or the lines for a person."""
    for line in (json.dumps(record, indent=2),) if as_json else lines:
        typer.echo(line)
