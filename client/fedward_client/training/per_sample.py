"""The gradient of each input on its own, by Opacus' per-sample machinery."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor

from fedward_client.training.runtime import Engine
from fedward_common.models.losses import per_image_loss
from fedward_common.models.networks import build
from fedward_common.models.parameters import load_flat
from fedward_common.models.spec import ModelSpec

# Images are data, not parameters: they need no gradient, which torch finds worth a warning.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients")


class PerSample:
    """A model at fixed parameters that maps inputs to per-input gradients."""

    def __init__(
        self, spec: ModelSpec, parameters: NDArray[np.float64], *, device: str, engine: Engine
    ) -> None:
        network = build(spec)
        load_flat(network, parameters)
        self._loss = per_image_loss(spec)
        self._module = GradSampleModule(
            network.to(device).train(),
            loss_reduction="sum",
            force_functorch=engine == "opacus-functorch",
        )

    def gradients(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return float32 (N, d) in flat order for inputs (N, *shape), labels int64 (N,)."""
        for parameter in self._module.parameters():
            parameter.grad_sample = None
            parameter.grad = None
        torch.autograd.backward(self._loss(self._module(inputs), labels).sum())
        return torch.cat(
            [parameter.grad_sample.flatten(1) for parameter in self._module.parameters()], dim=1
        )
