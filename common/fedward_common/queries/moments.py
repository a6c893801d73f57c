"""First and second moments per channel (images) or column (features and tables).

Inputs are bounded to [-1, 1] before they are used, so that one patient's vector has norm at most
``sqrt(2 m)`` for m channels or columns: a public constant, not a clip that could bite.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MINIMUM_SCALE = 1e-3
"""Smallest standard deviation reported: noise may leave a variance at or below zero."""


def dimension(channels: int) -> int:
    """A mean and a mean square for each channel or column."""
    return 2 * channels


def clip(channels: int) -> float:
    """Largest L2 norm that a patient's vector can have."""
    return math.sqrt(2.0 * channels)


def vector(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """One patient's vector: the mean over images of (mean, mean square) per channel.

    Args:
        inputs: ``(images, channels, ...)`` float32.

    Returns:
        ``(2 * channels,)`` float64 with norm at most :func:`clip`.
    """
    values = np.clip(np.nan_to_num(inputs.astype(np.float64)), -1.0, 1.0)
    rest = tuple(axis for axis in range(values.ndim) if axis != 1)
    return np.concatenate([values.mean(axis=rest), np.square(values).mean(axis=rest)])


def interpret(
    total: NDArray[np.float64], divisor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per channel from the noised sum, each ``(channels,)``."""
    channels = len(total) // 2
    mean = np.clip(total[:channels] / divisor, -1.0, 1.0)
    square = total[channels:] / divisor
    deviation = np.sqrt(np.maximum(square - np.square(mean), 0.0))
    return mean, np.maximum(deviation, MINIMUM_SCALE)
