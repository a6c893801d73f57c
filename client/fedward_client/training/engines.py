"""Which engine computes the gradients of a batch: ours where it knows the network's layers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedward_client.training.blocks import Gradients
from fedward_client.training.bookkeeping import BookKeeping, knows
from fedward_client.training.runtime import Engine, RuntimeOptions
from fedward_common.models.losses import PerImageLoss, per_image_loss
from fedward_common.models.networks import build
from fedward_common.models.parameters import load_flat
from fedward_common.models.spec import ModelSpec


class GradientEngine(Protocol):
    """A network at fixed parameters that maps images to their gradients."""

    def gradients(self, inputs: Tensor, labels: Tensor, views: int) -> Gradients:
        """Return each image's gradient, the mean over its ``views`` consecutive rows.

        Args:
            inputs: float32 (R * views, *shape).
            labels: int64 (R * views,).
            views: Rows per image.
        """


def open_engine(
    spec: ModelSpec, parameters: NDArray[np.float64], runtime: RuntimeOptions
) -> GradientEngine:
    """Return the engine for a model at the flat ``parameters`` on the device of ``runtime``."""
    with torch.device("meta"):  # no initial values, which would be drawn in vain
        network = build(spec)
    network.to_empty(device=runtime.torch_device)
    load_flat(network, parameters)
    return engine_for(network, per_image_loss(spec), runtime.engine)


def engine_for(network: nn.Module, loss: PerImageLoss, engine: Engine) -> GradientEngine:
    """Return ``engine`` for a network, which it takes over; Opacus where ours knows it not."""
    if engine == "fedward" and knows(network):
        return BookKeeping(network, loss)
    from fedward_client.training.per_sample import PerSample  # noqa: PLC0415  (a slow import)

    return PerSample(network, loss, functorch=engine == "opacus-functorch")
