"""Dummy values (PS3.15 E.1.1, action D): of non-zero length, consistent with the VR.

They are the same for every file.
"""

from __future__ import annotations

from collections.abc import Mapping

EMPTY_ITEM = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"
"""An item without attributes, encoded: the dummy of a sequence."""

DUMMIES: Mapping[str, bytes] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), b"REMOVED "),
    "AS": b"000Y",
    "DA": b"19000101",
    "DT": b"19000101000000",
    "OB": b"\0\0",
    "SQ": EMPTY_ITEM,
    "TM": b"000000",
    "UN": b"\0\0",
    "UR": b"about:blank ",
}
"""A dummy for every VR of an attribute that the table asks a dummy for (UIDs are mapped)."""
