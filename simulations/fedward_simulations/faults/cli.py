"""``fedward-simulate faults``: a deployment through kills, outages and worse."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedward_common.files import write_atomic

if TYPE_CHECKING:
    from fedward_simulations.faults.campaign import Event


def faults(
    daemons: Annotated[
        int, typer.Option("--daemons", help="Hospitals; with 3 every round needs all.", min=3)
    ] = 5,
    rounds: Annotated[int, typer.Option("--rounds", help="Private sums.", min=4)] = 60,
    kills: Annotated[int, typer.Option("--kills", help="Processes killed.", min=0)] = 100,
    outages: Annotated[int, typer.Option("--outages", help="Lost networks.", min=0)] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to keep: sites, logs, faults.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Run a study over real processes that are killed, cut off, filled up and rolled back.

    Moments and victims are drawn by the operating system and printed. Ends with a table of what
    must hold all the same, and with status 1 if any of it does not.

    Example: fedward-simulate faults --daemons 5 --rounds 20 --kills 20 --outages 4
    """
    from fedward_simulations.faults.trial import Size, trial

    console = Console(stderr=True, quiet=as_json)

    def tell(event: Event) -> None:
        place = f"{event.seconds:7.1f} s  round {event.round + 1:3}"
        console.print(
            f"{place}  {event.kind}: {event.victim} {event.detail}", highlight=False, markup=False
        )

    with tempfile.TemporaryDirectory() as scratch:
        record = trial(Size(daemons, rounds, kills, outages), out or Path(scratch), tell)
    text = json.dumps(record, indent=2)
    if out:
        write_atomic(out / "faults.json", f"{text}\n".encode())
    if as_json:
        typer.echo(text)
    else:
        _show(record)
    if not all(check["passed"] for check in record["checks"]):
        raise typer.Exit(1)


def _show(record: dict[str, Any]) -> None:
    """What happened to whom, then what must hold."""
    happened = Counter((event["kind"], event["victim"]) for event in record["events"])
    table = Table("trouble", "victim", "times", box=SIMPLE_HEAD, padding=0)
    for (kind, victim), count in sorted(happened.items()):
        table.add_row(kind, victim, str(count))
    for kind, reason in record["skipped"].items():
        table.add_row(kind, f"not made: {reason}", "0")
    Console().print(table)
    table = Table("what must hold", "found", "wanted", "", box=SIMPLE_HEAD, padding=0)
    for check in record["checks"]:
        outcome = "yes" if check["passed"] else "NO"
        table.add_row(check["name"], check["found"], check["wanted"], outcome)
    Console().print(table)
    figures = record["figures"]
    typer.echo(
        f"{figures['sums']} sums in {figures['attempts']} attempts and {record['seconds']:.0f} s"
    )
