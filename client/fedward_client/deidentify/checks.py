"""Checks of attribute values: a kept value is a term of a list or a number in a plausible range.

A check takes the raw value (little-endian, as PS3.5 encodes it) and returns the bytes to write, or
None to have the attribute removed. Text is thereby reduced to what the lists allow.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable

Check = Callable[[bytes], bytes | None]

MAX_VALUES = 64
"""Values of one attribute; more (a per-frame vector) than this is not plausible."""

_TEXT_BYTES = 8
_LONGEST_DECIMAL, _LONGEST_INTEGER = 16, 12  # characters of one DS or IS value (PS3.5 6.2)
_SMALLEST = {"f": 1e-12, "d": 1e-30}
"""Below it, but for zero, no quantity is measured; letters that pass for a float lie there."""
_PRINTABLE = frozenset(range(0x20, 0x7F)) | {0}

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?")
_INTEGER = re.compile(r"[+-]?\d{1,12}")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


def values_of(raw: bytes) -> list[str] | None:
    """Split a text value at its backslashes and strip padding; None if it is not ASCII."""
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        return None
    return [part.strip(" \0") for part in text.split("\\")]


def padded(text: str, vr: str) -> bytes:
    """Encode text to the even length that PS3.5 asks for."""
    raw = text.encode("ascii")
    return raw + (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)


def codes(terms: frozenset[str]) -> Check:
    """Allow values from a closed list (upper case, as CS demands)."""

    def check(raw: bytes) -> bytes | None:
        parts = values_of(raw)
        if parts is None or not all(part in terms or not part for part in parts):
            return None
        return padded("\\".join(parts), "CS")

    return check


def numbers(vr: str, low: float, high: float, most: int = MAX_VALUES) -> Check:
    """Allow up to ``most`` numbers within [low, high]; text numbers (DS, IS) keep their digits.

    A DS that is longer than the standard allows is rounded to ten digits.
    """
    if vr in ("DS", "IS"):
        return _text_numbers(vr, low, high, most)
    return _binary(_BINARY[vr], low, high, most)


def _text_numbers(vr: str, low: float, high: float, most: int) -> Check:
    form = _DECIMAL if vr == "DS" else _INTEGER

    def check(raw: bytes) -> bytes | None:
        parts = values_of(raw)
        if parts is None or len(parts) > most:
            return None
        for part in parts:
            if part and (form.fullmatch(part) is None or not low <= float(part) <= high):
                return None
        if vr == "IS" and any(len(part) > _LONGEST_INTEGER for part in parts):
            return None
        shown = (p if len(p) <= _LONGEST_DECIMAL else f"{float(p):.10g}" for p in parts)
        return padded("\\".join(shown), vr)

    return check


def _binary(code: str, low: float, high: float, most: int) -> Check:
    width, smallest = struct.calcsize("<" + code), _SMALLEST.get(code, 0)

    def check(raw: bytes) -> bytes | None:
        count, rest = divmod(len(raw), width)
        if rest or count > most or _may_be_text(raw):
            return None
        values = struct.unpack(f"<{count}{code}", raw)
        if any(0 < abs(v) < smallest for v in values):
            return None
        return raw if all(math.isfinite(v) and low <= v <= high for v in values) else None

    return check


def _may_be_text(raw: bytes) -> bool:
    """True for bytes that are letters throughout: a name could pass for numbers."""
    return len(raw) >= _TEXT_BYTES and any(raw) and _PRINTABLE.issuperset(raw)


def quantities(vr: str, value: bytes) -> tuple[float, ...]:
    """Return the numbers of a value that passed :func:`numbers`; none of a text."""
    if vr in ("DS", "IS"):
        return tuple(float(part) for part in values_of(value) or () if part)
    code = _BINARY.get(vr)
    return (
        ()
        if code is None
        else struct.unpack(f"<{len(value) // struct.calcsize(code)}{code}", value)
    )


def uids(replace: Callable[[str], str | None]) -> Check:
    """Map every UID through ``replace``; one that it refuses (None) removes the attribute."""

    def check(raw: bytes) -> bytes | None:
        parts = values_of(raw)
        if parts is None:
            return None
        mapped = [replace(part) if is_uid(part) else None for part in parts if part]
        if None in mapped:
            return None
        return padded("\\".join(part for part in mapped if part), "UI")

    return check


def is_uid(text: str) -> bool:
    """True for up to 64 digits and dots in the form of a UID (PS3.5 9.1)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None
