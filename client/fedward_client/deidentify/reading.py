"""Reading single elements of a parsed data set, as raw bytes: nothing is decoded that need not be.

A parser may raise anything on hostile bytes: whatever it raises quarantines the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from fedward_client.deidentify.outcome import Reason, RefusalError

_WIDTH = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8}
_UNTYPED = (None, "UN")
_BREAK = re.compile(r"[\W_]+")
_SHORTEST_NAME = 3
_SHORTEST_PART = 4


def raw_value(source: Dataset, tag: int, vr: str) -> bytes:
    """Return an element's bytes, little-endian; b"" if it is absent or a sequence.

    A number (``vr`` US, SS, UL, SL, FL, FD) is never read from an element that says it is text: its
    letters would pass for digits.
    """
    if tag not in source:
        return b""
    element = guarded(lambda: source.get_item(tag))
    value = element.value if isinstance(element, RawDataElement) else None
    if not isinstance(value, bytes):
        return b""
    width = _WIDTH.get(vr)
    if width is None:
        return value
    if element.VR not in _UNTYPED and _WIDTH.get(element.VR) != width:
        return b""
    if element.is_little_endian or len(value) % width:
        return value
    return b"".join(value[i : i + width][::-1] for i in range(0, len(value), width))


def text_value(source: Dataset, tag: int) -> str:
    """Return an element's text, stripped; "" if it is absent, empty or cannot be decoded."""
    raw = raw_value(source, tag, "LO")
    if raw.isascii():
        return raw.decode("ascii").strip(" \0")
    return str(guarded(lambda: source[tag].value)).strip(" \0")


def items_of(source: Dataset, tag: int) -> Iterable[Dataset]:
    """Return the items of a sequence; none if it is absent or no sequence."""
    if tag not in source:
        return ()
    value = guarded(lambda: source[tag].value)
    return value if isinstance(value, Sequence) else ()


def guarded(read: Callable[[], Any]) -> Any:
    """Call the parser; whatever it raises means that the file is malformed."""
    try:
        return read()
    except Exception as error:
        raise RefusalError(Reason.MALFORMED) from error


def name_parts(source: Dataset, tags: Iterable[int]) -> frozenset[str]:
    """Return the words, folded and of three letters or more, that ``tags`` hold.

    They are the names and identifiers of one file's people, and must not stand in any kept text.
    """
    texts = (text_value(source, tag) for tag in tags)
    words = (word for text in texts for word in _BREAK.split(text.casefold()))
    return frozenset(word for word in words if len(word) >= _SHORTEST_NAME)


def holds_name(raw: bytes, names: frozenset[str]) -> bool:
    """True if a kept text (ASCII) holds one of ``names``, as a word or, if longer, within one."""
    text = raw.decode("ascii", "replace").casefold()
    if not names.isdisjoint(_BREAK.split(text)):
        return True
    return any(name in text for name in names if len(name) >= _SHORTEST_PART)
