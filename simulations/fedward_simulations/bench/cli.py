"""``fedward-simulate bench``: what parts of fedward cost beside their peers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedward_common.command import new_app
from fedward_common.files import write_atomic

if TYPE_CHECKING:
    from fedward_simulations.bench.comparison import Result

PEERS = {"Flower": "flower-secagg+", "CKKS": "tenseal-ckks"}

app = new_app("bench", "Measure parts of fedward beside what others use for the same purpose.")


@app.callback()
def bench() -> None:
    """Measure parts of fedward beside what others use for the same purpose."""


@app.command()
def secagg(
    sites: Annotated[list[int], typer.Option("--sites", help="Sites; may be repeated.")] = [  # noqa: B006
        3,
        10,
        30,
        100,
    ],
    parameters: Annotated[
        list[int], typer.Option("--parameters", help="Coordinates of an addend; may be repeated.")
    ] = [10**5, 10**6, 10**7],  # noqa: B006
    dropout: Annotated[
        list[float],
        typer.Option("--dropout", help="Fraction of sites that fall silent.", min=0, max=1),
    ] = [0.0, 0.2],  # noqa: B006
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure others too.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for secagg.json and secagg.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Time and size a private sum: clients, server, memory, beside Flower, TenSEAL and additions.

    Example: fedward-simulate bench secagg --sites 10 --parameters 1000000 --out bench
    """
    from fedward_simulations.bench.comparison import compare, document, make_cases

    cases, left_out = make_cases(sites, parameters, dropout)
    console = Console(stderr=True, quiet=as_json)
    for line in left_out:
        console.print(line, highlight=False)
    results = compare(cases, peers=peers, notice=lambda line: console.print(line, highlight=False))
    text = json.dumps(document(results), indent=2)
    if out:
        from fedward_simulations.bench.plot import draw

        write_atomic(out / "secagg.json", f"{text}\n".encode())
        write_atomic(out / "secagg.png", draw(results))
    if as_json:
        typer.echo(text)
    else:
        _show(results)


def _show(results: list[Result]) -> None:
    """Seconds as CPU milliseconds."""
    table = Table(
        title="One private sum. CPU in ms: client, encode (rounding and noise), server.\n"
        "MB: the server's peak memory. Last columns: cost in multiples of our client's.",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    columns = ("sites", "size", "silent", "client", "encode", "server", "kB up", "MB")
    for column in (*columns, *PEERS):
        table.add_column(column, justify="right")
    for result in results:
        ours, case = result.ours, result.case
        prepared = result.encoding_seconds + result.noise_seconds
        seconds = (ours.client_seconds, prepared, ours.server_seconds)
        ratios = (result.ratios.get(name) for name in PEERS.values())
        table.add_row(
            str(case.sites),
            f"{case.parameters:.0e}",
            str(case.dropouts),
            *(f"{1000 * value:.1f}" for value in seconds),
            f"{ours.upload_bytes / 1000:.1f}",
            f"{result.peak.server / 1e6:.1f}",
            *("-" if ratio is None else f"{ratio:.1f}" for ratio in ratios),
        )
    Console().print(table)
