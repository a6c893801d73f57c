"""Every image's gradient from one backward pass that keeps books at each layer.

Bu et al. 2023, "Differentially private optimization on large model at small cost" (book-keeping):
activations and what flows back suffice for the norms and for the clipped sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fedward_client.training.blocks import Block, Gradients
from fedward_client.training.layers import RULES, Kept, Rule
from fedward_common.errors import MisuseError
from fedward_common.models.losses import PerImageLoss


def knows(network: nn.Module) -> bool:
    """Whether every layer with parameters or buffers of its own has a rule, and shares none."""
    parameters = 0
    for _, module in network.named_modules(remove_duplicate=False):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own and _rule(module) is None:
            return False
        parameters += len(own)
    return parameters == len(list(network.parameters()))


class BookKeeping:
    """A network at fixed parameters that maps images to their gradients.

    Args:
        network: It must satisfy :func:`knows` and use each layer once. It is taken over: its
            layers are replaced.
        loss: Of each row on its own.
    """

    def __init__(self, network: nn.Module, loss: PerImageLoss) -> None:
        self._loss = loss
        self._network = nn.Sequential(network.requires_grad_(requires_grad=False))
        self._layers = list(_keep_books(self._network))

    def gradients(self, inputs: Tensor, labels: Tensor, views: int) -> Gradients:
        """See :class:`fedward_client.training.engines.GradientEngine`."""
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        for layer in self._layers:
            layer.open(views)
        losses = self._loss(self._network(inputs), labels)
        torch.autograd.backward(losses.sum() / views)
        return Gradients([block for layer in self._layers for block in layer.close()])


class _Layer(nn.Module):
    """A layer that a rule computes, with the book that one pass leaves."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._rule = rule
        self._views = 1
        self._book: list[Block] | None = None
        # Reaches backpropagation to the first layer, although images need no gradient.
        self._anchor = torch.zeros((), requires_grad=True)

    def open(self, views: int) -> None:
        """Expect one pass in which an image has ``views`` rows."""
        self._views, self._book = views, None

    def close(self) -> list[Block]:
        """Return what the pass left and forget it."""
        book, self._book = self._book, None
        if book is None:
            raise MisuseError("a layer of the model does not reach its output")
        return book

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute what the replaced module computes."""
        outputs: Tensor = _Entry.apply(inputs, self._anchor, self)  # type: ignore[no-untyped-call]
        return outputs

    def compute(self, inputs: Tensor) -> tuple[Tensor, Kept]:
        """Return the output and what :meth:`enter` needs."""
        return self._rule.forward(inputs)

    def enter(self, kept: Kept, upstream: Tensor, *, onward: bool) -> Tensor | None:
        """Enter the gradients into the book; return that of the inputs if wanted."""
        if self._book is not None:
            raise MisuseError("a layer is used twice in one pass, which book-keeping cannot train")
        inputs, self._book = self._rule.backward(kept, upstream, self._views, onward=onward)
        return inputs


class _Entry(torch.autograd.Function):
    """Where autograd meets a layer's book."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, _anchor: Tensor, layer: _Layer) -> Tensor:
        outputs, kept = layer.compute(inputs)
        ctx.layer, ctx.kept = layer, kept
        return outputs

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None]:
        kept, ctx.kept = ctx.kept, None  # autograd would hold it until the pass has ended
        onward: bool = ctx.needs_input_grad[0]
        layer: _Layer = ctx.layer
        return layer.enter(kept, upstream, onward=onward), None, None


def _keep_books(network: nn.Module) -> Iterator[_Layer]:
    """Replace the layers that have rules, in place; yield them in the order of parameters."""
    for name, child in list(network.named_children()):
        rule = _rule(child)
        if rule is None:
            yield from _keep_books(child)
        else:
            layer = _Layer(rule)
            setattr(network, name, layer)
            yield layer


def _rule(module: nn.Module) -> Rule | None:
    factory = RULES.get(type(module))
    return factory(module) if factory else None
