"""The simulation's report: the deployment's page, and beside it what only a simulation can know.

The exact metrics, the baselines, how the cases were spread and the pictures before and after
de-identification exist because every hospital and every identity here is invented.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedward_common.errors import MisuseError
from fedward_server.report.charts import Line, Rule, line_chart
from fedward_server.report.figures import SQUARE, unit_axis
from fedward_server.report.model import Metrics, RunReport
from fedward_server.report.page import FEDERATION, Column, environment, page_facts
from fedward_server.report.release import write_pages
from fedward_server.report.summary import metric_values, run_summary
from fedward_server.report.text import figure

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class RocCurve:
    """One method's ROC curve: equally long rates in [0, 1], both rising; ``ours`` is drawn bold."""

    name: str
    false_positive: tuple[float, ...]
    true_positive: tuple[float, ...]
    auc: float
    ours: bool = False


@dataclass(frozen=True)
class Baseline:
    """Another way to train on the same cases. ``epsilon`` None says that nothing is private.

    ``key`` names it in ``summary.json``. ``auc_range`` is (lowest, highest) where the figure is a
    mean over several models, such as each site alone.
    """

    key: str
    name: str
    auc: float
    accuracy: float
    epsilon: float | None
    note: str = ""
    auc_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class HeaderChange:
    """One DICOM attribute before and after; ``after`` None says that it was removed."""

    name: str
    before: str
    after: str | None


@dataclass(frozen=True)
class BeforeAfter:
    """One invented patient's picture as PNG bytes, and the header, before and after."""

    site: str
    before_png: bytes
    after_png: bytes
    header: tuple[HeaderChange, ...]


@dataclass(frozen=True)
class PartitionRow:
    """What one simulated site holds: patients for training per class, images, held-out patients."""

    site: str
    scanner: str
    train_patients: tuple[int, ...]
    holdout_patients: int
    images: int


@dataclass(frozen=True)
class SimulationReport:
    """A finished simulation.

    ``exact_on`` says on which cases ``exact`` and ``roc`` rest. ``deidentification`` is shown with
    changed pictures first, the first one largest. ``quarantine`` maps a reason to the number of
    files. ``command`` repeats the run; ``reproducible`` says that it gives the same figures.
    ``scenario`` is the scenario file's text. ``rounds_auc_on`` ends the sentence "Measured ..."
    below the chart of the AUC over rounds.
    """

    run: RunReport
    exact: Metrics
    exact_on: str
    roc: tuple[RocCurve, ...]
    baselines: tuple[Baseline, ...]
    deidentification: tuple[BeforeAfter, ...]
    partition: tuple[PartitionRow, ...]
    quarantine: Mapping[str, int]
    seeds: Mapping[str, int]
    reproducible: bool
    command: str
    scenario: str
    rounds_auc_on: str = "exactly, outside the federation, on the same cases; nothing depends on it"


@dataclass(frozen=True)
class _Picture:
    """A `BeforeAfter` ready for the page: its pictures as data URIs."""

    site: str
    before: str
    after: str
    header: tuple[HeaderChange, ...]


def simulation_summary(report: SimulationReport) -> dict[str, Any]:
    """What ``summary.json`` says of a simulation: metrics are exact, the estimate is beside them.

    ``baselines`` maps a baseline's key to its ``auc``, ``accuracy``, ``epsilon`` and ``note``.
    """
    return {
        **run_summary(report.run),
        **metric_values(report.exact),
        "evaluated_on": report.exact_on,
        "baselines": {
            row.key: {
                "name": row.name,
                "auc": row.auc,
                "auc_range": row.auc_range,
                "accuracy": row.accuracy,
                "epsilon": row.epsilon,
                "note": row.note,
            }
            for row in report.baselines
        },
        "quarantine": dict(report.quarantine),
        "seeds": dict(report.seeds),
        "reproducible": report.reproducible,
        "command": report.command,
    }


def render_simulation(report: SimulationReport) -> str:
    """The page of a simulation: self-contained HTML.

    Raises:
        MisuseError: a picture is not a PNG.
    """
    columns = [Column("Exact", report.exact_on, report.exact)]
    if report.run.federation_metrics is not None:
        columns.append(Column(*FEDERATION, report.run.federation_metrics))
    public = [row for row in report.baselines if row.epsilon is None]
    reference = (
        Rule(public[0].auc, f"{public[0].name}: {figure(public[0].auc)}") if public else None
    )
    curves = _styled(report.roc)
    facts = {
        **page_facts(report.run, columns, reference=reference),
        "report": report,
        "curves": curves,
        "roc_chart": _roc_chart(curves),
        "pictures": [
            _picture(item)
            for item in sorted(report.deidentification, key=lambda x: x.before_png == x.after_png)
        ],
        "mix": _mix,
    }
    return environment("fedward_simulations").get_template("simulation.html.j2").render(facts)


def write_simulation(folder: Path, report: SimulationReport) -> Path:
    """Write ``summary.json`` and ``report.html``; returns the report's path.

    Raises:
        StorageError: the folder cannot be written.
    """
    return write_pages(folder, simulation_summary(report), render_simulation(report))


def _styled(curves: Sequence[RocCurve]) -> list[tuple[RocCurve, str]]:
    """Each curve with its style, ours first."""
    ordered = sorted(curves, key=lambda curve: not curve.ours)
    others = (f"other-{1 + index % 6}" for index in range(len(ordered)))
    return [(curve, "ours" if curve.ours else next(others)) for curve in ordered]


def _roc_chart(curves: Sequence[tuple[RocCurve, str]]) -> Markup | None:
    if not curves:
        return None
    # ours is drawn last, on top
    lines = [
        Line(curve.name, curve.false_positive, curve.true_positive, style)
        for curve, style in reversed(curves)
    ]
    areas = "; ".join(f"{curve.name}: AUC {figure(curve.auc)}" for curve, _ in curves)
    return line_chart(
        "chart-roc",
        f"ROC curves. {areas}.",
        unit_axis("false alarms (1 - specificity)"),
        unit_axis("findings caught (sensitivity)"),
        lines,
        diagonal=True,
        size=SQUARE,
    )


def _picture(item: BeforeAfter) -> _Picture:
    return _Picture(item.site, _png(item.before_png), _png(item.after_png), item.header)


def _png(content: bytes) -> str:
    if not content.startswith(PNG_SIGNATURE):
        raise MisuseError("report: a picture before or after de-identification is not a PNG")
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _mix(patients: Sequence[int]) -> Markup:
    """A bar whose parts are the classes' shares."""
    total = max(1, sum(patients))
    parts, start = [Markup("")], 0.0
    for index, number in enumerate(patients):
        width = 100.0 * number / total
        parts.append(
            Markup('<rect class="mix-{}" x="{:.2f}" width="{:.2f}" height="10"/>').format(
                1 + index % 6, start, width
            )
        )
        start += width
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        "{}</svg>"
    ).format(Markup("").join(parts))
