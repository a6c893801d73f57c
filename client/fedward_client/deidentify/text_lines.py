"""Boxes of text: how they join into lines, and what margins they get."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are excluded."""

_LINE_HEIGHT = 40
"""Higher boxes are not joined: they hold several lines, or letters that need no help."""

_LYING, _OVERLAP, _TALLER, _LIKE, _REACH, _TOUCH = 0.8, 0.5, 1.25, 2.0, 4.0, 0.5
_MARGIN, _END_MARGIN = 0.08, 0.3
_MARGIN_MOST, _END_MOST = 4, 8


def joined_lines(boxes: list[Box]) -> list[Box]:
    """Join boxes that stand in one line: what is too faint between or beside them is text too."""
    lines: list[Box] = []
    for box in boxes:
        current = box
        while partners := [other for other in lines if _in_line(current, other)]:
            lines = [other for other in lines if other not in partners]
            for other in partners:
                current = joined(current, other)
        lines.append(current)
    return lines


def within(boxes: list[Box], shape: tuple[int, ...], border: int) -> list[Box]:
    """Add margins, most of them along the line, and return to the image's own pixels.

    ``border``: by how many pixels the image was continued on every side.
    """
    rows, columns = shape
    fitted = []
    for x0, y0, x1, y1 in boxes:
        height = min(x1 - x0, y1 - y0)
        across = 1 + int(min(_MARGIN * height, _MARGIN_MOST))
        along = 1 + int(min(_END_MARGIN * height, _END_MOST))
        right, down = (along, across) if x1 - x0 >= y1 - y0 else (across, along)
        box = (
            max(0, x0 - border - right), max(0, y0 - border - down),
            min(columns, x1 - border + right), min(rows, y1 - border + down),
        )  # fmt: skip
        if box[0] < box[2] and box[1] < box[3]:
            fitted.append(box)
    return fitted


def sides(box: Box) -> tuple[int, int]:
    """How wide and how high it is."""
    return box[2] - box[0], box[3] - box[1]


def joined(a: Box, b: Box) -> Box:
    """The smallest box that holds both."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def around(mask: NDArray[np.bool_], x: int, y: int) -> Box:
    """The smallest box that holds what is set; ``x``, ``y``: the mask's own place."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1,
    )  # fmt: skip


def _in_line(a: Box, b: Box) -> bool:
    return _follows(a, b) or _follows(_turned(a), _turned(b))


def _follows(a: Box, b: Box) -> bool:
    """True if two boxes stand side by side, touching or of like height, and one is no tall one."""
    (wide, high), (other_wide, other_high) = sides(a), sides(b)
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


def _turned(box: Box) -> Box:
    return box[1], box[0], box[3], box[2]
