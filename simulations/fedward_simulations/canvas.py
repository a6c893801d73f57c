"""What the phantom is drawn with: coordinates, soft shapes, smooth noise, one batch at a time.

Coordinates: x from -1 (image left, the patient's right) to 1, y from -1 (top) to 1. A field is
float32 (N, n, n), one value per pixel; a trait is float32 (N, 1, 1), one value per patient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[Any]  # float32 (N, n, n), or a broadcast of it
Trait = NDArray[Any]  # float32 (N, 1, 1)


class Canvas:
    """N patients on an n x n grid, each placed and turned a little differently."""

    def __init__(self, count: int, n: int, rng: np.random.Generator) -> None:
        self._count = count
        self._n = n
        self._rng = rng
        axis = (np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1
        angle, zoom = self.vary(0, 0.035), self.vary(1, 0.05)
        x = (axis[None, None, :] - self.vary(0, 0.04)) / zoom
        y = (axis[None, :, None] - self.vary(0, 0.05)) / zoom
        self.x: Field = x * np.cos(angle) + y * np.sin(angle)
        self.y: Field = y * np.cos(angle) - x * np.sin(angle)

    def vary(self, mean: float, deviation: float) -> Trait:
        """A normal trait, cut off at 2.5 deviations."""
        draws = self._rng.standard_normal((self._count, 1, 1), dtype=np.float32)
        return mean + deviation * np.clip(draws, -2.5, 2.5)

    def between(self, low: float, high: float) -> Trait:
        """A uniform trait."""
        return low + (high - low) * self._rng.random((self._count, 1, 1), dtype=np.float32)

    def chance(self, probability: float) -> Trait:
        """1 with the given probability, else 0."""
        return (self.between(0, 1) < probability).astype(np.float32)

    def side(self) -> Trait:
        """-1 or 1."""
        return 2 * self.chance(0.5) - 1

    def zeros(self) -> Field:
        """An empty field."""
        return np.zeros_like(self.x)

    def clouds(self, cells: int) -> Field:
        """Smooth noise of about unit deviation: ``cells`` random values a side, interpolated."""
        values = self._rng.standard_normal((self._count, cells, cells), dtype=np.float32)
        at = np.linspace(0, cells - 1.001, self._n)
        left = at.astype(np.int64)
        part = at - left
        part = part * part * (3 - 2 * part)
        weights = np.zeros((self._n, cells), dtype=np.float32)
        weights[np.arange(self._n), left] = 1 - part
        weights[np.arange(self._n), left + 1] = part
        return 1.4 * weights @ values @ weights.T

    def hill(
        self,
        cx: Trait | float,
        cy: Trait | float,
        width: Trait | float,
        height: Trait | float,
        angle: Trait | float = 0.0,
    ) -> Field:
        """A rotated Gaussian hill of height 1; width and height are its standard deviations."""
        cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
        dx, dy = self.x - cx, self.y - cy
        along = (dx * cos + dy * sin) / width
        across = (dy * cos - dx * sin) / height
        hill: Field = np.exp(-0.5 * (along * along + across * across))
        return hill


def step(value: Field, edge: float, softness: float) -> Field:
    """A smooth step from 0 to 1 where ``value`` passes ``edge``, three ``softness`` wide."""
    ramp: Field = (value - (edge - 1.5 * softness)) * np.float32(1 / (3 * softness))
    np.clip(ramp, 0, 1, out=ramp)
    smooth: Field = ramp * ramp * (3 - 2 * ramp)
    return smooth


def stripes(phase: Field, share: float) -> Field:
    """Soft bands, one a unit of ``phase``, covering about ``share`` of it."""
    return step(np.cos(2 * np.pi * phase), float(np.cos(np.pi * share)), 0.25)
