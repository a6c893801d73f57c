"""``fedward-simulate bench utility``: how good the models are that privacy leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedward_common.files import write_atomic

if TYPE_CHECKING:
    from fedward_simulations.bench.utility.table import Line, Mean

COLUMNS = ("scenario", "method", "epsilon", "t_min", "c", "seeds", "AUC", "accuracy", "balanced")


def utility(
    images: Annotated[Path, typer.Option("--images", help="Image arrays (.npz).")],
    scenario: Annotated[
        list[str], typer.Option("--scenario", help="File or packaged name; may be repeated.")
    ] = ["pneumonia-cnn", "pneumonia-svm"],  # noqa: B006
    seeds: Annotated[str, typer.Option("--seeds", help="As 0-4 or 3.")] = "0-4",
    epsilon: Annotated[
        list[float], typer.Option("--epsilon", help="May be repeated; every method at the first.")
    ] = [2.0, 1.0, 4.0],  # noqa: B006
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Only these methods; may be repeated.")
    ] = None,
    dropout: Annotated[
        bool, typer.Option("--dropout/--no-dropout", help="Also t_min 6 and c 1.")
    ] = True,
    validation: Annotated[
        bool, typer.Option("--validation", help="Score on the validation images: to choose.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of models, utility.json; resumes.")
    ] = Path("runs/utility"),
    plot: Annotated[Path | None, typer.Option("--plot", help="File for a PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Compare models: ours, pooled with and without privacy, local-DP FedAvg, sites alone.

    Example: fedward-simulate bench utility --images pneumoniamnist.npz --seeds 0-1 --epsilon 2
    """
    from fedward_simulations.bench.utility.models import measure
    from fedward_simulations.bench.utility.request import make_request
    from fedward_simulations.bench.utility.table import document, lines

    request = make_request(
        scenario,
        images,
        epsilons=epsilon,
        seeds=seeds,
        methods=method,
        dropout=dropout,
        split="val" if validation else "test",
    )
    console = Console(stderr=True, quiet=as_json)
    text = ""
    for cells in measure(request, out, lambda line: console.print(line, highlight=False)):
        found = lines(cells)
        text = json.dumps(document(cells, request), indent=2)
        write_atomic(out / "utility.json", f"{text}\n".encode())
        if plot:
            from fedward_simulations.bench.utility.plot import draw

            write_atomic(plot, draw(found))
    if as_json:
        typer.echo(text)
    else:
        _show_utility(found)


def _show_utility(lines: list[Line]) -> None:
    """Means and standard errors; what ours is ahead in AUC."""
    from fedward_simulations.bench.utility.table import TITLES

    table = Table(title="Means and standard errors over seeds", title_justify="left", padding=0)
    for column in COLUMNS:
        table.add_column(column)
    for line in lines:
        variant = line.variant
        table.add_row(
            line.scenario,
            TITLES[line.method],
            "none" if line.epsilon is None else f"{line.epsilon:.2f}",
            "all" if variant.t_min is None else str(variant.t_min),
            str(variant.colluding),
            str(len(line.seeds)),
            _with_error(line.auc),
            _with_error(line.accuracy),
            _with_error(line.balanced),
        )
    Console().print(table)
    for line in lines:
        for peer, ahead in line.over.items():
            at = f"{line.scenario}, epsilon {line.variant.epsilon:g}"
            typer.echo(f"{at}: AUC ahead of {TITLES[peer]} by {_with_error(ahead)}")


def _with_error(value: Mean) -> str:
    return f"{value.mean:.4f}" + ("" if value.error is None else f" ± {value.error:.4f}")
