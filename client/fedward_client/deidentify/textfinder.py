"""A classical finder of text in images: crisp bright or dark strokes that stand in a line.

A stroke is narrow: a pixel on it differs from the pixels a few steps away on both sides. Strokes
that touch form a glyph; glyphs of like height, side by side on one base line, form a line of text.
What separates it from anatomy is sharpness: painted text rises to its full contrast within one
pixel, which no lens, detector or interpolation does. One glyph alone (a side marker) is no text,
and an image too small to hold a legible line is not searched. It needs no model and is
deterministic; a trained detector can be put behind it as a further net.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are excluded."""

MIN_SIDE = 100
"""Smallest image side, in pixels, in which a line of legible text can stand beside an image."""

MIN_LETTERS = 4
MIN_GLYPHS = 3
_STEPS = (3, 6)
_CONTRAST = 18
_NOISE_FACTOR = 5
_GRAIN_FACTOR = 6.0
_HEIGHTS = (5, 64)
_SHARPNESS = 0.6

Grey = NDArray[np.int16]
_Integers = NDArray[np.int64]
_CONNECTED = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class _Glyphs:
    """Boxes of connected strokes (int, shape (n,)), from left to right."""

    x0: _Integers
    y0: _Integers
    x1: _Integers
    y1: _Integers
    letters: _Integers

    @property
    def height(self) -> _Integers:
        return self.y1 - self.y0


def find_text(image: NDArray[Any]) -> list[Box]:
    """Return the boxes of lines of text in a grey image of shape (rows, columns), any dtype."""
    if min(image.shape) < MIN_SIDE:
        return []
    grey = _scaled(image)
    threshold = max(_CONTRAST, round(_GRAIN_FACTOR * _grain(grey)))
    boxes: list[Box] = []
    for polarity in (grey, -grey):
        for step in _STEPS:
            boxes += _lines(polarity, step, threshold)
    return _merged(boxes)


def _grain(grey: Grey) -> float:
    """Standard deviation of the image's pixel noise (Immerkaer 1996, with a median for the mean).

    Grain is as crisp as painted text: strokes must stand out of it.
    """
    twice = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    residual = np.abs(twice[:, :-2] - 2 * twice[:, 1:-1] + twice[:, 2:])
    return float(np.median(residual)) / (0.6745 * 6.0)


def _scaled(image: NDArray[Any]) -> Grey:
    """Scale to 0..255 between the extremes of the image."""
    low, high = int(image.min()), int(image.max())
    if image.dtype == np.uint8 and high - low >= 128:
        return image.astype(np.int16)
    return ((image - np.float32(low)) * np.float32(255 / max(high - low, 1))).astype(np.int16)


def _response(grey: Grey, step: int) -> Grey:
    """By how much a pixel exceeds both pixels ``step`` away, along its row or its column."""
    response = np.zeros_like(grey)
    inner = grey[step:-step]
    response[step:-step] = inner - np.maximum(grey[: -2 * step], grey[2 * step :])
    inner = grey[:, step:-step]
    across = inner - np.maximum(grey[:, : -2 * step], grey[:, 2 * step :])
    np.maximum(response[:, step:-step], across, out=response[:, step:-step])
    return response


def _lines(grey: Grey, step: int, threshold: int) -> list[Box]:
    """Chains of glyphs of like height, on one base line, with gaps narrower than a letter."""
    response = _response(grey, step)
    noise = int(np.median(response[::4, ::4]))
    strokes = response > max(threshold, _NOISE_FACTOR * noise)
    glyphs = _glyphs(strokes)
    free = np.ones(glyphs.x0.size, dtype=bool)
    boxes: list[Box] = []
    for start in range(free.size):
        if not free[start]:
            continue
        chain = _chain(glyphs, start, free)
        free[chain] = False
        if _is_line(glyphs, chain) and _is_crisp(glyphs, chain, grey, response, strokes):
            boxes.append(_margin(glyphs, _whole_line(glyphs, chain), grey.shape))
    return boxes


def _whole_line(g: _Glyphs, chain: list[int]) -> list[int]:
    """Add whatever else stands between the line's base and top, up to three heights away."""
    height = float(np.median(g.height[chain]))
    base, top = np.median(g.y1[chain]), np.median(g.y0[chain])
    middle = (g.y0 + g.y1) / 2
    beside = np.flatnonzero((middle > top) & (middle < base) & (g.height <= 2 * height))
    members = set(chain)
    left, right = g.x0[chain].min(), g.x1[chain].max()
    grown = True
    while grown:
        near = beside[(g.x1[beside] > left - 3 * height) & (g.x0[beside] < right + 3 * height)]
        grown = not members.issuperset(near.tolist())
        members.update(near.tolist())
        if near.size:
            left, right = min(left, g.x0[near].min()), max(right, g.x1[near].max())
    return sorted(members)


