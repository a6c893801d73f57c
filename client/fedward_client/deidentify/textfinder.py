"""Finds text that was painted into an image: names, dates, numbers, at any place and contrast.

Each cell of 4 x 4 pixels, at three scales, is judged by a small network from the stroke features of
:mod:`fedward_client.deidentify.strokes`. Cells that look like text and touch form a region; a
region with enough evidence is text. Its boxes are then fitted to its edges at full resolution and
grown until they hold every stroke that hangs together with it. The network (9,600 weights, part of
the package) was trained by ``tests/text_finder_training.py`` on text painted into images of no
patient and public ones; see ADR 0016. A side marker (one or two letters) is no text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load
from scipy import ndimage

from fedward_client.deidentify.outcome import Reason, RefusalError
from fedward_client.deidentify.strokes import BORDER, Level, Plane, grain, levels, rises, scaled

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are excluded."""

WEIGHTS = "text_finder.safetensors"

MOST_PLACES = 600
"""What shows text at more places is a page to be read, not an image. It bounds the time, too."""

_Mask = NDArray[np.bool_]

_LEAST_CONTRAST = 2.8
_GROW = -0.5
_LEAST_EVIDENCE = ((48, 3.2, 12.0), (100, 2.6, 9.0))
"""Below a shorter side: the least peak and sum of a region. Anatomy of few pixels is crisp too."""
_SEED, _EVIDENCE = 2.5, 8.0
_LIMIT = 9.0
_TOUCHING = np.ones((3, 3), dtype=int)
_FULL_SHARE, _SMALL_TILE = 0.5, 4
_LETTER = 5
_LEAST_EDGE, _EDGE_SHARE, _EDGE_PIXELS = 5.0, 0.25, 6
_STRONG_EDGE, _STRONG_SHARE = 8.0, 1.7
_ABOVE_NOISE, _STRONG_NOISE = 3.5, 6.0
_GAP, _GAP_ALONG, _REACH_ALONG = 0.15, 0.6, 1.6
_ACROSS, _NEW_SHARE = 0.1, 0.12
_LINE_HEIGHT = 40
"""Higher boxes are not joined: they hold several lines, or letters that need no help."""
_LYING, _OVERLAP, _TALLER, _LIKE, _REACH, _TOUCH = 0.8, 0.5, 1.25, 2.0, 4.0, 0.5
_MARGIN, _END_MARGIN = 0.08, 0.3
_MARGIN_MOST, _END_MOST = 4, 8
_MARKER_EDGE, _MARKER_LENGTH, _MARKER_SIGNS = 0.5, 1.5, 2


def find_text(image: NDArray[Any]) -> list[Box]:
    """Return the boxes of text in a grey image of shape (rows, columns), any integer dtype.

    Raises:
        RefusalError: text at more than ``MOST_PLACES`` places.
    """
    if image.size == 0 or image.min() == image.max():
        return []
    side = min(image.shape)
    small = (least for below, *least in _LEAST_EVIDENCE if side < below)
    peak, total = next(small, (_SEED, _EVIDENCE))
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
    lines = [line for line in _lines(boxes) if not _is_marker(line, edges)]
    return _within(lines, image.shape)


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
    box = _stretched(_around(crisp, place[0], place[1]), place, letter // (2 * _LETTER))
    height = min(box[2] - box[0], box[3] - box[1], letter)
    strong = max(_STRONG_EDGE, _STRONG_SHARE * _EDGE_SHARE * contrast, _STRONG_NOISE * noise)
    for across in (int(_ACROSS * height), 0):
        box = _grown(box, edges > strong, height, across)
    return box


def _stretched(box: Box, place: Box, inset: int) -> Box:
    """Reach along the line as far as the place did, less an inset: its ends may be faint."""
    inner = place[0] + inset, place[1] + inset, place[2] - inset, place[3] - inset
    wide, high = _sides(box)
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
    joined = ndimage.maximum_filter(near, lying)
    labels, _ = ndimage.label(joined, structure=_TOUCHING)
    inside = labels[box[1] - y0 : box[3] - y0, box[0] - x0 : box[2] - x0]
    held = near & np.isin(labels, np.unique(inside[inside > 0]))
    return _joined(box, _around(held, x0, y0)) if held.any() else box


def _lines(boxes: list[Box]) -> list[Box]:
    """Join boxes that stand in one line: what is too faint between or beside them is text too."""
    lines: list[Box] = []
    for box in boxes:
        current = box
        while partners := [other for other in lines if _in_line(current, other)]:
            lines = [other for other in lines if other not in partners]
            for other in partners:
                current = _joined(current, other)
        lines.append(current)
    return lines


def _in_line(a: Box, b: Box) -> bool:
    return _follows(a, b) or _follows(_turned(a), _turned(b))


def _follows(a: Box, b: Box) -> bool:
    """True if two boxes stand side by side, touching or of like height, and one is no tall one."""
    (wide, high), (other_wide, other_high) = _sides(a), _sides(b)
    if wide < _LYING * high and other_wide < _LYING * other_high:
        return False
    low, tall = sorted((high, other_high))
    if low > _LINE_HEIGHT:
        return False
    overlap = min(a[3], b[3]) - max(a[1], b[1])
    gap = max(a[0], b[0]) - min(a[2], b[2])
    union = max(a[3], b[3]) - min(a[1], b[1])
    if overlap < _OVERLAP * low or union > _TALLER * tall:
        return False
    return gap <= _REACH * low if tall <= _LIKE * low else gap <= _TOUCH * low and tall <= 3 * low


def _is_marker(box: Box, edges: Plane) -> bool:
    """True for one or two signs that are not longer than high: they name a side, not a person."""
    short, long = sorted(_sides(box))
    inside = edges[box[1] : box[3], box[0] : box[2]]
    strokes = inside > _MARKER_EDGE * float(np.percentile(inside, 97))
    return long < _MARKER_LENGTH * short and ndimage.label(strokes, _TOUCHING)[1] <= _MARKER_SIGNS


def _sides(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _turned(box: Box) -> Box:
    return box[1], box[0], box[3], box[2]


def _within(boxes: list[Box], shape: tuple[int, ...]) -> list[Box]:
    """Add margins, most of them along the line, and return to the image's own pixels."""
    rows, columns = shape
    fitted = []
    for x0, y0, x1, y1 in boxes:
        height = min(x1 - x0, y1 - y0)
        across = 1 + int(min(_MARGIN * height, _MARGIN_MOST))
        along = 1 + int(min(_END_MARGIN * height, _END_MOST))
        right, down = (along, across) if x1 - x0 >= y1 - y0 else (across, along)
        box = (
            max(0, x0 - BORDER - right), max(0, y0 - BORDER - down),
            min(columns, x1 - BORDER + right), min(rows, y1 - BORDER + down),
        )  # fmt: skip
        if box[0] < box[2] and box[1] < box[3]:
            fitted.append(box)
    return fitted


def _joined(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _around(mask: _Mask, x: int, y: int) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1,
    )  # fmt: skip
