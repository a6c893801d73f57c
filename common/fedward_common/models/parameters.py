"""A model's parameters as one float64 vector, the form that sums, signatures and files use.

The order is the module's own (``named_parameters``), so position i means the same number at
every site and at the server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedward_common.errors import MisuseError, OperatorError
from fedward_common.models.gabor import gabor_filters
from fedward_common.models.networks import build
from fedward_common.models.spec import ModelSpec

Layout = tuple[tuple[str, tuple[int, ...]], ...]
"""Name and shape of each tensor, in the order of the flat vector."""


def layout(spec: ModelSpec) -> Layout:
    """Return the names and shapes of the model's tensors in flat order."""
    with torch.device("meta"):  # shapes only: nothing is allocated
        module = build(spec)
    return tuple((name, tuple(value.shape)) for name, value in module.named_parameters())


def parameter_count(spec: ModelSpec) -> int:
    """Return d, the length of the flat vector."""
    return sum(math.prod(shape) for _, shape in layout(spec))


def initial_parameters(spec: ModelSpec, seed: int) -> NDArray[np.float64]:
    """Return the public starting point (d,), the same on every platform.

    The first convolution of a ``cnn`` on images starts as Gabor functions. Other weights are
    uniform in +-sqrt(3 / fan-in) (LeCun 1998: variance 1 / fan-in, for tanh), norms start at one,
    biases and the svm at zero. The raw words of Philox are used directly because NumPy promises
    only those, not its distributions, to stay the same.

    Args:
        spec: The model.
        seed: Any integer in [0, 2**64); it is public and part of the plan.
    """
    if not 0 <= seed < 2**64:
        raise OperatorError(f"model.seed: {seed} is not between 0 and 2**64 - 1")
    bits = np.random.Philox(key=seed)
    parts = [_initial(spec, name, shape, bits) for name, shape in layout(spec)]
    return np.concatenate([part.ravel() for part in parts])


def _initial(
    spec: ModelSpec, name: str, shape: tuple[int, ...], bits: np.random.Philox
) -> NDArray[np.float64]:
    if name.startswith("norm") and name.endswith("weight"):
        return np.ones(shape)
    if spec.kind == "svm" or name.endswith("bias"):
        return np.zeros(shape)
    if spec.kind == "cnn" and spec.features is None and name == "conv0.weight":
        return gabor_filters(*shape[:3])
    words = np.asarray(bits.random_raw(math.prod(shape)), dtype=np.uint64)
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    bound = math.sqrt(3.0 / math.prod(shape[1:]))
    return ((2.0 * unit - 1.0) * bound).reshape(shape)


def load_flat(module: nn.Module, parameters: NDArray[np.float64]) -> None:
    """Copy the flat float64 (d,) vector into ``module``, rounded to its float32 parameters."""
    values = list(module.parameters())
    if parameters.shape != (sum(value.numel() for value in values),):
        raise MisuseError(f"{parameters.shape} parameters do not fit the model")
    flat = torch.from_numpy(np.ascontiguousarray(parameters, dtype=np.float64))
    start = 0
    with torch.no_grad():
        for value in values:
            value.copy_(flat[start : start + value.numel()].view_as(value))
            start += value.numel()


def to_tensors(spec: ModelSpec, parameters: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Split the flat vector into named float64 arrays, as a safetensors file holds them."""
    shapes = layout(spec)
    sizes = [math.prod(shape) for _, shape in shapes]
    if parameters.shape != (sum(sizes),):
        raise MisuseError(f"{parameters.shape} parameters do not fit the model")
    pieces = np.split(parameters, np.cumsum(sizes)[:-1])
    return {
        name: piece.reshape(shape).copy()
        for (name, shape), piece in zip(shapes, pieces, strict=True)
    }


def from_tensors(
    spec: ModelSpec, tensors: Mapping[str, NDArray[np.floating]]
) -> NDArray[np.float64]:
    """Join named arrays into the flat float64 (d,) vector; the inverse of :func:`to_tensors`.

    Raises:
        OperatorError: A tensor is missing, unknown, of another shape or not finite: the file
            belongs to another model.
    """
    shapes = dict(layout(spec))
    if set(tensors) != set(shapes):
        names = ", ".join(sorted(set(tensors) ^ set(shapes)))
        raise OperatorError(f"model file: tensors missing or unknown: {names}; use its own plan")
    for name, shape in shapes.items():
        if tensors[name].shape != shape or not np.isfinite(tensors[name]).all():
            raise OperatorError(f"model file: tensor {name} must be finite and of shape {shape}")
    return np.concatenate([np.asarray(tensors[name], np.float64).ravel() for name in shapes])
