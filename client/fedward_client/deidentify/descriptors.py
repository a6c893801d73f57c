"""Clean Descriptors (PS3.15 E.3.5): a text is kept if it consists of public words, else removed.

The words (anatomy, modality, protocol, contrast) are package data. Numbers pass only in technical
forms: with a unit, as dimensions, a decimal, or one digit; so no date, age or identifier does. A
text with one unknown word goes as a whole: what is left of "CT chest, Dr. Hand" would still be
"chest hand".
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from fedward_client.deidentify.checks import padded, values_of

MAX_TEXT = 64
"""A longer text is prose, which is not judged word by word."""

_BREAK = re.compile(r"[\s,;:_+/()\[\]*&=<>^|-]+")
_UNIT = "mm|cm|um|ms|s|sec|min|kv|kvp|kev|ma|mas|t|hz|khz|mhz|ml|cc|deg|mgy|mbq|fps|px|%"
_TECHNICAL = re.compile(
    rf"\d{{1,4}}(\.\d{{1,3}})?({_UNIT})"  # 5mm, 120kvp, 1.5t, 512px
    r"|\d{1,2}\.\d{1,2}"  # 0.6
    r"|\d{1,3}(\.\d)?(x\d{1,3}(\.\d)?){1,2}(mm)?"  # 64x0.6mm
    r"|[1-4]d|b\d{1,4}|t[12]w?|[ctls]\d{1,2}|\d"  # 3d, b1000, t2w, l5, 2
)
_MAX_DIGITS = 8


@cache
def vocabulary() -> frozenset[str]:
    """Return the public words, folded."""
    text = files("fedward_client.deidentify").joinpath("data/vocabulary.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(word for line in lines for word in line.split())


def is_public_text(text: str) -> bool:
    """True if every word of ``text`` is public or a technical number."""
    words = [word.strip(".") for word in _BREAK.split(text.casefold().replace("w/o", "wo"))]
    known = all(
        not word or word in vocabulary() or _TECHNICAL.fullmatch(word) is not None for word in words
    )
    return known and len(text) <= MAX_TEXT and sum(map(str.isdigit, text)) <= _MAX_DIGITS


def public_words(raw: bytes) -> bytes | None:
    """The check of a descriptor: its values if all are public texts, else None."""
    parts = values_of(raw)
    if parts is None or not all(part.isprintable() and is_public_text(part) for part in parts):
        return None
    return padded("\\".join(parts), "LO")
