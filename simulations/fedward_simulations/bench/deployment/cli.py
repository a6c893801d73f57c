"""``fedward-simulate bench deployment``: a round over TLS, beside stock Flower, and its growth."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedward_common.files import write_atomic


def deployment(
    rounds: Annotated[int, typer.Option("--rounds", help="Private sums of 3 daemons.", min=4)] = 12,
    exchanges: Annotated[
        int, typer.Option("--exchanges", help="Exchanges of stock Flower; 0 leaves it out.", min=0)
    ] = 3,
    sizes: Annotated[
        list[int], typer.Option("--daemons", help="Daemons of the growth; may be repeated.")
    ] = [5, 10, 20, 50],  # noqa: B006
    growth_rounds: Annotated[
        int, typer.Option("--growth-rounds", help="Private sums of each; 0 leaves it out.", min=0)
    ] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="File for the JSON document.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="File for a PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Time a round of 10^5 parameters over TLS beside stock Flower, and from 5 to 50 daemons.

    Example: fedward-simulate bench deployment --rounds 6 --growth-rounds 0
    """
    from fedward_simulations.bench.deployment.plot import draw
    from fedward_simulations.bench.deployment.rounds import (
        DELAY_SECONDS,
        compare,
        growth,
        measure,
        versions,
    )

    console = Console(stderr=True, quiet=as_json)

    def notice(line: str) -> None:
        console.print(line, highlight=False)

    record: dict[str, Any] = {"versions": versions()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if exchanges:
            record["rounds"] = compare(folder, rounds, exchanges, notice)
        else:
            record["rounds"] = {
                "fedward": measure(folder, 3, rounds, delay=DELAY_SECONDS).to_json()
            }
        record["growth"] = growth(folder, sizes, growth_rounds, notice) if growth_rounds else []
    text = json.dumps(record, indent=2)
    if out:
        write_atomic(out, f"{text}\n".encode())
    if plot and record["growth"]:
        write_atomic(plot, draw(record["growth"]))
    if as_json:
        typer.echo(text)
    else:
        _show(record)


def _show(record: dict[str, Any]) -> None:
    """A line for each setting."""
    ours = record["rounds"]["fedward"]
    table = Table("daemons", "s a round", "CPU server", "CPU daemons", "MB server", "MB daemons",
                  box=SIMPLE_HEAD, padding=0)  # fmt: skip
    for cost in (ours, *record["growth"]):
        table.add_row(
            str(cost["daemons"]),
            f"{cost['median_seconds']:.2f}",
            *(f"{cost['cpu'][side]:.2f}" for side in ("server", "daemons")),
            *(f"{cost['memory'][side] / 1e6:.0f}" for side in ("server", "daemons")),
        )
    Console().print(table)
    if ours["idle_cpu"]:
        idle = ", ".join(f"{name} {100 * x:.1f} %" for name, x in ours["idle_cpu"].items())
        typer.echo(f"idle, of one core: {idle}")
    if stock := record["rounds"].get("stock"):
        typer.echo(
            f"stock Flower: {stock['median_seconds']:.2f} s for one exchange of the same size"
        )
