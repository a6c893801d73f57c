"""What a simulation has trained, and how its models are applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward_common.models.prediction import scores
from fedward_common.progress import Progress
from fedward_common.study import Study
from fedward_simulations.comparison import Job
from fedward_simulations.federation import Outcome


@dataclass(frozen=True)
class Trained:
    """Everything that was trained, ready to be evaluated and told."""

    study: Study
    outcome: Outcome
    baselines: Mapping[Job, Progress]
    aucs: Mapping[int, float]


def predict(study: Study, progress: Progress, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class scores (N, classes) of the averaged model."""
    seen = progress.model_inputs(inputs)
    return scores(study.spec, progress.state.average, seen, progress.standardisation)