def _glyphs(strokes: NDArray[np.bool_]) -> _Glyphs:
    """Connected strokes of legible height; a wide one counts as several letters that touch."""
    labels, count = ndimage.label(strokes, structure=_CONNECTED)
    boxes = [(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in ndimage.find_objects(labels)]
    x0, y0, x1, y1 = np.array(boxes, dtype=np.int64).reshape(count, 4).T
    height, width = y1 - y0, x1 - x0
    fill = np.bincount(labels.ravel(), minlength=count + 1)[1:] / np.maximum(height * width, 1)
    legible = (height >= _HEIGHTS[0]) & (height <= _HEIGHTS[1]) & (fill > 0.12)
    legible &= (width <= 2 * height) | ((fill < 0.75) & (width <= 30 * height))
    letters = np.maximum(1, np.round(width / (0.7 * np.maximum(height, 1)))).astype(np.int64)
    chosen = np.flatnonzero(legible)
    chosen = chosen[np.argsort(x0[chosen], kind="stable")]
    return _Glyphs(*(a[chosen] for a in (x0, y0, x1, y1, letters)))


def _chain(g: _Glyphs, start: int, free: NDArray[np.bool_]) -> list[int]:
    """Follow neighbours to the right from glyph ``start``."""
    chain = [start]
    while True:
        last = chain[-1]
        height = int(g.height[last])
        gap = g.x0 - g.x1[last]
        overlap = np.minimum(g.y1, g.y1[last]) - np.maximum(g.y0, g.y0[last])
        near = free & (gap >= -1) & (gap <= 1.2 * height + 2)
        near &= overlap >= 0.6 * np.minimum(height, g.height)
        near &= (g.height <= 2 * height) & (2 * g.height >= height)
        near[chain] = False
        candidates = np.flatnonzero(near)
        if not candidates.size:
            return chain
        chain.append(int(candidates[np.argmin(gap[candidates])]))


def _is_line(g: _Glyphs, chain: list[int]) -> bool:
    """Enough letters, most of which stand on one base line or hang from one top line."""
    if len(chain) < MIN_GLYPHS or g.letters[chain].sum() < MIN_LETTERS:
        return False
    tolerance = 1 + 0.15 * float(np.median(g.height[chain]))
    on_base = np.abs(g.y1[chain] - np.median(g.y1[chain])) <= tolerance
    at_top = np.abs(g.y0[chain] - np.median(g.y0[chain])) <= tolerance
    return bool(max(on_base.mean(), at_top.mean()) >= 0.6)


def _is_crisp(
    g: _Glyphs, chain: list[int], grey: Grey, response: Grey, strokes: NDArray[np.bool_]
) -> bool:
    """The median glyph rises to most of its contrast between two adjacent pixels."""
    sharpness = []
    for i in chain:
        rows, columns = slice(g.y0[i], g.y1[i]), slice(g.x0[i], g.x1[i])
        mask = strokes[rows, columns]
        rise = np.percentile(_rise(grey, rows, columns)[mask], 80)
        sharpness.append(rise / np.percentile(response[rows, columns][mask], 75))
    return bool(np.median(sharpness) >= _SHARPNESS)


def _rise(grey: Grey, rows: slice, columns: slice) -> Grey:
    """The largest difference between each pixel of a box and its four neighbours."""
    y0, x0 = max(0, rows.start - 1), max(0, columns.start - 1)
    around = grey[y0 : rows.stop + 1, x0 : columns.stop + 1]
    down, right = np.abs(np.diff(around, axis=0)), np.abs(np.diff(around, axis=1))
    rise = np.zeros_like(around)
    for view, difference in (
        (rise[1:], down), (rise[:-1], down), (rise[:, 1:], right), (rise[:, :-1], right),
    ):  # fmt: skip
        np.maximum(view, difference, out=view)
    y, x = rows.start - y0, columns.start - x0
    return rise[y : y + rows.stop - rows.start, x : x + columns.stop - columns.start]


def _margin(g: _Glyphs, chain: list[int], shape: tuple[int, ...]) -> Box:
    """The chain's box, widened by half a letter above and below and by two at both ends."""
    height = int(np.median(g.height[chain]))
    x0, y0 = int(g.x0[chain].min()) - 2 * height, int(g.y0[chain].min()) - height // 2 - 1
    x1, y1 = int(g.x1[chain].max()) + 2 * height, int(g.y1[chain].max()) + height // 2 + 1
    return max(0, x0), max(0, y0), min(shape[1], x1), min(shape[0], y1)


def _merged(boxes: list[Box]) -> list[Box]:
    """Join boxes that overlap, until none do."""
    merged: list[Box] = []
    for box in boxes:
        current = box
        while touching := [other for other in merged if _overlap(current, other)]:
            merged = [other for other in merged if other not in touching]
            for other in touching:
                current = (
                    min(current[0], other[0]), min(current[1], other[1]),
                    max(current[2], other[2]), max(current[3], other[3]),
                )  # fmt: skip
        merged.append(current)
    return merged


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
