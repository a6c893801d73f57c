"""``fedward-simulate``: many hospitals on one machine, through the production code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedward_client.processes import forbid_core_dumps
from fedward_common.command import run_command
from fedward_common.errors import OperatorError
from fedward_server.progress import NullObserver, RunObserver, make_observer
from fedward_simulations.arrays import load_arrays
from fedward_simulations.audit.cli import audit
from fedward_simulations.bench.cli import app as bench_app
from fedward_simulations.faults.cli import faults
from fedward_simulations.hospitals import make_hospitals
from fedward_simulations.phantom import phantom_arrays
from fedward_simulations.report import SimulationReport, simulation_summary
from fedward_simulations.scenario import Scenario, load_scenario, packaged_scenarios
from fedward_simulations.simulate import simulate

NAME = "fedward-simulate"

app = typer.Typer(
    name=NAME,
    help="Simulate a federation of hospitals on one machine, through the production code.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(bench_app, name="bench")
app.command()(audit)
app.command()(faults)

Out = Annotated[Path, typer.Option("--out", help="Folder of the run; an interrupted run resumes.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress display.")]
Images = Annotated[
    Path | None, typer.Option("--images", help="Image array file (.npz with train_images, ...).")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Replaces the scenario's seed.", min=0)]


@app.command()
def demo(
    out: Out = Path("demo"),
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Train over phantom hospitals' DICOM in minutes; ends with a table and a report.

    Example: fedward-simulate demo --out demo
    """
    _run("demo", out, None, seed, as_json=as_json, quiet=quiet)


@app.command()
def run(
    scenario: Annotated[
        str, typer.Argument(help="A scenario file, or the name of a packaged one.")
    ],
    images: Images = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; resumes.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Run a scenario: hospitals, federation, baselines, exact evaluation, report.

    Example: fedward-simulate run pneumonia-cnn --images pneumoniamnist.npz --out runs/cnn
    """
    folder = out or Path("runs") / Path(scenario).stem
    _run(scenario, folder, images, seed, as_json=as_json, quiet=quiet)


@app.command()
def hospitals(
    out: Out,
    sites: Annotated[int, typer.Option("--sites", help="How many hospitals.", min=1, max=200)],
    images: Images = None,
    phantom: Annotated[bool, typer.Option("--phantom", help="Draw phantoms instead.")] = False,
    partition: Annotated[str, typer.Option("--partition", help="iid or dirichlet:A.")] = "iid",
    images_per_patient: Annotated[
        int, typer.Option("--images-per-patient", help="Largest number.", min=1)
    ] = 1,
    plain: Annotated[
        bool, typer.Option("--plain", help="8-bit, uncompressed, pixels exactly as given.")
    ] = False,
    patients: Annotated[int, typer.Option("--patients", help="Phantom patients.", min=20)] = 1000,
    size: Annotated[int, typer.Option("--size", help="Phantom pixels on a side.")] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Repeats the same hospitals.", min=0)] = 0,
    quiet: Quiet = False,
) -> None:
    """Turn an image array file or phantoms into hospitals' DICOM folders with labels.

    Example: fedward-simulate hospitals --phantom --sites 4 --out hospitals
    """
    if (images is None) != phantom:
        raise OperatorError("hospitals: give either --images X.npz or --phantom")
    observer = _observer(quiet=quiet)
    arrays = load_arrays(images) if images else phantom_arrays(patients, size, 2, seed)
    try:
        made = make_hospitals(
            arrays,
            out,
            sites=sites,
            partition=partition,
            images_per_patient=images_per_patient,
            plain=plain,
            seed=seed,
            progress=lambda done, total: observer.stage("writing DICOM", done, total),
        )
    finally:
        observer.finished()
    table = Table("hospital", "scanner", "training patients", "held out", "images")
    for one in made:
        scanner = f"{one.scanner.manufacturer} {one.scanner.model}"
        counts = (one.train_patients, one.holdout_patients, one.images)
        table.add_row(one.name, scanner, *map(str, counts))
    Console().print(table)


@app.command()
def scenarios() -> None:
    """List the packaged scenarios.

    Example: fedward-simulate scenarios
    """
    for name in packaged_scenarios():
        typer.echo(f"{name:16} {load_scenario(name)[0].title}")


def _run(
    name: str, out: Path, images: Path | None, seed: int | None, *, as_json: bool, quiet: bool
) -> None:
    scenario, text = load_scenario(name)
    if seed is not None:
        scenario = scenario.model_copy(update={"seed": seed})
    observer = _observer(quiet=quiet or as_json)
    command = " ".join([NAME, *sys.argv[1:]])
    report, page = simulate(
        scenario, text, out, images=images, command=command, observer=observer, source=name
    )
    if as_json:
        typer.echo(json.dumps(simulation_summary(report), indent=2))
        return
    _show(scenario, report)
    typer.echo(f"report: {page}")


def _observer(*, quiet: bool) -> RunObserver:
    return NullObserver() if quiet else make_observer(quiet=False, stream=sys.stderr)


def _show(scenario: Scenario, report: SimulationReport) -> None:
    """The table against the baselines, as on the report's page."""
    privacy = report.run.privacy
    table = Table(title=scenario.title, title_justify="left")
    table.add_column("method")
    for column in ("AUC", "accuracy", "epsilon"):
        table.add_column(column, justify="right")
    exact = report.exact
    rows: list[tuple[str, float, float, float | None]] = [
        ("fedward", exact.auc.value, exact.accuracy.value, privacy.epsilon)
    ]
    rows += [(b.name, b.auc, b.accuracy, b.epsilon) for b in report.baselines]
    for method, area, accuracy, epsilon in rows:
        spent = "no privacy" if epsilon is None else f"{epsilon:.2f}"
        table.add_row(method, f"{area:.3f}", f"{accuracy:.3f}", spent)
    Console().print(table)
    typer.echo(
        f"patient-level epsilon {privacy.epsilon:.2f} at delta {privacy.delta:g}; "
        f"{privacy.epsilon_worst_case:.2f} if all other sites collude with the server; "
        f"{report.run.bytes_per_site_per_round / 1000:.1f} kB a site and round"
    )


def main() -> None:
    """Entry point of the console script."""
    forbid_core_dumps()
    run_command(app, NAME)
