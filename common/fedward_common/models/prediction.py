"""Standardisation before a model, and the scores after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedward_common.errors import MisuseError
from fedward_common.models.networks import build
from fedward_common.models.parameters import load_flat
from fedward_common.models.spec import ModelSpec

SVM_SLOPE = 3.0
"""Squashing of a margin: margin 1 scores 0.95, margin 0 (the boundary) scores 0.5."""

CHUNK = 64
"""Inputs scored at a time, in one fixed shape: a score must not depend on who else is scored."""


@dataclass(frozen=True, slots=True)
class Standardisation:
    """(x - mean) / scale, one pair per image channel or feature column.

    The constants are public: from the plan, or from a noised moments query. ``mean`` and
    ``scale`` are float64 (m,); m = 1 applies one pair to everything.

    Raises:
        MisuseError: Shapes differ, or a scale is not positive and finite.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.scale.shape:
            raise MisuseError("standardisation needs two vectors of one length")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scale).all()):
            raise MisuseError("standardisation constants must be finite")
        if not (self.scale > 0).all():
            raise MisuseError("standardisation scales must be positive")

    def apply(self, inputs: Tensor) -> Tensor:
        """Return float32 (N, m, ...) standardised along axis 1."""
        shape = (1, -1) + (1,) * (inputs.ndim - 2)
        mean = torch.from_numpy(self.mean).to(inputs).view(shape)
        scale = torch.from_numpy(self.scale).to(inputs).view(shape)
        return (inputs - mean) / scale


def identity_standardisation() -> Standardisation:
    """Return the standardisation that changes nothing."""
    return Standardisation(np.zeros(1), np.ones(1))


def outputs(
    spec: ModelSpec,
    parameters: NDArray[np.float64],
    inputs: NDArray[np.float32],
    standardisation: Standardisation,
) -> NDArray[np.float32]:
    """Return the model's raw outputs, float32 (N, spec.outputs): logits or margins.

    Args:
        spec: The model.
        parameters: float64 (d,).
        inputs: float32 (N, *model input): images, or feature vectors from
            :func:`fedward_common.models.features.feature_map`.
        standardisation: Applied first.
    """
    module = _loaded(spec, parameters)
    return _in_chunks(lambda chunk: module(standardisation.apply(chunk)), inputs)


def scores(
    spec: ModelSpec,
    parameters: NDArray[np.float64],
    inputs: NDArray[np.float32],
    standardisation: Standardisation | None = None,
) -> NDArray[np.float32]:
    """Return a probability per class, float32 (N, classes), rows summing to one.

    Networks: sigmoid or softmax of the logits. svm: the same of the scaled margins, a monotone
    squashing and no calibrated probability. With two classes 0.5 is the decision boundary.
    Arguments as for :func:`outputs`; no inputs give an empty (0, classes) array.
    """
    chosen = standardisation if standardisation is not None else identity_standardisation()
    if len(inputs) == 0:
        return np.zeros((0, spec.classes), dtype=np.float32)
    module = _loaded(spec, parameters)
    return _in_chunks(lambda chunk: _squashed(spec, module(chosen.apply(chunk))), inputs)


def _loaded(spec: ModelSpec, parameters: NDArray[np.float64]) -> nn.Module:
    module = build(spec)
    load_flat(module, parameters)
    return module.eval()


def _squashed(spec: ModelSpec, raw: Tensor) -> Tensor:
    """Raw outputs (N, outputs) as scores (N, classes)."""
    if spec.kind == "svm":
        raw = raw * SVM_SLOPE
    if spec.outputs == 1:
        positive = torch.sigmoid(raw)
        return torch.cat([1 - positive, positive], dim=1)
    return torch.softmax(raw, dim=1)


def _in_chunks(
    function: Callable[[Tensor], Tensor], inputs: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Apply ``function`` to zero-padded chunks of one fixed shape, and cut the padding off.

    Vectorised kernels treat the last few elements of an array differently: without a fixed shape,
    one patient's presence would move another's score by a rounding error, and so across a bin.
    """
    padded = np.zeros((-(-len(inputs) // CHUNK) * CHUNK, *inputs.shape[1:]), dtype=np.float32)
    padded[: len(inputs)] = inputs
    with torch.no_grad():
        parts = [function(chunk) for chunk in torch.split(torch.from_numpy(padded), CHUNK)]
    result: NDArray[np.float32] = torch.cat(parts)[: len(inputs)].numpy()
    return result
