"""Every image's gradient by Opacus' per-sample machinery: for layers that we have no rule for."""

from __future__ import annotations

import warnings

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from fedward_client.training.blocks import Dense, Gradients
from fedward_common.models.losses import PerImageLoss

# Images are data, not parameters: they need no gradient, which torch finds worth a warning.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients")


class PerSample:
    """A network at fixed parameters that maps images to their gradients.

    Args:
        network: Any that treats every row alone. It is taken over: it gets hooks.
        loss: Of each row on its own.
        functorch: Differentiate by vmap instead of by Opacus' rule for each layer.
    """

    def __init__(self, network: nn.Module, loss: PerImageLoss, *, functorch: bool) -> None:
        self._loss = loss
        self._module = GradSampleModule(network, loss_reduction="sum", force_functorch=functorch)

    def gradients(self, inputs: Tensor, labels: Tensor, views: int) -> Gradients:
        """See :class:`fedward_client.training.engines.GradientEngine`."""
        for parameter in self._module.parameters():
            parameter.grad_sample = None
            parameter.grad = None
        torch.autograd.backward(self._loss(self._module(inputs), labels).sum())
        return Gradients(
            [
                Dense(parameter.grad_sample.unflatten(0, (-1, views)).mean(dim=1))
                for parameter in self._module.parameters()
            ]
        )
