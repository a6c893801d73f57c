"""What painted text looks like in every cell of 4 x 4 pixels, at three scales.

A stroke is narrow: its pixels differ from those two or four steps away on both sides, along the row
or the column. Text has bright and dark strokes side by side, upright and level ones together, all
of one contrast, and it rises to that contrast within a pixel, which no lens, detector or
interpolation does. The features say how much of each there is around a cell, as shares of the
local contrast; so they do not depend on the image's scale of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CELL = 4
BORDER = 16
"""Pixels by which an image is continued on every side: text may touch its edge."""
LEVELS = 3
"""Scales: letters of 5 to 20 pixels are seen at the first, twice and four times that later."""
FEATURES = 41

_STEPS = (2, 4)
_WINDOWS = ((1, 1), (1, 3), (3, 1))
"""Reach of the windows around a cell, in cells, down and across."""
_LEAST = np.float32(1e-3)
_LEAST_GRAIN = 0.3

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """One scale: ``features`` (cell rows, cell columns, 41); a cell is ``unit`` pixels wide."""

    unit: int
    features: Plane


def scaled(image: NDArray[Any]) -> Plane:
    """Scale to 0..255 between the extremes of the image, and continue it by ``BORDER``."""
    low, high = int(image.min()), int(image.max())
    grey = (image - np.float32(low)) * np.float32(255 / max(high - low, 1))
    return np.pad(grey.astype(np.float32), BORDER, mode="edge")


def levels(grey: Plane) -> Iterator[Level]:
    """Yield the features of a scaled image, from the finest level to the coarsest."""
    across, down = rises(grey)
    rise = np.maximum(across, down)
    for level in range(LEVELS):
        yield Level(CELL << level, _features(grey, rise))
        grey, rise = _quarters(grey, np.add) * np.float32(0.25), _quarters(rise, np.maximum)


def rises(grey: Plane) -> tuple[Plane, Plane]:
    """How much each pixel differs from the next one in its row, and in its column."""
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    np.abs(np.diff(grey, axis=1), out=across[:, :-1])
    np.abs(np.diff(grey, axis=0), out=down[:-1])
    return across, down


def grain(grey: Plane) -> float:
    """Return the standard deviation of pixel noise (Immerkaer 1996, a median for the mean)."""
    twice = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    residual = np.abs(twice[:, :-2] - 2 * twice[:, 1:-1] + twice[:, 2:])
    return float(np.median(residual[::2, ::2])) / (0.6745 * 6.0)


def _strokes(grey: Plane) -> tuple[Plane, Plane, Plane, Plane]:
    """By how much a pixel is above, and below, both neighbours some steps away.

    Bright and dark along the row (upright strokes), bright and dark along the column (level ones).
    """
    upright_bright, upright_dark = np.zeros_like(grey), np.zeros_like(grey)
    level_bright, level_dark = np.zeros_like(grey), np.zeros_like(grey)
    _stand_out(grey.T, upright_bright.T, upright_dark.T)
    _stand_out(grey, level_bright, level_dark)
    return upright_bright, upright_dark, level_bright, level_dark


def _stand_out(grey: Plane, bright: Plane, dark: Plane) -> None:
    """Fill in what stands out along the first axis, the most of all steps."""
    for step in _STEPS:
        before, after, middle = grey[: -2 * step], grey[2 * step :], grey[step:-step]
        inner = slice(step, -step)
        np.maximum(bright[inner], middle - np.maximum(before, after), out=bright[inner])
        np.maximum(dark[inner], np.minimum(before, after) - middle, out=dark[inner])


def _features(grey: Plane, rise: Plane) -> Plane:
    upright_bright, upright_dark, level_bright, level_dark = _strokes(grey)
    across, down = rises(grey)
    bright = np.maximum(upright_bright, level_bright)
    dark = np.maximum(upright_dark, level_dark)
    peak = np.maximum(_cells(bright, np.maximum), _cells(dark, np.maximum))
    contrast = _most(peak) + _LEAST
    rise_peak = _cells(rise, np.maximum)
    means = [
        upright_bright, upright_dark, level_bright, level_dark, across, down,
        np.minimum(upright_bright, level_bright), bright * bright, dark * dark, rise * rise,
    ]  # fmt: skip
    planes = np.stack([*(_cells(plane, np.add) / CELL**2 for plane in means), rise_peak])
    found = [
        np.log2(contrast),
        np.log2(contrast / max(grain(grey), _LEAST_GRAIN)),
        _most(rise_peak) / contrast,
        _most(_cells(bright, np.maximum)) / contrast,
        _most(_cells(dark, np.maximum)) / contrast,
    ]
    for reach in _WINDOWS:
        around = _window_means(planes, *reach)
        np.sqrt(np.maximum(around[7:10], 0), out=around[7:10])
        found += list(around / contrast)
    evenness = np.minimum(peak, contrast)
    found += [
        _window_means(evenness, 0, 2) / contrast,
        _window_means(evenness, 2, 0) / contrast,
        _window_means(peak, 4, 4) / contrast,
    ]
    return np.stack(found, axis=-1).astype(np.float32)


def _cells(plane: Plane, combine: np.ufunc) -> Plane:
    """Combine the pixels of every whole cell."""
    rows, columns = (side // CELL * CELL for side in plane.shape)
    rows_done = plane[0:rows:CELL, :columns]
    for offset in range(1, CELL):
        rows_done = combine(rows_done, plane[offset:rows:CELL, :columns])
    done: Plane = rows_done[:, ::CELL]
    for offset in range(1, CELL):
        done = combine(done, rows_done[:, offset::CELL])
    return done


def _quarters(plane: Plane, combine: np.ufunc) -> Plane:
    """Combine every two by two pixels."""
    rows, columns = (side // 2 * 2 for side in plane.shape)
    halves = combine(plane[0:rows:2, :columns], plane[1:rows:2, :columns])
    quarters: Plane = combine(halves[:, ::2], halves[:, 1::2])
    return quarters


def _most(cells: Plane) -> Plane:
    """The largest of each cell and its eight neighbours."""
    most: Plane = ndimage.maximum_filter(cells, 3, mode="nearest")
    return most


def _window_means(cells: Plane, down: int, across: int) -> Plane:
    """The mean around every cell, ``down`` and ``across`` cells far, of the last two axes."""
    size = (1,) * (cells.ndim - 2) + (2 * down + 1, 2 * across + 1)
    means: Plane = ndimage.uniform_filter(cells, size, mode="nearest")
    return means
