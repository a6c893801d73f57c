"""Modality and VOI lookup tables (PS3.3 C.11.1, C.11.2): kept if they are valid and needed.

A table is valid if it has exactly the entries that its descriptor declares, none wider than
declared, and is monotonic: so no text can pass for one. It is needed if no rescale or window says
the same. Its explanation is free text, and removed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from pydicom.dataset import Dataset

from fedward_client.deidentify import allowlist
from fedward_client.deidentify.checks import padded
from fedward_client.deidentify.container import Element, Elements
from fedward_client.deidentify.reading import raw_value, text_value

MODALITY_LUT, VOI_LUT = 0x00283000, 0x00283010
_DESCRIPTOR, _TYPE, _DATA = 0x00283002, 0x00283004, 0x00283006
_REPLACED_BY: Mapping[int, int] = {MODALITY_LUT: 0x00281053, VOI_LUT: 0x00281050}
_MAX_ENTRIES = 65_536


def lookup_table(item: Dataset) -> Elements:
    """Return the rebuilt item of a lookup table, or nothing if it is not valid."""
    descriptor = raw_value(item, _DESCRIPTOR, "US")
    if len(descriptor) != 6:
        return {}
    count, _, bits = struct.unpack("<HHH", descriptor)
    entries = count or _MAX_ENTRIES
    data = raw_value(item, _DATA, "OW")
    if not 8 <= bits <= 16 or not _is_table(data, entries, bits):
        return {}
    rebuilt: dict[int, Element] = {_DESCRIPTOR: ("US", descriptor), _DATA: ("OW", data)}
    kind = text_value(item, _TYPE)
    if kind in allowlist.CODES["RescaleType"]:
        rebuilt[_TYPE] = ("LO", padded(kind, "LO"))
    return rebuilt


def _is_table(data: bytes, entries: int, bits: int) -> bool:
    if bits == 8 and len(data) == entries + entries % 2:
        values = np.frombuffer(data, "u1")[:entries].astype(np.int32)
    elif len(data) == 2 * entries:
        values = np.frombuffer(data, "<u2").astype(np.int32)
    else:
        return False
    steps = np.diff(values)
    monotonic = bool((steps >= 0).all() or (steps <= 0).all())
    return monotonic and int(values.max()) < 1 << bits and bool(values[0] != values[-1])


def settle_tables(header: dict[int, Element], *, is_signed: bool) -> None:
    """Drop top-level tables that are not needed; type the others' descriptors as the pixels are."""
    for sequence, replacement in _REPLACED_BY.items():
        if replacement in header:
            header.pop(sequence, None)
        _, items = header.get(sequence, ("SQ", b""))
        if not isinstance(items, bytes):
            vr = "SS" if is_signed else "US"
            header[sequence] = (
                "SQ",
                [dict(item) | {_DESCRIPTOR: (vr, item[_DESCRIPTOR][1])} for item in items],
            )
