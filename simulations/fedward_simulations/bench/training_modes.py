"""The ways to train that ``bench training`` compares; its workload is described there."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import (
    GradSampleModule,
    GradSampleModuleExpandedWeights,
    GradSampleModuleFastGradientClipping,
)
from torch import Tensor, nn

from fedward_client.training.augmentation import Augmentation, draw
from fedward_client.training.bookkeeping import BookKeeping
from fedward_client.training.runtime import RuntimeOptions
from fedward_common.errors import MisuseError
from fedward_common.models.losses import per_image_loss
from fedward_common.models.networks import build
from fedward_common.models.parameters import initial_parameters, load_flat
from fedward_common.models.spec import ModelSpec
from fedward_common.randomness import os_random

# Images need no gradient, which torch finds worth a warning.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients")

CLIP = 1.0

Step = Callable[[Tensor, Tensor], Tensor]
"""(views (rows * copies, 1, side, side), labels) of one pass -> the sum of gradients, (d,)."""


@dataclass(frozen=True)
class Case:
    """What every mode computes alike."""

    side: int
    copies: int

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        return ModelSpec(kind="cnn", input_shape=(1, self.side, self.side))

    @property
    def augmentation(self) -> Augmentation:
        """The views; one view an image is the image itself."""
        if self.copies == 1:
            return Augmentation()
        return Augmentation(
            copies=self.copies, shift=0.1, rotation=10, zoom=0.1, flip=True, intensity=0.1
        )

    @property
    def rows(self) -> int:
        """Images in one pass."""
        return max(1, RuntimeOptions().views_per_pass(self.side**2) // self.copies)


@dataclass(frozen=True)
class Pass:
    """The images of one pass: float32 (rows, 1, side, side), labels and draws of their views."""

    images: Tensor
    labels: Tensor
    draws: Tensor


def plain(case: Case, memory_format: torch.memory_format = torch.contiguous_format) -> Step:
    """Gradients of the summed loss, as training without privacy computes them."""
    network = _network(case).to(memory_format=memory_format)  # type: ignore[call-overload]
    loss = per_image_loss(case.spec)

    def step(shown: Tensor, labels: Tensor) -> Tensor:
        network.zero_grad(set_to_none=True)
        shown = shown.contiguous(memory_format=memory_format)
        torch.autograd.backward(loss(network(shown), labels).sum() / case.copies)
        return torch.cat([_known(value.grad).flatten() for value in network.parameters()])

    return step


def fedward(case: Case) -> Step:
    """Our engine."""
    engine = BookKeeping(_network(case), per_image_loss(case.spec))
    return lambda shown, labels: engine.gradients(shown, labels, case.copies).clipped_sum(CLIP)


def opacus(case: Case) -> Step:
    """Opacus' hooks."""
    return _per_sample(case, GradSampleModule(_network(case), loss_reduction="sum"))


def opacus_ew(case: Case) -> Step:
    """Opacus through torch's expanded weights."""
    module = GradSampleModuleExpandedWeights(_network(case), loss_reduction="sum")
    return _per_sample(case, module)


def opacus_ghost(case: Case) -> Step:
    """Opacus' fast gradient clipping: norms from one backward pass, the sum from a second."""
    module = GradSampleModuleFastGradientClipping(
        _network(case), loss_reduction="sum", max_grad_norm=CLIP, use_ghost_clipping=True
    )
    loss = per_image_loss(case.spec)

    def step(shown: Tensor, labels: Tensor) -> Tensor:
        losses = loss(module(shown), labels)
        torch.autograd.backward(losses.sum(), retain_graph=True)
        module.zero_grad(set_to_none=True)
        factors = module.get_clipping_coef()
        module.disable_hooks()
        torch.autograd.backward((factors * losses).sum())
        module.enable_hooks()
        summed = torch.cat([_known(value.grad).flatten() for value in module.parameters()])
        module.zero_grad(set_to_none=True)
        return summed

    return step


def _per_sample(case: Case, module: nn.Module) -> Step:
    """Clip and sum materialised gradients as Opacus' DPOptimizer does."""
    loss = per_image_loss(case.spec)

    def step(shown: Tensor, labels: Tensor) -> Tensor:
        module.zero_grad(set_to_none=True)
        for value in module.parameters():
            value.grad_sample = None  # type: ignore[attr-defined]
        torch.autograd.backward(loss(module(shown), labels).sum() / case.copies)
        every = [_per_image(value.grad_sample, case) for value in module.parameters()]  # type: ignore[attr-defined]
        norms = torch.stack([part.flatten(1).norm(2, dim=-1) for part in every], dim=1).norm(2, 1)
        factors = (CLIP / (norms + 1e-6)).clamp(max=1.0)
        return torch.cat([torch.einsum("i,i...", factors, part).flatten() for part in every])

    return step


MODES: Mapping[str, Callable[[Case], Step]] = {
    "plain": plain,
    "plain-last": functools.partial(plain, memory_format=torch.channels_last),
    "fedward": fedward,
    "opacus": opacus,
    "opacus-ew": opacus_ew,
    "opacus-ghost": opacus_ghost,
}


def parameters_of(case: Case) -> NDArray[np.float64]:
    """The model's public starting point, (d,)."""
    return initial_parameters(case.spec, 0)


def make_pass(case: Case) -> Pass:
    """Random images and labels; the draws of their views."""
    shape = (case.rows, 1, case.side, case.side)
    bytes_ = np.frombuffer(os_random(math.prod(shape)), dtype=np.uint8).reshape(shape)
    labels = np.frombuffer(os_random(case.rows), dtype=np.uint8) % 2
    draws = draw(case.rows * case.copies, os_random)
    return Pass(
        torch.from_numpy(bytes_.astype(np.float32) / 255),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(draws),
    )


def _network(case: Case) -> nn.Module:
    network = build(case.spec)
    load_flat(network, parameters_of(case))
    return network.train()


def _known(gradient: Tensor | None) -> Tensor:
    """A parameter's gradient after a backward pass."""
    if gradient is None:
        raise MisuseError("a parameter has no gradient")
    return gradient


def _per_image(samples: Tensor, case: Case) -> Tensor:
    """Gradients of views (rows * copies, ...) as those of images (rows, ...)."""
    if case.copies == 1:
        return samples
    return samples.view(case.rows, case.copies, *samples.shape[1:]).sum(dim=1)
