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

_WIDTH = {"OW": 2, "US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8}
_UNTYPED = (None, "UN")
_ESCAPE = b"\x1b"
"""Letters of a multi-byte set that ISO 2022 switches to look like ASCII (PS3.5 6.1.2.5)."""

_BREAK = re.compile(r"[\W_]+")
_SHORTEST_NAME = 3
_SHORTEST_PART = 4
_SHORTEST_NUMBER = 6
_OTHER_IDS, _ID, _BIRTH_DATE = 0x00101002, 0x00100020, 0x00100030


def raw_value(source: Dataset, tag: int, vr: str) -> bytes:
    """Return an element's bytes, little-endian; b"" if it is absent or a sequence.

    A number (``vr`` OW, US, SS, UL, SL, FL, FD) is never read from an element that says it is
    text: its letters would pass for digits.
    """
    if tag not in source:
        return b""
    element = guarded(lambda: source.get_item(tag))
    value = element.value if isinstance(element, RawDataElement) else _encoded(element)
    if not isinstance(value, bytes):
        return b""
    width = _WIDTH.get(vr)
    if width is None:
        return value
    if element.VR not in _UNTYPED and _WIDTH.get(element.VR) != width:
        return b""
    if not isinstance(element, RawDataElement) or element.is_little_endian or len(value) % width:
        return value
    return b"".join(value[i : i + width][::-1] for i in range(0, len(value), width))


def _encoded(element: Any) -> bytes | None:
    """The bytes of a US element: the parser decodes PixelRepresentation as it enters a sequence."""
    if element.VR != "US" or not isinstance(element.value, int):
        return None
    return (element.value & 0xFFFF).to_bytes(2, "little")


def text_value(source: Dataset, tag: int) -> str:
    """Return an element's text, stripped; "" if it is absent, empty or cannot be decoded.

    Raises:
        RefusalError: it is a sequence where a text belongs, or the parser fails.
    """
    raw = raw_value(source, tag, "LO")
    if raw.isascii() and _ESCAPE not in raw:
        return raw.decode("ascii").strip(" \0")
    value = guarded(lambda: source[tag].value)
    if isinstance(value, Sequence):
        raise RefusalError(Reason.MALFORMED)
    return str(guarded(lambda: str(value))).strip(" \0")


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
    The patient's other identifiers, and the orders in which a birth date is written, are among
    them.
    """
    texts = [text_value(source, tag) for tag in tags]
    texts += [text_value(item, _ID) for item in items_of(source, _OTHER_IDS)]
    born = _digits(text_value(source, _BIRTH_DATE))
    texts += [born[4:6] + born[6:8] + born[:4], born[6:8] + born[4:6] + born[:4]]
    numbers = map(_digits, texts)
    texts += [number for number in numbers if len(number) >= _SHORTEST_NUMBER]
    words = (word for text in texts for word in _BREAK.split(text.casefold()))
    return frozenset(word for word in words if len(word) >= _SHORTEST_NAME)


def holds_name(raw: bytes, names: frozenset[str]) -> bool:
    """True if a kept text (ASCII) holds one of ``names``, as a word or, if longer, within one."""
    text = raw.decode("ascii", "replace").casefold()
    if not names.isdisjoint(_BREAK.split(text)):
        return True
    if any(name in text for name in names if len(name) >= _SHORTEST_PART):
        return True
    digits = _digits(text)
    return any(n in digits for n in names if len(n) >= _SHORTEST_NUMBER and n.isdecimal())


def own_numbers(names: frozenset[str]) -> frozenset[int]:
    """Return those of :func:`name_parts` that are numbers of six digits or more.

    They are a patient's or an order's, and no quantity of the same file is one of them.
    """
    return frozenset(int(n) for n in names if len(n) >= _SHORTEST_NUMBER and n.isdecimal())


def _digits(text: str) -> str:
    """The digits of a text, however it separates them: 1962-03-14 is 19620314."""
    return "".join(filter(str.isdecimal, text))
