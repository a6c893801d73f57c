"""Gabor functions as public first filters: what early vision and trained networks converge to.

Gabor 1946, "Theory of communication"; Daugman 1985, "Uncertainty relation for resolution in
space, spatial frequency, and orientation". Handcrafted first layers spare private training what
it can least afford, finding edges under noise (Tramer and Boneh 2021, "Differentially private
learning needs better features"). No image of any patient was used (B2).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ENVELOPE = 0.25
"""Standard deviation of the Gaussian envelope, as a share of the filter's side."""

GRID = 2.0**-24
"""Values are rounded to multiples of this, so that libraries of mathematics whose last bits
differ give the same filters, and plans pin the same digest."""


def gabor_filters(count: int, channels: int, side: int) -> NDArray[np.float64]:
    """Return ``count`` filters as a convolution's weights, float64 (count, channels, side, side).

    The first half are even (cosine), the second half odd (sine), each half at ``count // 2``
    orientations over half a turn, one wave long. Every filter sums to zero and has norm one, which
    is the expected norm of the random start; image channels share it equally.
    """
    axis = np.arange(side) - (side - 1) / 2
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    envelope = np.exp(-(rows**2 + columns**2) / (2 * (ENVELOPE * side) ** 2))
    orientations = count // 2
    filters = np.empty((count, channels, side, side))
    for index in range(count):
        angle = math.pi * (index % orientations) / orientations
        phase = 0.0 if index < orientations else math.pi / 2
        along = columns * math.cos(angle) + rows * math.sin(angle)
        wave = envelope * np.cos(2 * math.pi * along / side + phase)
        wave -= wave.mean()
        filters[index] = wave / np.linalg.norm(wave) / math.sqrt(channels)
    rounded: NDArray[np.float64] = np.round(filters / GRID) * GRID
    return rounded
