"""Finds text that was painted into an image: names, dates, numbers, at any place and contrast.

Each cell of 4 x 4 pixels, at three scales, is judged by a small network from the stroke features of
:mod:`fedward_client.deidentify.strokes`. Cells that look like text and touch form a region; a
region with enough evidence is text. Its boxes are then fitted to its edges at full resolution and
grown until they hold every stroke that hangs together with it. The network (9,600 weights, part of
the package) was trained by ``tests/text_finder_training.py`` on text painted into images of no
patient and public ones; see ADR 0016. A side marker (one or two letters) is no text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load
from scipy import ndimage

from fedward_client.deidentify.outcome import Reason, RefusalError
from fedward_client.deidentify.strokes import BORDER, Level, Plane, grain, levels, rises, scaled
from fedward_client.deidentify.text_lines import Box, around, joined, joined_lines, sides, within

WEIGHTS = "text_finder.safetensors"

MOST_PLACES = 600
"""What shows text at more places is a page to be read, not an image. It bounds the time, too."""

_Mask = NDArray[np.bool_]

_LEAST_CONTRAST = 2.8
_GROW = -0.5
_LEAST_EVIDENCE = ((48, 3.2, 12.0), (100, 2.6, 9.0))
"""Below a shorter side: the least peak and sum of a region. Anatomy of few pixels is crisp too."""
_SEED, _EVIDENCE = 2.5, 8.0
_ENLARGED, _ENLARGED_SIDE = 1.5, 512
_LIMIT = 9.0
_TOUCHING = np.ones((3, 3), dtype=int)
_FULL_SHARE, _SMALL_TILE = 0.5, 4
_LETTER = 5
_LEAST_EDGE, _EDGE_SHARE, _EDGE_PIXELS = 5.0, 0.25, 6
_STRONG_EDGE, _STRONG_SHARE = 8.0, 1.7
_ABOVE_NOISE, _STRONG_NOISE = 3.5, 6.0
_GAP, _GAP_ALONG, _REACH_ALONG = 0.15, 0.6, 1.6
_ACROSS, _NEW_SHARE = 0.1, 0.12
_MARKER_EDGE, _MARKER_LENGTH, _MARKER_SIGNS = 0.5, 1.5, 2


def find_text(image: NDArray[Any]) -> list[Box]:
    """Return the boxes of text in a grey image of shape (rows, columns), any integer dtype.

    Raises:
        RefusalError: text at more than ``MOST_PLACES`` places.
    """
    if image.size == 0 or image.min() == image.max():
        return []
    return _search(image, *_least_evidence(image))


def find_small_text(image: NDArray[Any]) -> list[Box]:
    """The same in an enlarged copy of an image of few pixels; in a larger one, nothing.

    Letters of 8 to 11 pixels and thin faces are then as large as those the network knows best.
    """
    if image.size == 0 or image.min() == image.max() or min(image.shape) > _ENLARGED_SIDE:
        return []
    found = _search(_enlarged(image), *_least_evidence(image))
    return [_reduced(box, image.shape) for box in found]


def _least_evidence(image: NDArray[Any]) -> tuple[float, float]:
    """The least peak and sum of a region."""
    side = min(image.shape)
    small = ((peak, total) for below, peak, total in _LEAST_EVIDENCE if side < below)
    return next(small, (_SEED, _EVIDENCE))


def _enlarged(image: NDArray[Any]) -> NDArray[Any]:
    rows, columns = (round(_ENLARGED * side) for side in image.shape)
    source = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.asarray(source.resize((columns, rows), Image.Resampling.BICUBIC)).round()


def _reduced(box: Box, shape: tuple[int, ...]) -> Box:
    x0, y0, x1, y1 = (side / _ENLARGED for side in box)
    return int(x0), int(y0), min(math.ceil(x1), shape[1]), min(math.ceil(y1), shape[0])


def _search(image: NDArray[Any], peak: float, total: float) -> list[Box]:
    """Search once at every level."""
    grey = scaled(image)
    edges = _edges(grey)
    unexplained, noise = edges.copy(), grain(grey)
    boxes: list[Box] = []
    places = 0
    for level in levels(grey):
        for place in _places(level, peak, total):
            places += 1
            if places > MOST_PLACES:
                raise RefusalError(Reason.PAGE)
            box = _fitted(place, edges, unexplained, _LETTER * level.unit, noise)
            if box is not None:
                unexplained[box[1] : box[3], box[0] : box[2]] = 0
                boxes.append(box)
    lines = [line for line in joined_lines(boxes) if not _is_marker(line, edges)]
    return within(lines, image.shape, BORDER)


@cache
def _weights() -> tuple[Plane, ...]:
    """Bounds of the features, then weights and biases of three layers."""
    path = files("fedward_client.deidentify").joinpath("data", WEIGHTS)
    stored = load(path.read_bytes())
    return tuple(stored[f"a{index}"] for index in range(8))


def _evidence(level: Level) -> Plane:
    """Log-odds of text in every cell, between -9 and 9."""
    low, high, w1, b1, w2, b2, w3, b3 = _weights()
    odds = np.full(level.features.shape[:2], -_LIMIT, dtype=np.float32)
    judged = level.features[..., 0] > _LEAST_CONTRAST
    hidden = np.clip(level.features[judged], low, high)
    hidden = np.maximum(hidden @ w1.T + b1, 0)
    hidden = np.maximum(hidden @ w2.T + b2, 0)
    odds[judged] = np.clip((hidden @ w3.T + b3)[:, 0], -_LIMIT, _LIMIT)
    return odds


def _places(level: Level, least_peak: float, least_sum: float) -> Iterator[Box]:
    """Yield where a level sees text, in pixels of the continued image."""
    odds = _evidence(level)
    labels, count = ndimage.label(odds > _GROW, structure=_TOUCHING)
    if not count:
        return
    lines = np.maximum(
        ndimage.uniform_filter1d(odds, 5, axis=0, mode="nearest"),
        ndimage.uniform_filter1d(odds, 5, axis=1, mode="nearest"),
    )
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(lines, labels, numbers)
    sums = ndimage.sum_labels(np.maximum(odds, 0), labels, numbers)
    found = ndimage.find_objects(labels)
    for index in np.flatnonzero((peaks > least_peak) & (sums > least_sum)):
        rows, columns = found[index]
        cells = labels[rows, columns] == index + 1
        for x0, y0, x1, y1 in _tiles(cells, columns.start, rows.start):
            yield (
                x0 * level.unit, y0 * level.unit,
                x1 * level.unit, y1 * level.unit,
            )  # fmt: skip


def _tiles(cells: _Mask, x: int, y: int) -> Iterator[Box]:
    """Split a region into boxes at least half of which it fills, by halving the longer side."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    if not rows.size:
        return
    cells = cells[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    x, y = x + int(columns[0]), y + int(rows[0])
    high, wide = cells.shape
    if cells.mean() >= _FULL_SHARE or max(high, wide) <= _SMALL_TILE:
        yield x, y, x + wide, y + high
    elif high >= wide:
        yield from _tiles(cells[: high // 2], x, y)
        yield from _tiles(cells[high // 2 :], x, y + high // 2)
    else:
        yield from _tiles(cells[:, : wide // 2], x, y)
        yield from _tiles(cells[:, wide // 2 :], x + wide // 2, y)


def _edges(grey: Plane) -> Plane:
    """The largest difference between each pixel and its four neighbours."""
    across, down = rises(grey)
    edges = np.maximum(across, down)
    np.maximum(edges[:, 1:], across[:, :-1], out=edges[:, 1:])
    np.maximum(edges[1:], down[:-1], out=edges[1:])
    return edges


def _fitted(place: Box, edges: Plane, unexplained: Plane, letter: int, noise: float) -> Box | None:
    """Fit a box to the crisp edges of a place; None if earlier boxes hold most of them.

    ``letter`` is the height of the largest letters that are seen at the place's level.
    """
    window = slice(place[1], place[3]), slice(place[0], place[2])
    contrast = float(np.percentile(edges[window], 97))
    threshold = max(_LEAST_EDGE, _EDGE_SHARE * contrast, _ABOVE_NOISE * noise)
    crisp = unexplained[window] > threshold
    found, new = np.count_nonzero(edges[window] > threshold), np.count_nonzero(crisp)
    if new < _EDGE_PIXELS or new < _NEW_SHARE * found:
        return None
    box = _stretched(around(crisp, place[0], place[1]), place, letter // (2 * _LETTER))
    height = min(box[2] - box[0], box[3] - box[1], letter)
    strong = max(_STRONG_EDGE, _STRONG_SHARE * _EDGE_SHARE * contrast, _STRONG_NOISE * noise)
    for across in (int(_ACROSS * height), 0):
        box = _grown(box, edges > strong, height, across)
    return box


def _stretched(box: Box, place: Box, inset: int) -> Box:
    """Reach along the line as far as the place did, less an inset: its ends may be faint."""
    inner = place[0] + inset, place[1] + inset, place[2] - inset, place[3] - inset
    wide, high = sides(box)
    if wide >= high:
        return min(box[0], inner[0]), box[1], max(box[2], inner[2]), box[3]
    return box[0], min(box[1], inner[1]), box[2], max(box[3], inner[3])


def _grown(box: Box, strokes: _Mask, height: int, across: int) -> Box:
    """Take in the strokes that hang together with a box, its height away along the line."""
    wide, high = box[2] - box[0], box[3] - box[1]
    reach = round(_REACH_ALONG * height)
    right = reach if wide >= high else across
    down = reach if high >= wide else across
    x0, y0 = max(0, box[0] - right), max(0, box[1] - down)
    near = strokes[y0 : box[3] + down, x0 : box[2] + right]
    along, beside = (1 + 2 * max(1, round(share * height)) for share in (_GAP_ALONG, _GAP))
    lying = (beside, along) if wide >= high else (along, beside)
    thickened = ndimage.maximum_filter(near, lying)
    labels, _ = ndimage.label(thickened, structure=_TOUCHING)
    inside = labels[box[1] - y0 : box[3] - y0, box[0] - x0 : box[2] - x0]
    held = near & np.isin(labels, np.unique(inside[inside > 0]))
    return joined(box, around(held, x0, y0)) if held.any() else box


def _is_marker(box: Box, edges: Plane) -> bool:
    """True for one or two signs that are not longer than high: they name a side, not a person."""
    short, long = sorted(sides(box))
    inside = edges[box[1] : box[3], box[0] : box[2]]
    strokes = inside > _MARKER_EDGE * float(np.percentile(inside, 97))
    return long < _MARKER_LENGTH * short and ndimage.label(strokes, _TOUCHING)[1] <= _MARKER_SIGNS
