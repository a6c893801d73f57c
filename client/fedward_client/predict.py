"""The shared model on new images of this hospital: de-identified, preprocessed, scored, kept here.

The model's file carries its plan, which says how images are prepared and what the classes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Cleaned
from fedward_client.preprocess.pipeline import preprocess_file
from fedward_common.errors import MisuseError, OperatorError
from fedward_common.models.features import feature_map
from fedward_common.models.parameters import from_tensors
from fedward_common.models.prediction import (
    Standardisation,
    identity_standardisation,
    scores,
)
from fedward_common.plan.document import plan_from_canonical
from fedward_common.queries import covariance
from fedward_common.study import Study

PLAN = "plan"
MEAN, SCALE = "standardisation.mean", "standardisation.scale"
PROJECTION = "projection"


@dataclass(frozen=True)
class SharedModel:
    """A released model: its study, parameters float64 (d,), and what inputs go through before.

    ``projection`` maps standardised inputs to components, float64 (F, k), if the model sees those.
    """

    study: Study
    parameters: NDArray[np.float64]
    standardisation: Standardisation
    projection: NDArray[np.float64] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the scores."""
        return self.study.plan.study.classes

    def score(self, instance: bytes) -> NDArray[np.float32]:
        """Class scores (classes,) of a cleaned DICOM file: the mean over its frames."""
        images = preprocess_file(instance, self.study.plan.preprocess)
        inputs, remaining = feature_map(self.study.input_spec)(images), self.standardisation
        if self.projection is not None:
            inputs = covariance.project(inputs, remaining.mean, remaining.scale, self.projection)
            remaining = identity_standardisation()
        found = scores(self.study.spec, self.parameters, inputs, remaining)
        mean: NDArray[np.float32] = found.mean(axis=0)
        return mean


@dataclass(frozen=True)
class Prediction:
    """One file: the instance's pseudonym and its scores (classes,), or why it was refused."""

    instance: str
    scores: NDArray[np.float32] | None
    refused: str = ""


def load_model(path: Path) -> SharedModel:
    """Read a released model file.

    Raises:
        OperatorError: unreadable, not a fedward model, one of a table, or not whole.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            plan = (file.metadata() or {}).get(PLAN, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise OperatorError(f"{path}: not a readable safetensors file; check the path") from error
    try:
        study = Study(plan_from_canonical(plan.encode()))
        standardisation = Standardisation(tensors.pop(MEAN), tensors.pop(SCALE))
        projection = tensors.pop(PROJECTION) if study.spec != study.input_spec else None
        parameters = from_tensors(study.spec, tensors)
    except KeyError as error:
        raise OperatorError(f"{path}: {error} is missing; ask for the model again") from error
    except (OperatorError, MisuseError) as error:
        raise OperatorError(f"{path}: {error}; ask for the model again") from error
    if study.plan.cohort.source == "table":
        raise OperatorError(f"{path}: a model of a table; give a model of images")
    return SharedModel(study, parameters, standardisation, projection)


def predict_file(model: SharedModel, deidentifier: Deidentifier, file: Path) -> Prediction:
    """De-identify and score one DICOM file.

    Raises:
        OperatorError: the file cannot be read.
    """
    try:
        cleaned = deidentifier.deidentify(file.read_bytes())
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read; check its rights") from error
    if not isinstance(cleaned, Cleaned):
        return Prediction("", None, str(cleaned.reason))
    return Prediction(cleaned.identifiers.instance, model.score(cleaned.data))
