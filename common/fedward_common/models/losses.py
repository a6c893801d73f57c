"""The loss of one image or table row, which training differentiates per patient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fedward_common.models.spec import ModelSpec

PerImageLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs float32 (N, outputs), labels int64 (N,)) -> float32 (N,)."""


def per_image_loss(spec: ModelSpec) -> PerImageLoss:
    """Return the loss of each input on its own; the caller sums, it never averages over inputs.

    Networks: cross-entropy. svm: the hinge, one-vs-rest or that of Crammer and Singer (2001).
    """
    if spec.kind != "svm":
        return _binary_entropy if spec.outputs == 1 else _entropy
    if spec.outputs == 1:
        return _binary_hinge
    return _crammer_singer if spec.multiclass == "crammer-singer" else _one_vs_rest


def _binary_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(
        outputs[:, 0], labels.to(outputs.dtype), reduction="none"
    )


def _entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


def _binary_hinge(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.relu(1 - (2 * labels - 1) * outputs[:, 0])


def _one_vs_rest(outputs: Tensor, labels: Tensor) -> Tensor:
    signs = 2 * functional.one_hot(labels, outputs.shape[1]) - 1
    return functional.relu(1 - signs * outputs).sum(dim=1)


def _crammer_singer(outputs: Tensor, labels: Tensor) -> Tensor:
    own = functional.one_hot(labels, outputs.shape[1])
    target = (outputs * own).sum(dim=1)
    rivals = outputs + 1 - own
    return torch.amax(rivals, dim=1) - target
