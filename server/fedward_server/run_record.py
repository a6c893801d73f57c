"""From a finished study to what people read: the run report, the released model, its card."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedward_common import __version__
from fedward_common.guarantee import spent_curve, statement_of
from fedward_common.models.parameters import to_tensors
from fedward_common.plan.sections import HistogramQuery
from fedward_common.privacy.statement import PrivacyStatement
from fedward_common.progress import Progress
from fedward_common.queries.histogram import Layout
from fedward_common.study import Study
from fedward_server.checkpoints import Checkpoint
from fedward_server.evaluation import metrics
from fedward_server.report.model import (
    Metrics,
    ModelFacts,
    PrivacyFacts,
    RoundPoint,
    RunReport,
    SiteFacts,
)
from fedward_server.report.model_card import model_card
from fedward_server.report.release import write_release, write_run
from fedward_server.server_folder import StoredStudy
from fedward_server.sites import Traffic

PACKAGES = ("flwr", "torch", "numpy", "opacus", "dp-accounting", "cryptography", "pydicom")
CURVE_POINTS = 24


def versions() -> dict[str, str]:
    """What ran: fedward, Python and the packages whose version can change a result."""
    found = {"fedward": __version__, "python": platform.python_version()}
    return found | {name: version(name) for name in PACKAGES}


def run_report(
    study: Study,
    statement: PrivacyStatement,
    checkpoint: Checkpoint,
    aucs: Mapping[int, float],
) -> RunReport:
    """The facts of a finished study. ``aucs`` maps a round's number to an AUC estimate."""
    plan = study.plan
    rounds = _rounds(study, checkpoint, aucs)
    traffic = traffic_of(checkpoint)
    counted = max(len(rounds), 1) * max(len(traffic), 1)
    return RunReport(
        title=plan.study.title or plan.study.name,
        study=plan.study.name,
        plan_digest=plan.digest.hex(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        model=ModelFacts(plan.model.kind, study.parameters, plan.study.classes),
        privacy=PrivacyFacts(
            epsilon=statement.epsilon,
            epsilon_worst_case=statement.epsilon_worst_case,
            epsilon_one_curious=statement.epsilon_one_curious,
            delta=statement.delta,
            colluding=statement.colluding,
            statement=statement.sentences,
        ),
        sites=_sites(study, checkpoint, traffic),
        rounds=rounds,
        federation_metrics=federation_metrics(study, checkpoint.progress),
        seconds=sum(point.seconds for point in rounds),
        bytes_per_site_per_round=sum(t.bytes_received for t in traffic.values()) / counted,
    )


def traffic_of(checkpoint: Checkpoint) -> dict[str, Traffic]:
    """What crossed to and from each site in all rounds of the history."""
    total: dict[str, Traffic] = {}
    for entry in checkpoint.history:
        for name, crossed in entry["traffic"].items():
            total[name] = total.get(name, Traffic()) + Traffic(*crossed)
    return total


def finish_run(stored: StoredStudy, checkpoint: Checkpoint) -> Path:
    """Write a deployment's summary, report and released model; returns the report's path."""
    study = Study(stored.signed.open())
    report = run_report(study, statement_of(study), checkpoint, {})
    if study.plan.release.model:
        estimate = report.federation_metrics
        release(stored.folder, study, checkpoint.progress, report, estimate, "held-out patients")
    return write_run(stored.folder, report)


def federation_metrics(study: Study, progress: Progress) -> Metrics | None:
    """The federation's own estimate, from the last noised score histogram of held-out patients."""
    for index, total in reversed(progress.results):
        task = study.tasks[index]
        if isinstance(task.query, HistogramQuery):
            layout = Layout(len(study.plan.study.classes), task.query.bins)
            return metrics(layout, total, noise_deviation(study, index), study.plan.study.classes)
    return None


def noise_deviation(study: Study, index: int) -> float:
    """Standard deviation of a query's noise per coordinate of the sum, in the vector's units.

    With every site contributing: n parts of which t_min - c carry the claim.
    """
    mechanism = study.mechanism(study.tasks[index])
    return mechanism.site_sigma * float(np.sqrt(mechanism.sites)) / mechanism.scale


def release_tensors(study: Study, progress: Progress) -> dict[str, NDArray[np.float64]]:
    """The shared model: the averaged parameters, and what inputs go through before them."""
    projection = {"projection": progress.projection} if progress.projection.size else {}
    return {
        **to_tensors(study.spec, progress.state.average),
        **projection,
        "standardisation.mean": progress.mean,
        "standardisation.scale": progress.scale,
    }


def release(
    folder: Path,
    study: Study,
    progress: Progress,
    report: RunReport,
    evaluation: Metrics | None = None,
    evaluated_on: str = "",
) -> Path:
    """Write the model and its card; the file carries its plan, so that `predict` needs no other."""
    card = model_card(report, evaluation=evaluation, evaluated_on=evaluated_on)
    metadata = {"plan": study.plan.canonical.decode("ascii")}
    return write_release(folder, release_tensors(study, progress), card, metadata)


def _rounds(
    study: Study, checkpoint: Checkpoint, aucs: Mapping[int, float]
) -> tuple[RoundPoint, ...]:
    history = checkpoint.history
    spent = interpolated_spending(study, len(history), [int(entry["e"]) for entry in history])
    return tuple(
        RoundPoint(
            round=int(entry["round"]),
            query=str(entry["query"]),
            seconds=float(entry["seconds"]),
            sites=len(entry["sites"]),
            epsilon_spent=spent[i],
            wire_bytes=sum(Traffic(*crossed).total for crossed in entry["traffic"].values()),
            auc=aucs.get(int(entry["round"])),
            update_norm=entry.get("update_norm"),
        )
        for i, entry in enumerate(history)
    )


def interpolated_spending(study: Study, rounds: int, attempts: Sequence[int] = ()) -> list[float]:
    """Epsilon after each round: exact at some two dozen rounds, linear in between.

    ``attempts``: the e of each round, so that attempts in vain are counted.
    """
    if rounds == 0:
        return []
    knots = sorted({*np.linspace(1, rounds, min(rounds, CURVE_POINTS)).astype(int).tolist()})
    values = spent_curve(study, knots, attempts=attempts)
    return [float(x) for x in np.interp(np.arange(1, rounds + 1), knots, values)]


def _sites(
    study: Study, checkpoint: Checkpoint, traffic: Mapping[str, Traffic]
) -> tuple[SiteFacts, ...]:
    names: Sequence[str] = [site.name for site in study.plan.roster.sites]
    taken = dict.fromkeys(names, 0)
    for entry in checkpoint.history:
        for name in entry["sites"]:
            taken[name] += 1
    empty = Traffic()
    return tuple(
        SiteFacts(
            name=name,
            train_patients_nominal=None,
            rounds_taken=taken[name],
            messages_sent=traffic.get(name, empty).messages_received,
            bytes_sent=traffic.get(name, empty).bytes_received,
            bytes_received=traffic.get(name, empty).bytes_sent,
        )
        for name in names
    )
