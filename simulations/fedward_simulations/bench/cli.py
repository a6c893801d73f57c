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
from fedward_simulations.bench.deployment.cli import deployment
from fedward_simulations.bench.utility.cli import utility

if TYPE_CHECKING:
    from fedward_simulations.bench.comparison import Result
    from fedward_simulations.bench.deid import Result as Deidentified
    from fedward_simulations.bench.training import Result as Trained

PEERS = {"Flower": "flower-secagg+", "CKKS": "tenseal-ckks"}

app = new_app("bench", "Measure parts of fedward beside what others use for the same purpose.")
app.command()(deployment)
app.command()(utility)


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


@app.command()
def deid(
    slices: Annotated[int, typer.Option("--slices", help="CT slices of 512 x 512.", min=1)] = 500,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure others too.")] = True,
    out: Annotated[Path | None, typer.Option("--out", help="File for the JSON document.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Time de-identification beside dicognito, dicom-anonymizer and deid, on the same slices.

    Example: fedward-simulate bench deid --slices 100 --out deid.json
    """
    from fedward_simulations.bench.deid import compare

    console = Console(stderr=True, quiet=as_json)
    result = compare(slices, peers=peers, notice=lambda line: console.print(line, highlight=False))
    text = json.dumps(result.document, indent=2)
    if out:
        write_atomic(out, f"{text}\n".encode())
    if as_json:
        typer.echo(text)
    else:
        _show_deid(result)


def _show_deid(result: Deidentified) -> None:
    """Speeds and ratios, then growth."""
    table = Table(
        title=f"{result.slices} CT slices of 512 x 512, 16 bit; one process.",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("")
    for column in ("slices per CPU s", "ours, times as fast"):
        table.add_column(column, justify="right")
    for speed in result.speeds:
        ratio = result.ratios.get(speed.name)
        measured = f"{speed.slices_per_second:.0f}" if speed.slices_per_second else speed.reason
        table.add_row(speed.name, measured, "-" if ratio is None else f"{ratio:.1f}")
    Console().print(table)
    for growth in result.growth:
        mean = 1000 * growth.seconds / growth.slices
        working = growth.working_bytes / 1e6
        typer.echo(f"{growth.slices} slices: {mean:.2f} CPU ms each, {working:.1f} MB of memory")


@app.command()
def training(
    sides: Annotated[list[int], typer.Option("--side", help="Pixels; may be repeated.")] = [  # noqa: B006
        28,
        64,
        224,
    ],
    copies: Annotated[
        list[int], typer.Option("--copies", help="Views of an image; may be repeated.", min=1)
    ] = [1, 4],  # noqa: B006
    repeats: Annotated[int, typer.Option("--repeats", help="Interleaved runs.", min=1)] = 7,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Memory too.")] = True,
    plot: Annotated[Path | None, typer.Option("--plot", help="File for a PNG.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for the JSON document.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Time private training on one thread beside plain torch and the modes of Opacus.

    Example: fedward-simulate bench training --side 28 --copies 1 --no-memory
    """
    from fedward_simulations.bench.training import compare, document
    from fedward_simulations.bench.training_modes import Case

    console = Console(stderr=True, quiet=as_json)
    cases = [Case(side, count) for side in sides for count in copies]
    results = compare(
        cases,
        lambda line: console.print(line, highlight=False),
        repeats=repeats,
        memory=memory,
    )
    text = json.dumps(document(results), indent=2)
    if out:
        write_atomic(out, f"{text}\n".encode())
    if plot:
        from fedward_simulations.bench.training_plot import draw

        write_atomic(plot, draw(results))
    if as_json:
        typer.echo(text)
    else:
        _show_training(results)


def _show_training(results: list[Trained]) -> None:
    """A line for each mode of each case."""
    table = Table(
        title="Training, one thread",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    for column in ("px", "views", "mode", "views/s", "ratio", "MB"):
        table.add_column(column, justify="right")
    for result in results:
        for one in result.measures:
            table.add_row(
                str(result.case.side),
                str(result.case.copies),
                one.mode,
                f"{one.images_per_second:.0f}",
                f"{one.ratio:.2f}",
                f"{one.peak_bytes / 1e6:.0f}" if one.peak_bytes else "-",
            )
        table.add_section()
    Console().print(table)


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
