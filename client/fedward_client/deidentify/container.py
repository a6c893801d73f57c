"""The file that is written: rebuilt from nothing, explicit VR little endian (PS3.5, PS3.10).

Preamble, file meta information and every element are ours; no byte of the input's container
survives.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from fedward_client.deidentify.checks import padded

Element = tuple[str, "bytes | Sequence[Elements]"]
Elements = Mapping[int, Element]
"""A cleaned data set: tag -> (VR, encoded value or items of a sequence)."""

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLEMENTATION_CLASS = "2.25.223744027083236953318207190372462381541"
IMPLEMENTATION_VERSION = "FEDWARD_0_1"

_LONG = ("OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UC", "UR", "UT", "UN", "SV", "UV")
_SHORT_HEADER = struct.Struct("<HH2sH")
_LONG_HEADER = struct.Struct("<HH2sHI")
_ITEM = struct.Struct("<HHI")


def write_file(elements: Elements, sop_class: str, instance: str) -> bytes:
    """Return a DICOM file of ``elements``; ``instance`` is its (pseudonymous) SOP instance UID."""
    meta: dict[int, Element] = {
        0x00020001: ("OB", b"\0\1"),
        0x00020002: ("UI", padded(sop_class, "UI")),
        0x00020003: ("UI", padded(instance, "UI")),
        0x00020010: ("UI", padded(EXPLICIT_LITTLE_ENDIAN, "UI")),
        0x00020012: ("UI", padded(IMPLEMENTATION_CLASS, "UI")),
        0x00020013: ("SH", padded(IMPLEMENTATION_VERSION, "SH")),
    }
    body = encode_elements(meta)
    length = encode_elements({0x00020000: ("UL", struct.pack("<I", len(body)))})
    return b"".join((bytes(128), b"DICM", length, body, encode_elements(elements)))


def encode_elements(elements: Elements) -> bytes:
    """Encode a data set in tag order, with explicit lengths throughout."""
    parts: list[bytes] = []
    for tag in sorted(elements):
        vr, value = elements[tag]
        raw = value if isinstance(value, bytes) else _items(value)
        if len(raw) % 2:
            raw += b"\0"
        group, element = tag >> 16, tag & 0xFFFF
        if vr in _LONG:
            parts.append(_LONG_HEADER.pack(group, element, vr.encode(), 0, len(raw)))
        else:
            parts.append(_SHORT_HEADER.pack(group, element, vr.encode(), len(raw)))
        parts.append(raw)
    return b"".join(parts)


def _items(items: Sequence[Elements]) -> bytes:
    parts: list[bytes] = []
    for item in items:
        raw = encode_elements(item)
        parts += (_ITEM.pack(0xFFFE, 0xE000, len(raw)), raw)
    return b"".join(parts)
