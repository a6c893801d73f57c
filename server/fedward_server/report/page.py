"""The report's page: one self-contained HTML file, without script and without outside resource.

Everything is escaped by the template engine; the page also carries a content security policy that
allows nothing but its own styles (and, in a simulation, its own pictures), so that a hostile name
could load nothing even if it were not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedward_server.report import charts, figures, text
from fedward_server.report.model import Metrics, PrivacyFacts, RoundPoint, RunReport

QUESTIONS = {
    "count": "How many patients are there of each class?",
    "moments": "What are the mean and the spread of the inputs?",
    "covariance": "How do the inputs vary together?",
    "gradient": "Which way should the model move?",
    "fedavg": "Where does training at each hospital move the model?",
    "histogram": "How does the model score patients that it has not seen?",
}
FEDERATION = ("Federation's estimate", "held-out patients, noised")
METRIC_ROWS = (
    ("auc", "AUC", "how often a positive case outranks a negative one"),
    ("accuracy", "Accuracy", "share of all decisions that are right"),
    ("sensitivity", "Sensitivity", "share with the finding that are found"),
    ("specificity", "Specificity", "share without the finding that are cleared"),
    ("precision", "Precision", "share of positive decisions that are right"),
    ("f1", "F1", "harmonic mean of precision and sensitivity"),
    ("calibration_error", "Calibration error", "gap of probability and frequency; 0 is best"),
)


@dataclass(frozen=True)
class Column:
    """One column of the table of metrics: its title, what the figures rest on, the figures."""

    title: str
    basis: str
    metrics: Metrics


@dataclass(frozen=True)
class Guarantee:
    """One row of the table of guarantees: against whom, epsilon, the best guess it allows."""

    against: str
    epsilon: float
    best_guess: float


@dataclass(frozen=True)
class Asked:
    """All rounds of one query: how often it was asked, the fewest sites, seconds in total."""

    query: str
    question: str
    rounds: int
    fewest_sites: int
    seconds: float


def environment(*packages: str) -> Environment:
    """The template engine: escaping everything, failing on unknown names.

    Args:
        packages: further packages whose ``templates`` folder is searched first.
    """
    loaders = [PackageLoader(name) for name in (*packages, "fedward_server.report")]
    engine = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        text.figure,
        text.estimate,
        text.count,
        text.epsilon,
        text.small,
        text.size,
        text.duration,
        text.percent,
        text.moment,
        text.model_name,
    ):
        engine.filters[function.__name__] = function
    engine.globals["swatch"] = charts.swatch
    return engine


def render_run(run: RunReport) -> str:
    """The page of a deployment's run. It holds no image."""
    columns = []
    if run.federation_metrics is not None:
        columns.append(Column(*FEDERATION, run.federation_metrics))
    return environment().get_template("page.html.j2").render(page_facts(run, columns))


def page_facts(
    run: RunReport, columns: Sequence[Column], *, reference: charts.Rule | None = None
) -> Mapping[str, Any]:
    """What the page's template needs. The first column is the one shown largest.

    Args:
        run: the run.
        columns: sets of metrics to show side by side.
        reference: a level to draw into the chart of the AUC.
    """
    shown = columns[0] if columns else None
    bins = shown.metrics.calibration if shown else ()
    norm = figures.norm_chart(run.rounds)
    auc = figures.auc_chart(run.rounds, reference)
    return {
        "run": run,
        "columns": columns,
        "shown": shown,
        "metric_rows": METRIC_ROWS,
        "guarantees": guarantees(run.privacy),
        "asked": asked(run.rounds),
        "auc_chart": auc,
        "norm_chart": norm if auc is None else None,
        "epsilon_chart": figures.epsilon_chart(run.rounds, run.privacy.epsilon),
        "calibration_chart": figures.calibration_chart(bins),
        "style": Markup(_style()),  # noqa: S704  # our own file, no outside text in it
    }


def guarantees(privacy: PrivacyFacts) -> tuple[Guarantee, ...]:
    """The guarantees of B4 in the order in which they weaken."""
    outside = "The server and everyone outside"
    if privacy.colluding:
        plural = "s" if privacy.colluding > 1 else ""
        outside += f", even with {privacy.colluding} hospital{plural} on their side"
    rows = [(outside, privacy.epsilon)]
    if privacy.epsilon_one_curious is not None:
        rows.append(("The server with one curious hospital", privacy.epsilon_one_curious))
    rows.append(("The server with all other hospitals", privacy.epsilon_worst_case))
    return tuple(
        Guarantee(against, value, text.best_guess(value, privacy.delta)) for against, value in rows
    )


def asked(rounds: Sequence[RoundPoint]) -> tuple[Asked, ...]:
    """The queries in the order in which they were first asked."""
    names = dict.fromkeys(point.query for point in rounds)
    result = []
    for name in names:
        own = [point for point in rounds if point.query == name]
        fewest, seconds = min(p.sites for p in own), sum(p.seconds for p in own)
        result.append(Asked(name, QUESTIONS.get(name, ""), len(own), fewest, seconds))
    return tuple(result)


def _style() -> str:
    engine = Environment(loader=PackageLoader("fedward_server.report"), autoescape=True)
    return engine.get_template("style.css").render()
