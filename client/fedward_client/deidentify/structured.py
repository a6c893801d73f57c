"""Clean Structured Content (PS3.15 E.3.4): content items of images' context and specimens.

An item is kept if its concept is a public code and its value passes the rules: a public code, a
number, public words, or a date under its own rule. Persons, references and unknown kinds go, and so
does whatever describes an observer or the subject (PS3.16 TID 1001). Reports themselves
(SR SOP classes) are quarantined, not cleaned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydicom.dataset import Dataset

from fedward_client.deidentify.codes import CODE_VALUE, SCHEME
from fedward_client.deidentify.container import Element, Elements

CONCEPT_NAME, CONCEPT_CODE, UNITS = 0x0040A043, 0x0040A168, 0x004008EA
VALUE_TYPE, CONTENT = 0x0040A040, 0x0040A730
SPECIMEN, STEP_CONTENT = 0x00400560, 0x00400612
NUMERIC, TEXT, DATE, TIME, DATETIME = 0x0040A30A, 0x0040A160, 0x0040A121, 0x0040A122, 0x0040A120

_VALUES: Mapping[bytes, tuple[int, ...]] = {
    b"CODE": (CONCEPT_CODE,),
    b"NUMERIC": (NUMERIC, UNITS),
    b"TEXT": (TEXT,),
    b"DATE": (DATE,),
    b"TIME": (TIME,),
    b"DATETIME": (DATETIME,),
    b"CONTAINER": (CONTENT,),
}
"""The attributes that hold the value of a content item, by its value type (PS3.3 10.2)."""

VALUE_TYPES = frozenset(kind.decode() for kind in _VALUES)
_CONTEXT = frozenset(b"%d" % code for code in range(121001, 121050))
"""DCM codes of observer and subject context."""


def content_item(item: Dataset, clean: Callable[[Dataset], Elements]) -> Elements:
    """Return a content item of which concept and value are clean, or nothing.

    ``clean`` applies the rules to a data set; a value that they refuse is then absent.
    """
    cleaned = clean(item)
    _, kind = cleaned.get(VALUE_TYPE, ("", b""))
    needed = _VALUES.get(kind.strip() if isinstance(kind, bytes) else b"")
    if needed is None or _is_context(cleaned.get(CONCEPT_NAME)):
        return {}
    if not all(_is_there(cleaned.get(tag)) for tag in (CONCEPT_NAME, *needed)):
        return {}
    kept = (VALUE_TYPE, CONCEPT_NAME, *needed)
    return {tag: cleaned[tag] for tag in kept}


def _is_there(element: Element | None) -> bool:
    return element is not None and bool(element[1])


def _is_context(concept: Element | None) -> bool:
    if concept is None or isinstance(concept[1], bytes):
        return False
    for code in concept[1]:
        scheme, value = code[SCHEME][1], code[CODE_VALUE][1]
        if scheme == b"DCM " and isinstance(value, bytes) and value.strip() in _CONTEXT:
            return True
    return False
