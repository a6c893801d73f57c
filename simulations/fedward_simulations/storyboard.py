"""From what was trained to what the report tells: exact figures, curves, pictures, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from sklearn.svm import LinearSVC

from fedward_client.deidentify.outcome import Cleaned
from fedward_client.intake.add import deidentifier_of
from fedward_client.site_folder import SiteFolder, open_site
from fedward_server.report.model import RunReport
from fedward_simulations.comparison import Job
from fedward_simulations.exact import accuracy, auc, exact_metrics, roc
from fedward_simulations.hospitals import example_instances
from fedward_simulations.material import Material
from fedward_simulations.pictures import before_after
from fedward_simulations.report import (
    Baseline,
    BeforeAfter,
    PartitionRow,
    RocCurve,
    SimulationReport,
)
from fedward_simulations.scenario import Scenario
from fedward_simulations.sites import quarantined
from fedward_simulations.trained import Trained, predict

Scores = NDArray[np.float32]

NAMES = {
    "pooled": "Pooled, no privacy",
    "pooled_private": "Pooled DP-SGD",
    "alone": "Each site alone, same privacy",
    "local_fedavg": "Local-DP FedAvg",
    "linear_svc": "Pooled LinearSVC (scikit-learn), no privacy",
}
NOTES = {
    "pooled": "all patients in one place, no clipping, no noise",
    "pooled_private": "all patients in one place, the same noise added once",
    "alone": "mean over the sites, each with all the noise on its own patients",
    "local_fedavg": "every site adds all the noise itself; models are averaged",
    "linear_svc": "all patients in one place",
}


def simulation_report(
    scenario: Scenario,
    text: str,
    command: str,
    material: Material,
    trained: Trained,
    run: RunReport,
) -> SimulationReport:
    """Evaluate every model exactly and gather what the page shows."""
    labels = material.test_labels
    inputs = material.test_inputs(trained.study)
    ours = predict(trained.study, trained.outcome.checkpoint.progress, inputs)
    scored = {job: predict(trained.study, p, inputs) for job, p in trained.baselines.items()}
    curves = [roc("fedward", ours, labels, ours=True), *_curves(scored, labels)]
    rows = [*_baselines(scored, labels, run.privacy.epsilon), *_linear_svc(scenario, material)]
    return SimulationReport(
        run=run,
        exact=exact_metrics(ours, labels, trained.study.plan.study.classes),
        exact_on=material.test_name,
        roc=tuple(curve for curve in curves if curve is not None),
        baselines=tuple(rows),
        deidentification=tuple(_pictures(material)),
        partition=tuple(_partition(material)),
        quarantine=quarantined(material.reports),
        seeds={"scenario": scenario.seed},
        reproducible=scenario.reproducible,
        command=command,
        scenario=text,
    )


def _curves(scored: dict[Job, Scores], labels: NDArray[np.int64]) -> Iterator[RocCurve | None]:
    for job, found in scored.items():
        if job.kind != "alone":
            yield roc(NAMES[job.kind], found, labels)


def _baselines(
    scored: dict[Job, Scores], labels: NDArray[np.int64], epsilon: float
) -> Iterator[Baseline]:
    for kind in ("pooled", "pooled_private", "local_fedavg", "alone"):
        found = [scores for job, scores in scored.items() if job.kind == kind]
        if not found:
            continue
        aucs = [auc(scores, labels) for scores in found]
        yield Baseline(
            key=kind,
            name=NAMES[kind],
            auc=float(np.mean(aucs)),
            accuracy=float(np.mean([accuracy(scores, labels) for scores in found])),
            epsilon=None if kind == "pooled" else epsilon,
            note=NOTES[kind],
            auc_range=(min(aucs), max(aucs)) if len(found) > 1 else None,
        )


def _linear_svc(scenario: Scenario, material: Material) -> Iterator[Baseline]:
    """The table study's yardstick: scikit-learn's linear SVC on all patients of the sites."""
    if material.pooled is None:
        return
    features, labels, test = material.pooled
    mean, scale = features.mean(axis=0), features.std(axis=0)
    model = LinearSVC(random_state=scenario.seed).fit((features - mean) / scale, labels)
    margins = model.decision_function((test - mean) / scale)
    score = 1.0 / (1.0 + np.exp(-margins))
    found = np.stack([1.0 - score, score], axis=1).astype(np.float32)
    yield Baseline(
        key="linear_svc",
        name=NAMES["linear_svc"],
        auc=auc(found, material.test_labels),
        accuracy=accuracy(found, material.test_labels),
        epsilon=None,
        note=NOTES["linear_svc"],
    )


def _pictures(material: Material) -> Iterator[BeforeAfter]:
    """One file of each site before and after its own de-identifier."""
    if not material.hospitals:
        return
    files = example_instances(material.hospitals[0].folder.parent)
    for hospital, folder, file in zip(material.hospitals, material.folders, files, strict=True):
        with open_site(folder) as site:
            picture = _picture(hospital.name, site, file)
        if picture is not None:
            yield picture


def _picture(name: str, site: SiteFolder, file: Path) -> BeforeAfter | None:
    data = file.read_bytes()
    outcome = deidentifier_of(site).deidentify(data)
    if not isinstance(outcome, Cleaned):
        return None
    return before_after(name, dcmread(BytesIO(data)), dcmread(BytesIO(outcome.data)))


def _partition(material: Material) -> Sequence[PartitionRow]:
    return [
        PartitionRow(
            site=hospital.name,
            scanner=f"{hospital.scanner.manufacturer} {hospital.scanner.model}",
            train_patients=tuple(
                hospital.train_classes.get(label, 0)
                for label in range(max(hospital.train_classes, default=0) + 1)
            ),
            holdout_patients=hospital.holdout_patients,
            images=hospital.images,
        )
        for hospital in material.hospitals
    ]
