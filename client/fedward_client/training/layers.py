"""How each type of layer yields the gradient of every image: the table :data:`RULES`.

Activations are channels-last in memory. A convolution then is a matrix product over the windows
of its input, and an image's gradient the product of the same windows with what flows back: one
batched product for all images, no slower than the summed gradient of plain training. To add a
layer, write a :class:`Rule` and enter it into the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedward_client.training.blocks import Block, Dense, Outer

Kept = Any
"""What a rule's ``forward`` leaves for its ``backward``."""


class Rule(Protocol):
    """One layer at fixed parameters, made from its module. It treats every row alone (B1)."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Kept]:
        """Return the layer's output and what ``backward`` needs."""

    def backward(
        self, kept: Kept, upstream: Tensor, views: int, *, onward: bool
    ) -> tuple[Tensor | None, list[Block]]:
        """Return the loss' gradient in the inputs and, per parameter, that of every image.

        Args:
            kept: From ``forward``.
            upstream: The loss' gradient in the output; it may not be changed.
            views: Consecutive rows that are one image; its gradient is the sum of theirs.
            onward: Whether the gradient in the inputs is wanted; otherwise it is None.
        """


class Convolution:
    """nn.Conv2d without groups or dilation."""

    def __init__(self, module: nn.Conv2d) -> None:
        self._module = module
        # (out, kh * kw * C), the order in which a channels-last window lies in memory.
        self._matrix = module.weight.detach().permute(0, 2, 3, 1).flatten(1)
        self._windows: _Windows | None = None

    def forward(self, inputs: Tensor) -> tuple[Tensor, Kept]:
        """Keep the inputs, for their shape, and their windows."""
        if self._windows is None or self._windows.inputs != inputs.shape:
            self._windows = _Windows(self._module, inputs)
        windows = self._windows.of(inputs)
        outputs = functional.linear(windows, self._matrix, self._module.bias)
        return outputs.permute(0, 3, 1, 2), (inputs, windows)

    def backward(
        self, kept: Kept, upstream: Tensor, views: int, *, onward: bool
    ) -> tuple[Tensor | None, list[Block]]:
        """An image's gradient: what flows back times the windows, over places and views."""
        inputs, windows = kept
        out, channels, high, wide = self._module.weight.shape
        flow = _rows(upstream).view(len(upstream) // views, -1, out)
        weights = flow.transpose(1, 2) @ windows.view(*flow.shape[:2], -1)
        shaped = weights.view(-1, out, high, wide, channels)
        blocks: list[Block] = [Dense(shaped, order=(1, 4, 2, 3))]
        if self._module.bias is not None:
            blocks.append(Dense(flow.sum(dim=1)))
        return (self._downstream(inputs, upstream) if onward else None), blocks

    def _downstream(self, inputs: Tensor, upstream: Tensor) -> Tensor:
        layer = self._module
        forms = (layer.stride, layer.padding, layer.dilation)
        result: Tensor = torch.ops.aten.convolution_backward(
            upstream,
            inputs,
            layer.weight,
            None,
            *forms,
            False,  # noqa: FBT003  (not transposed; the operator takes no keywords)
            [0, 0],
            layer.groups,
            [True, False, False],
        )[0]
        return result


class GroupNormalisation:
    """nn.GroupNorm with parameters (Wu and He 2018, "Group normalization")."""

    def __init__(self, module: nn.GroupNorm) -> None:
        self._module = module
        self._weight, self._bias = module.weight.detach(), module.bias.detach()

    def forward(self, inputs: Tensor) -> tuple[Tensor, Kept]:
        """Keep the normalised inputs (N, places, C) and 1 / deviation (N, G, 1)."""
        count, channels, height, width = inputs.shape
        groups, places = self._module.num_groups, height * width
        normal, _, inverse = torch.native_group_norm(
            inputs, None, None, count, channels, places, groups, self._module.eps
        )
        kept = _rows(normal)
        outputs = torch.addcmul(self._bias, kept, self._weight)
        return _image(outputs, inputs.shape), (kept, inverse.view(count, groups, 1))

    def backward(
        self, kept: Kept, upstream: Tensor, views: int, *, onward: bool
    ) -> tuple[Tensor | None, list[Block]]:
        """Sums over the places give both the parameters' gradient and the inputs'."""
        normal, inverse = kept
        flow = _rows(upstream)
        scale, shift = (flow * normal).sum(dim=1), flow.sum(dim=1)
        blocks: list[Block] = [
            Dense(part.view(len(part) // views, views, -1).sum(dim=1)) for part in (scale, shift)
        ]
        if not onward:
            return None, blocks
        # The flow less its mean over the group and less its part along the normalised inputs.
        along, mean = (self._group_mean(part, flow, -inverse) for part in (scale, shift))
        outward = (inverse * self._weight.view(self._module.num_groups, -1)).view(*shift.shape)
        inputs = torch.addcmul(mean, normal, along).addcmul_(flow, outward[:, None])
        return _image(inputs, upstream.shape), blocks

    def _group_mean(self, sums: Tensor, flow: Tensor, times: Tensor) -> Tensor:
        """Sums over places (N, C) as a multiple of their weighted mean over groups, (N, 1, C)."""
        count, places, channels = flow.shape
        per_group = channels // self._module.num_groups
        grouped = (sums * self._weight).view(count, -1, per_group)
        mean = grouped.sum(dim=2, keepdim=True) * times / (places * per_group)
        return mean.expand(grouped.shape).reshape(count, 1, channels)


class Linear:
    """nn.Linear on vectors."""

    def __init__(self, module: nn.Linear) -> None:
        self._module = module

    def forward(self, inputs: Tensor) -> tuple[Tensor, Kept]:
        """Keep the inputs (N, F)."""
        return functional.linear(inputs, self._module.weight, self._module.bias), inputs

    def backward(
        self, kept: Kept, upstream: Tensor, views: int, *, onward: bool
    ) -> tuple[Tensor | None, list[Block]]:
        """One view an image: the gradient is an outer product and stays one."""
        flow, inputs = (part.view(-1, views, part.shape[1]) for part in (upstream, kept))
        if views == 1:
            blocks: list[Block] = [Outer.of(upstream, kept)]
        else:
            blocks = [Dense(flow.transpose(1, 2) @ inputs)]
        if self._module.bias is not None:
            blocks.append(Dense(flow.sum(dim=1)))
        return (upstream @ self._module.weight if onward else None), blocks


class AveragePooling:
    """nn.AdaptiveAvgPool2d, which has no parameters, as a product with a small matrix."""

    def __init__(self, module: nn.AdaptiveAvgPool2d) -> None:
        self._module = module

    def forward(self, inputs: Tensor) -> tuple[Tensor, Kept]:
        """Keep the inputs' shape and the matrix (places out, places in)."""
        _, channels, height, width = inputs.shape
        unit = torch.eye(height * width, dtype=inputs.dtype, device=inputs.device)
        pooled = self._module(unit.view(-1, 1, height, width))
        matrix = pooled.flatten(1).T
        shape = (len(inputs), channels, *pooled.shape[2:])
        return _image(matrix @ _rows(inputs), shape), (inputs.shape, matrix)

    def backward(
        self,
        kept: Kept,
        upstream: Tensor,
        views: int,  # noqa: ARG002  (of the signature: nothing is trained here)
        *,
        onward: bool,
    ) -> tuple[Tensor | None, list[Block]]:
        """The matrix transposed."""
        shape, matrix = kept
        return (_image(matrix.T @ _rows(upstream), shape) if onward else None), []


class _Windows:
    """The inputs below each output of a convolution, in memory that all passes share.

    Fresh memory for the largest tensors of a pass would cost as much as the products with them.
    """

    def __init__(self, module: nn.Conv2d, inputs: Tensor) -> None:
        self.inputs = inputs.shape
        high, wide = module.kernel_size
        down, right = module.stride
        above, beside = (int(side) for side in module.padding)
        count, channels, height, width = inputs.shape
        framed = inputs.new_zeros((count, height + 2 * above, width + 2 * beside, channels))
        self._inside = framed[:, above : above + height, beside : beside + width]
        image, line, place, _ = framed.stride()
        out_high = (framed.shape[1] - high) // down + 1
        out_wide = (framed.shape[2] - wide) // right + 1
        self._overlapping = framed.as_strided(
            (count, out_high, out_wide, high, wide * channels),
            (image, down * line, right * place, line, 1),
        )
        self._copies = torch.empty_like(self._overlapping, memory_format=torch.contiguous_format)

    def of(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H', W', kh * kw * C)."""
        self._inside.copy_(inputs.permute(0, 2, 3, 1))
        return self._copies.copy_(self._overlapping).flatten(3)


def _convolution(module: nn.Conv2d) -> Rule | None:
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return Convolution(module) if plain and not isinstance(module.padding, str) else None


def _group_norm(module: nn.GroupNorm) -> Rule | None:
    return GroupNormalisation(module) if module.affine else None


RULES: Mapping[type[nn.Module], Callable[[Any], Rule | None]] = {
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.Linear: Linear,
    nn.AdaptiveAvgPool2d: AveragePooling,
}
"""Type of layer -> its rule, or None for a form of the layer that the rule does not know.

Layers without parameters need none: torch differentiates them. Pooling has one for its speed.
"""


def _rows(images: Tensor) -> Tensor:
    """(N, C, H, W) -> contiguous (N, H * W, C): no copy of what is channels-last."""
    return images.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def _image(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N, H * W, C) -> channels-last (N, C, H, W) of the given shape."""
    return rows.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
