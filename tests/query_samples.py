"""Studies and cohorts for tests of what one patient can change."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.world import example_roster, table_document

from fedward_common.progress import Progress, advance, begin
from fedward_common.randomness import RandomBytes
from fedward_common.study import Study
from fedward_server.planning import Target, draft_plan
from fedward_simulations.randomness import SeededStream

TARGET = Target(epsilon=8.0, patients_per_site=60)
SIZE = 28
COLUMNS = 5
COMPONENTS = 3


@dataclass(frozen=True)
class ArrayCohort:
    """Patients in memory: (inputs float32 (m, ...), label) each."""

    patients: Sequence[tuple[NDArray[np.float32], int]]

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.array([label for _, label in self.patients], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.patients)

    def patient(self, index: int) -> tuple[NDArray[np.float32], int]:
        return self.patients[index]

    def plus(self, inputs: NDArray[np.float32], label: int) -> ArrayCohort:
        """One patient more, last in order: the others' random draws stay as they are."""
        return ArrayCohort([*self.patients, (inputs, label)])


def queries(rate: float, clip: float, augmentation: dict[str, Any]) -> list[dict[str, Any]]:
    gradient = {"kind": "gradient", "rounds": 4, "sampling_rate": rate, "clip": clip}
    return [
        {"kind": "count", "noise_multiplier": 5.0},
        {"kind": "moments", "noise_multiplier": 5.0},
        {**gradient, "noise_multiplier": 5.0, "augmentation": augmentation},
        {"kind": "histogram", "noise_multiplier": 5.0, "bins": 8},
    ]


def local(gradient: dict[str, Any], steps: int) -> dict[str, Any]:
    """A gradient query as local training instead."""
    extra = {"local_steps": steps, "local_learning_rate": 0.5, "update_clip": 0.7}
    return {**gradient, **extra, "kind": "fedavg"}


@functools.cache
def study_of(name: str, rate: float = 1.0) -> Study:
    """``svm`` on a table, or an image model ``cnn`` / ``cnn-4`` (four classes, two images).

    ``-local`` trains in rounds of two local steps, ``-pca`` on three principal components.
    """
    classes = ["a", "b", "c", "d"] if name.endswith("-4") else ["a", "b"]
    if name.startswith("svm"):
        columns = [{"name": f"c{n}", "lower": 0.0, "upper": 1.0} for n in range(COLUMNS)]
        changes: dict[str, Any] = {
            "cohort": {"source": "table", "columns": columns},
            "model": {"kind": "svm", "features": "columns"},
            "queries": queries(rate, 0.5, {}),
        }
    else:
        changes = {
            "cohort": {"images_per_patient": 3},
            "preprocess": {"size": SIZE},
            "model": {"kind": "cnn", "width": 8},
            "queries": queries(rate, 0.1, {"copies": 2, "shift": 0.1, "rotation": 10.0}),
        }
    asked = changes["queries"]
    if name.endswith("-local"):
        asked[2] = local(asked[2], steps=2)
    if name.endswith("-pca"):
        covariance = {"kind": "covariance", "clip": 2.0, "components": COMPONENTS}
        asked.insert(2, {**covariance, "noise_multiplier": 5.0})
    study = {"name": "sample", "id": "00" * 16, "classes": classes}
    document = table_document(example_roster(), study=study, **changes)
    return Study(draft_plan(document, TARGET, "sample"))


def shape_of(study: Study) -> tuple[int, ...]:
    return study.input_spec.input_shape


def cohort_of(study: Study, seed: int, patients: int = 12) -> ArrayCohort:
    rng = np.random.default_rng(seed)
    most = study.plan.cohort.images_per_patient + 1 if study.input_spec.is_image else 1
    return ArrayCohort(
        [
            (
                rng.random((int(rng.integers(1, most + 1)), *shape_of(study)), dtype=np.float32),
                int(rng.integers(study.spec.classes)),
            )
            for _ in range(patients)
        ]
    )


def first_progress(study: Study) -> Progress:
    return begin(study)


def progress_before(study: Study, kind: str, seed: int = 0) -> Progress:
    """The state in which a query of this kind is asked, after sums as they may be."""
    rng, progress = np.random.default_rng(seed), begin(study)
    while (task := study.at(progress.position)[0]).query.kind != kind:
        progress = advance(study, progress, rng.normal(30.0, 5.0, task.dimension))
    return progress


def stream(seed: int, label: str = "batch") -> RandomBytes:
    return SeededStream(seed, label)
