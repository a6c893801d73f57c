"""The header cleaner: applies the rules to a data set and, by recursion, to its sequences.

It works on raw values: what is not written is never decoded, which is both safe and fast.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from fedward_client.deidentify import allowlist, dates
from fedward_client.deidentify.checks import padded, values_of
from fedward_client.deidentify.container import Element, Elements
from fedward_client.deidentify.outcome import Action, Reason, RefusalError
from fedward_client.deidentify.rules import Rule, tag_of

MAX_DEPTH = 8
"""Sequences nested deeper than this are removed."""

_MAX_ELEMENT = 65_534
_REGION = tag_of("AnatomicRegionSequence")
_CODE_VALUE, _SCHEME, _MEANING = 0x00080100, 0x00080102, 0x00080104
_SWAPPED_WIDTH = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8}
_TIME_OF_DATE = {
    tag_of(date): tag_of(time)
    for date, time in (
        ("StudyDate", "StudyTime"), ("SeriesDate", "SeriesTime"), ("ContentDate", "ContentTime"),
        ("AcquisitionDate", "AcquisitionTime"), ("InstanceCreationDate", "InstanceCreationTime"),
    )
}  # fmt: skip

Log = list[tuple[int, Action]]


class HeaderCleaner:
    """Cleans data sets by ``rules``. Pixel data is not its business: it has no rule."""

    def __init__(self, rules: Mapping[int, Rule]) -> None:
        self._rules = rules

    def clean(self, source: Dataset, shift: int, log: Log, depth: int = 0) -> dict[int, Element]:
        """Return the cleaned elements of ``source``; ``shift`` moves its times, in seconds."""
        cleaned: dict[int, Element] = {}
        times: dict[int, tuple[str, list[str]]] = {}
        for key in source.keys():  # noqa: SIM118  a data set iterates over decoded elements
            tag = int(key)
            rule = self._rules.get(tag)
            if rule is None:
                log.append((tag, Action.REMOVED))
            elif rule.vr == "SQ":
                self._enter(source, tag, shift, log, depth, cleaned)
            elif rule.check is None:
                _collect_time(tag, rule.vr, raw_value(source, tag, rule.vr), times, log)
            else:
                value = rule.check(raw_value(source, tag, rule.vr))
                if value is None or len(value) > _MAX_ELEMENT:
                    log.append((tag, Action.INVALID))
                else:
                    cleaned[tag] = (rule.vr, value)
                    log.append((tag, rule.action))
        _shift(times, shift, cleaned, log)
        return cleaned

    def _enter(
        self, source: Dataset, tag: int, shift: int, log: Log, depth: int, into: dict[int, Element]
    ) -> None:
        sequence = _guarded(lambda: source[tag].value) if depth < MAX_DEPTH else None
        items: list[Elements] = []
        if isinstance(sequence, Sequence):
            for item in sequence:
                cleaned = (
                    _region(item) if tag == _REGION else self.clean(item, shift, log, depth + 1)
                )
                if cleaned:
                    items.append(cleaned)
        if items:
            into[tag] = ("SQ", items)
        log.append((tag, Action.KEPT if items else Action.INVALID))


def raw_value(source: Dataset, tag: int, vr: str) -> bytes:
    """Return an element's bytes, little-endian; b"" if it is absent or a sequence."""
    if tag not in source:
        return b""
    element = _guarded(lambda: source.get_item(tag))
    value = element.value if isinstance(element, RawDataElement) else None
    if not isinstance(value, bytes):
        return b""
    width = _SWAPPED_WIDTH.get(vr)
    if width is None or element.is_little_endian or len(value) % width:
        return value
    return b"".join(value[i : i + width][::-1] for i in range(0, len(value), width))


def text_value(source: Dataset, tag: int) -> str:
    """Return an element's text, stripped; "" if it is absent, empty or cannot be decoded."""
    raw = raw_value(source, tag, "LO")
    if raw.isascii():
        return raw.decode("ascii").strip(" \0")
    return str(_guarded(lambda: source[tag].value)).strip(" \0")


def _guarded(read: Callable[[], Any]) -> Any:
    """Call the parser, which may raise anything on hostile bytes: then the file is malformed."""
    try:
        return read()
    except Exception as error:
        raise RefusalError(Reason.MALFORMED) from error


def number_of(elements: Elements, keyword: str, default: int = 0) -> int:
    """Return the first value of a cleaned US or IS element, or ``default``."""
    vr, value = elements.get(tag_of(keyword), ("", b""))
    if not isinstance(value, bytes) or not value:
        return default
    if vr == "US":
        return int(struct.unpack_from("<H", value)[0])
    return int(value.split(b"\\")[0] or default)


def _collect_time(
    tag: int, vr: str, raw: bytes, times: dict[int, tuple[str, list[str]]], log: Log
) -> None:
    parts = values_of(raw)
    if parts is None:
        log.append((tag, Action.INVALID))
    else:
        times[tag] = (vr, parts)


def _shift(
    times: Mapping[int, tuple[str, list[str]]], seconds: int, into: dict[int, Element], log: Log
) -> None:
    for tag, (vr, parts) in times.items():
        partner = times.get(_TIME_OF_DATE.get(tag, 0), ("", []))[1]
        clock = partner[0] if partner and partner[0] else None
        moved = [_moved(part, vr, clock, seconds) if part else "" for part in parts]
        if None in moved:
            log.append((tag, Action.INVALID))
            continue
        into[tag] = (vr, padded("\\".join(part or "" for part in moved), vr))
        log.append((tag, Action.SHIFTED))


def _moved(value: str, vr: str, clock: str | None, seconds: int) -> str | None:
    if vr == "DA":
        return dates.shift_date(value, clock, seconds)
    if vr == "TM":
        return dates.shift_time(value, seconds)
    return dates.shift_datetime(value, seconds)


def _region(item: Dataset) -> dict[int, Element]:
    """Rebuild an anatomic region code from our own list; an unknown code is dropped."""
    scheme, code = text_value(item, _SCHEME), text_value(item, _CODE_VALUE)
    meaning = allowlist.REGION_CODES.get((scheme, code))
    if meaning is None:
        return {}
    return {
        _CODE_VALUE: ("SH", padded(code, "SH")),
        _SCHEME: ("SH", padded(scheme, "SH")),
        _MEANING: ("LO", padded(meaning, "LO")),
    }
