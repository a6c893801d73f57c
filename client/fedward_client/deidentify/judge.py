"""The trained network of the text finder: how much a cell, and what surrounds it, looks like text.

Two stages. The first judges each cell by its own features. The second looks again at the cells of
which the first thinks anything, and at what it thought of the cells around (auto-context: Tu 2008):
letters stand in lines, so a faint one beside others is text, and a crisp blob by itself is not.
The weights are part of the package and are made by ``tests/text_finder_training.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load
from scipy import ndimage

from fedward_client.deidentify.strokes import Plane

WEIGHTS = "text_finder.safetensors"
LIMIT = 9.0
"""Log-odds are kept between -9 and 9."""

_LEAST_CONTRAST = 2.8
_SECOND_LOOK = -4.0
_AROUND = ((3, 3), (1, 7), (7, 1))
_SIDES = ((3, 2), (5, 6))
"""Width of a window of cells, and how far its middle is from the cell, on each of four sides."""

Layers = Sequence[Plane]
"""Weights and biases in turn, of as many layers; ``max(x, 0)`` between two of them."""


def evidence(features: Plane) -> Plane:
    """Log-odds of text, of shape (rows, columns), from features (rows, columns, 41) of cells."""
    low, high, *layers = _weights("a")
    odds, signs = first_look(features, (low, high), layers)
    again = open_cells(odds)
    if again.any():
        low, high, *layers = _weights("b")
        seen = np.clip(surroundings(odds, signs, again), low, high)
        odds[again] = np.clip(applied(layers, seen)[:, 0], -LIMIT, LIMIT)
    odds[~again] = -LIMIT
    return odds


def first_look(
    features: Plane, bounds: tuple[Plane, Plane], layers: Layers
) -> tuple[Plane, Plane]:
    """Return the first stage's log-odds, and the activations they come from (rows, columns, 32)."""
    shape = features.shape[:2]
    odds = np.full(shape, -LIMIT, dtype=np.float32)
    signs = np.zeros((*shape, layers[-2].shape[1]), dtype=np.float32)
    judged = features[..., 0] > _LEAST_CONTRAST
    hidden = np.maximum(applied(layers[:-2], np.clip(features[judged], *bounds)), 0)
    signs[judged] = hidden
    odds[judged] = np.clip(applied(layers[-2:], hidden)[:, 0], -LIMIT, LIMIT)
    return odds, signs


def open_cells(odds: Plane) -> NDArray[np.bool_]:
    """The cells that are looked at again: those beside one that may be text."""
    most: Plane = ndimage.maximum_filter(odds, 3, mode="nearest")
    return most > _SECOND_LOOK


def surroundings(odds: Plane, signs: Plane, chosen: NDArray[np.bool_]) -> Plane:
    """Return what the first stage saw in the chosen cells and around them, of shape (n, 145)."""
    seen = [signs[chosen]]
    for down, across in _AROUND:
        means = ndimage.uniform_filter(signs, (down, across, 1), mode="nearest")
        seen.append(means[chosen])
    rows, columns = odds.shape
    reach = max(width // 2 + away for width, away in _SIDES)
    wide = np.pad(odds, reach, mode="edge")
    planes = [
        wide[reach + y : reach + y + rows, reach + x : reach + x + columns]
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    ]
    for width, away in _SIDES:
        down, across = (ndimage.uniform_filter1d(wide, width, axis=axis) for axis in (0, 1))
        for side in (-away, away):
            planes.append(down[reach + side : reach + side + rows, reach : reach + columns])
            planes.append(across[reach : reach + rows, reach + side : reach + side + columns])
    seen += [plane[chosen][:, None] for plane in planes]
    return np.concatenate(seen, axis=1)


def applied(layers: Layers, inputs: Plane) -> Plane:
    """Return the outputs (n, of the last layer) of fully connected layers."""
    for index in range(0, len(layers), 2):
        if index:
            inputs = np.maximum(inputs, 0)
        inputs = inputs @ layers[index].T + layers[index + 1]
    return inputs


@cache
def _weights(stage: str) -> tuple[Plane, ...]:
    """Bounds of a stage's inputs, then the weights and biases of its layers."""
    path = files("fedward_client.deidentify").joinpath("data", WEIGHTS)
    stored = load(path.read_bytes())
    return tuple(stored[name] for name in sorted(stored) if name.startswith(stage))
