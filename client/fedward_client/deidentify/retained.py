"""What an option keeps, checked: ages capped, terms listed, sizes plausible, texts plain.

A value that fails its check is treated as without the option.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fedward_client.deidentify import checks
from fedward_client.deidentify.checks import Check, padded, values_of
from fedward_client.deidentify.dates import is_date_or_time

OLDEST = 90
"""Ages from here on are one group, written 090Y (45 CFR 164.514(b)(2)(i)(C))."""

TEXT = ("CS", "LO", "LT", "SH", "ST", "UC", "UT")
TIMES = ("DA", "TM", "DT")
NUMBERS = ("DS", "IS", "US", "SS", "UL", "SL", "FL", "FD")
_WIDEST = 1e6
_AGE = re.compile(r"(\d{3})([DWMY])")
PER_YEAR: Mapping[str, float] = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}
"""How many of an age's unit make a year."""

_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
_MAX_LENGTH: Mapping[str, int] = {"CS": 16, "SH": 16, "LO": 64}
_MAX_TEXT = 1024
_GROUPS = frozenset((
    "AFRICAN", "AMERICAN INDIAN", "ASIAN", "BLACK", "CAUCASIAN", "HISPANIC", "INDIAN", "LATINO",
    "MIDDLE EASTERN", "MIXED", "NATIVE AMERICAN", "OTHER", "PACIFIC ISLAND", "UNKNOWN", "WHITE",
))  # fmt: skip


def age(raw: bytes) -> bytes | None:
    """Keep a well-formed age, capped at 90 years."""
    match = _AGE.fullmatch(raw.decode("latin-1").strip(" \0"))
    if match is None:
        return None
    count, unit = int(match.group(1)), match.group(2)
    is_capped = count / PER_YEAR[unit] >= OLDEST
    return padded(f"{OLDEST:03}Y" if is_capped else match.group(), "AS")


def _ethnic_group(raw: bytes) -> bytes | None:
    text = raw.decode("latin-1").strip(" \0").upper()
    return padded(text, "SH") if text in _GROUPS else None


def _offset(raw: bytes) -> bytes | None:
    text = raw.decode("latin-1").strip(" \0")
    return padded(text, "SH") if _OFFSET.fullmatch(text) else None


_OWN: Mapping[str, Check] = {
    "PatientSex": checks.codes(frozenset("MFO")),
    "PatientSexNeutered": checks.codes(frozenset(("ALTERED", "UNALTERED"))),
    "SmokingStatus": checks.codes(frozenset(("YES", "NO", "UNKNOWN"))),
    "PregnancyStatus": checks.numbers("US", 1, 4, 1),
    "EthnicGroup": _ethnic_group,
    "TimezoneOffsetFromUTC": _offset,
}


def is_free_text(keyword: str, vr: str) -> bool:
    """True if what is kept is a text that a person may have typed."""
    return vr in TEXT and keyword not in _OWN


def retained(keyword: str, vr: str) -> Check | None:
    """Return the check of an attribute that an option keeps; None if it cannot be checked."""
    check = _OWN.get(keyword)
    if check is None and vr == "AS":
        check = age
    elif check is None and vr in TIMES:
        check = _well_formed_time(vr)
    elif check is None and vr in NUMBERS:
        check = checks.numbers(vr, -_WIDEST, _WIDEST)
    elif check is None and vr == "UI":
        check = checks.uids(str)
    elif check is None and vr in TEXT:
        check = _plain_text(vr)
    return check


def _well_formed_time(vr: str) -> Check:
    def check(raw: bytes) -> bytes | None:
        parts = values_of(raw)
        if parts is None or not all(is_date_or_time(part, vr) for part in parts if part):
            return None
        return padded("\\".join(parts), vr)

    return check


def _plain_text(vr: str) -> Check:
    longest = _MAX_LENGTH.get(vr, _MAX_TEXT)

    def check(raw: bytes) -> bytes | None:
        parts = values_of(raw)
        if parts is None or not all(part.isprintable() and len(part) <= longest for part in parts):
            return None
        return padded("\\".join(parts), vr)

    return check
