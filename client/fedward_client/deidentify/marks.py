"""What a cleaned file says about its own cleaning (PS3.15 E.1.1, codes of CID 7050 in PS3.16)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedward_client.deidentify.checks import padded
from fedward_client.deidentify.container import Element, Elements
from fedward_client.deidentify.profile import Profile

METHOD = "fedward 0.1: allow-list after PS3.15 E.1"

_OPTIONS: Mapping[str, tuple[str, str]] = {
    "structured": ("113104", "Clean Structured Content Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "dates-full": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "dates-modified": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "private": ("113111", "Retain Safe Private Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}
_DATES = {"none": "REMOVED", "modified": "MODIFIED", "full": "UNMODIFIED"}


def method_codes(profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield code and meaning of everything that was done, in the order of the codes.

    Graphics are always cleaned, if only by removal (E.3.3, note 1). Pixels count as cleaned only if
    text is looked for.
    """
    yield "113100", "Basic Application Confidentiality Profile"
    if profile.pixels.text != "off":
        yield "113101", "Clean Pixel Data Option"
    yield "113103", "Clean Graphics Option"
    yield from (code for name, code in _OPTIONS.items() if name in profile.options)


def marks_of(profile: Profile) -> dict[int, Element]:
    """Return the attributes that declare a file de-identified under ``profile``."""
    codes = list(method_codes(profile))
    method = "\\".join((METHOD, *(f"DCM {code}" for code, _ in codes)))
    marks: dict[int, Element] = {
        0x00120062: ("CS", padded("YES", "CS")),
        0x00120063: ("LO", padded(method, "LO")),
        0x00120064: ("SQ", [_code_item(*code) for code in codes]),
        0x00280303: ("CS", padded(_DATES[profile.retain.dates], "CS")),
    }
    if profile.pixels.text != "off":
        marks[0x00280301] = ("CS", padded("NO", "CS"))
    return marks


def _code_item(code: str, meaning: str) -> Elements:
    return {
        0x00080100: ("SH", padded(code, "SH")),
        0x00080102: ("SH", padded("DCM", "SH")),
        0x00080104: ("LO", padded(meaning, "LO")),
    }
