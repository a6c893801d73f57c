"""What one pass through a model yields: each image's gradient, per parameter, summed on demand.

Norms and sums of gradients need no gradients: a block answers from what backpropagation left
(Lee and Kifer 2021, "Scaling up differentially private deep learning with fast per-example
gradient clipping"; Bu et al. 2023, "Differentially private optimization on large model at small
cost"). All arithmetic here is float64 on float32 factors (PROTOCOL B3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor


class Block(Protocol):
    """The gradients of R images with respect to one parameter of m entries."""

    def squared_norms(self) -> Tensor:
        """Return float64 (R,)."""

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the sum of ``factors``, float64 (R,), times the gradients: float64 (m,)."""

    def vectors(self) -> Tensor:
        """Return the gradients themselves, float64 (R, m)."""

    def first(self, count: int) -> Self:
        """Return the block of the first ``count`` images."""


@dataclass(frozen=True, slots=True)
class Dense:
    """Gradients as they are: (R, ...) of any precision, contiguous.

    ``order`` holds the axes after the first in the order that the parameter has them, where
    memory has another. Rearranging one sum costs less than rearranging every gradient.
    """

    values: Tensor
    order: tuple[int, ...] = ()

    def squared_norms(self) -> Tensor:
        """See :class:`Block`."""
        return _norms(self._exact()).square()

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """See :class:`Block`."""
        return self._ordered(torch.mv(self._exact().T, factors)[None])[0]

    def vectors(self) -> Tensor:
        """See :class:`Block`."""
        return self._ordered(self._exact())

    def first(self, count: int) -> Dense:
        """See :class:`Block`."""
        return Dense(self.values[:count], self.order)

    def _exact(self) -> Tensor:
        """Float64 (R, m), converted each time: to keep it would cost more than to convert it."""
        return self.values.flatten(1).to(torch.float64)

    def _ordered(self, vectors: Tensor) -> Tensor:
        """(V, m) in memory's order to (V, m) in the parameter's."""
        if not self.order:
            return vectors
        shaped = vectors.view(len(vectors), *self.values.shape[1:])
        return shaped.permute(0, *self.order).flatten(1)


@dataclass(frozen=True, slots=True)
class Outer:
    """Gradients that are outer products, float64 (R, a) and (R, b), m = a b: never multiplied out.

    A linear layer's weights have them. The norm is the product of the norms.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> Outer:
        """Take factors of any precision."""
        return cls(left.to(torch.float64), right.to(torch.float64))

    def squared_norms(self) -> Tensor:
        """See :class:`Block`."""
        return (_norms(self.left) * _norms(self.right)).square()

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """See :class:`Block`."""
        return torch.mm((self.left * factors[:, None]).T, self.right).flatten()

    def vectors(self) -> Tensor:
        """See :class:`Block`."""
        return (self.left[:, :, None] * self.right[:, None, :]).flatten(1)

    def first(self, count: int) -> Outer:
        """See :class:`Block`."""
        return Outer(self.left[:count], self.right[:count])


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradients of R images with respect to all d parameters, one block each in flat order."""

    blocks: Sequence[Block]

    def norms(self) -> Tensor:
        """Return float64 (R,); finite exactly if every entry is."""
        return torch.stack([block.squared_norms() for block in self.blocks]).sum(dim=0).sqrt()

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the sum over images of factor times gradient, float64 (d,)."""
        return torch.cat([block.weighted_sum(factors) for block in self.blocks])

    def vectors(self) -> Tensor:
        """Return float64 (R, d)."""
        return torch.cat([block.vectors() for block in self.blocks], dim=1)

    def clipped_sum(self, clip: float) -> Tensor:
        """Return the sum of the gradients, each scaled to norm at most ``clip``: float64 (d,).

        Entries that are not finite become zero first (B1), whatever that costs in time.
        """
        gradients, norms = self, self.norms()
        if not torch.isfinite(norms).all():
            finite = torch.nan_to_num(self.vectors(), nan=0.0, posinf=0.0, neginf=0.0)
            gradients = Gradients([Dense(finite)])
            norms = gradients.norms()
        return gradients.weighted_sum(torch.clamp(clip / norms, max=1.0))

    def first(self, count: int) -> Gradients:
        """Return the gradients of the first ``count`` images."""
        return Gradients([block.first(count) for block in self.blocks])


def _norms(vectors: Tensor) -> Tensor:
    """Euclidean norms of the rows."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return norms
