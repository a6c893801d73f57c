"""Clean Graphics (PS3.15 E.3.3) as geometry: simple shapes stay, every text goes.

Points, circles, ellipses and lines of a few points are rebuilt from their numbers. Longer lines go
too: handwriting is made of them. Overlays are removed whatever the profile says, for a bitmap may
show a name.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pydicom.dataset import Dataset

from fedward_client.deidentify import checks
from fedward_client.deidentify.checks import padded
from fedward_client.deidentify.container import Element, Elements
from fedward_client.deidentify.reading import items_of, raw_value, text_value

MAX_OBJECTS = 8
"""Shapes of one annotation; more of them could form letters."""

_LAYER, _OBJECTS = 0x00700002, 0x00700009
_UNITS, _DIMENSIONS, _POINTS, _DATA = 0x00700005, 0x00700020, 0x00700021, 0x00700022
_TYPE, _FILLED = 0x00700023, 0x00700024
_MOST_POINTS: Mapping[str, int] = {"POINT": 1, "CIRCLE": 2, "ELLIPSE": 4, "POLYLINE": 5}
_coordinates = checks.numbers("FL", -65_535, 65_535, 2 * max(_MOST_POINTS.values()))


def annotation(item: Dataset) -> Elements:
    """Return the simple shapes of one graphic annotation, or nothing."""
    objects = list(items_of(item, _OBJECTS))
    shapes = [shape for one in objects if (shape := _shape(one))]
    if not shapes or len(objects) > MAX_OBJECTS:
        return {}
    return {_LAYER: ("CS", padded("LAYER", "CS")), _OBJECTS: ("SQ", shapes)}


def _shape(item: Dataset) -> dict[int, Element]:
    kind, units = text_value(item, _TYPE), text_value(item, _UNITS)
    data = _coordinates(raw_value(item, _DATA, "FL"))
    if units not in ("PIXEL", "DISPLAY") or not data or len(data) % 8:
        return {}
    points = len(data) // 8
    if points > _MOST_POINTS.get(kind, 0):
        return {}
    filled = "Y" if text_value(item, _FILLED) == "Y" else "N"
    return {
        _UNITS: ("CS", padded(units, "CS")),
        _DIMENSIONS: ("US", struct.pack("<H", 2)),
        _POINTS: ("US", struct.pack("<H", points)),
        _DATA: ("FL", data),
        _TYPE: ("CS", padded(kind, "CS")),
        _FILLED: ("CS", padded(filled, "CS")),
    }
