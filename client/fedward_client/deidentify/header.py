"""The header cleaner: applies the rules to a data set and, by recursion, to its sequences.

It works on raw values: what is not written is never decoded, which is both safe and fast.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from fedward_client.deidentify import dates, private
from fedward_client.deidentify.checks import padded, quantities, values_of
from fedward_client.deidentify.container import Element, Elements, encode_elements
from fedward_client.deidentify.outcome import Action, Reason, RefusalError
from fedward_client.deidentify.reading import (
    guarded,
    holds_name,
    name_parts,
    own_numbers,
    raw_value,
    text_value,
)
from fedward_client.deidentify.rules import Rule, tag_of

__all__ = ["HeaderCleaner", "Log", "number_of", "raw_value", "text_value"]

MAX_DEPTH = 8
"""Sequences nested deeper than this are removed."""

MAX_ELEMENTS = 1_000_000
"""Attributes of one file, those in sequences included; more is an attack on time and memory."""

_MAX_ELEMENT = 65_534
_TIME_OF_DATE = {
    tag_of(date): tag_of(time)
    for date, time in (
        ("StudyDate", "StudyTime"), ("SeriesDate", "SeriesTime"), ("ContentDate", "ContentTime"),
        ("AcquisitionDate", "AcquisitionTime"), ("InstanceCreationDate", "InstanceCreationTime"),
    )
}  # fmt: skip
_NAMES = tuple(
    map(
        tag_of,
        (
            "PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName",
            "PatientMotherBirthName", "PatientBirthDate", "PatientAddress", "AccessionNumber",
            "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
            "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "RequestingPhysician",
            "ResponsiblePerson", "ConsultingPhysicianName",
        ),
    )
)  # fmt: skip
"""Where a file names its people: kept text may hold none of these words."""

Log = list[tuple[int, Action]]


@dataclass
class _Run:
    """One file's cleaning: its time shift in seconds, its people's names, and the log.

    ``numbers`` are those that the file identifies them by: in a quantity they have no place.
    """

    shift: int
    names: frozenset[str]
    numbers: frozenset[int]
    log: Log


@dataclass
class _Cleaned:
    """A data set in the making; times wait until all of them are read."""

    elements: dict[int, Element] = field(default_factory=dict)
    times: dict[int, tuple[Rule, bytes]] = field(default_factory=dict)


class HeaderCleaner:
    """Cleans data sets by ``rules``. Pixel data is not its business: it has no rule.

    ``keeps_private``: safe private attributes stay (PS3.15 E.3.10).
    """

    def __init__(self, rules: Mapping[int, Rule], *, keeps_private: bool = False) -> None:
        self._rules = rules
        self._keeps_private = keeps_private

    def clean(self, source: Dataset, shift: int, log: Log) -> dict[int, Element]:
        """Return the cleaned elements of ``source``; ``shift`` moves its times, in seconds.

        Raises:
            RefusalError: malformed, or more attributes than MAX_ELEMENTS.
        """
        names = name_parts(source, _NAMES)
        return self._clean(source, _Run(shift, names, own_numbers(names), log), 0)

    def _clean(self, source: Dataset, run: _Run, depth: int) -> dict[int, Element]:
        cleaned, unknown = _Cleaned(), []
        log, rules = run.log, self._rules
        for key in source.keys():  # noqa: SIM118  a data set iterates over decoded elements
            tag = int(key)
            rule = rules.get(tag)
            if rule is None:
                unknown.append(tag)
            elif rule.items is not None:
                self._enter(source, tag, rule, run, depth, cleaned.elements)
            elif rule.check is None:
                cleaned.times[tag] = (rule, raw_value(source, tag, rule.vr))
            else:
                raw = raw_value(source, tag, rule.vr)
                _write(tag, rule, raw, run, cleaned.elements)
        if len(log) + len(unknown) > MAX_ELEMENTS:
            raise RefusalError(Reason.TOO_MANY)
        _shift(cleaned, run)
        self._remove(source, unknown, log, cleaned.elements)
        return cleaned.elements

    def _remove(self, source: Dataset, tags: list[int], log: Log, into: dict[int, Element]) -> None:
        """Remove what has no rule, but for the private attributes that are safe."""
        if self._keeps_private:
            kept, actions = private.keep_safe(source, filter(private.is_private, tags))
            into.update(kept)
            log += actions.items()
            tags = [tag for tag in tags if not private.is_private(tag)]
        log += [(tag, Action.REMOVED) for tag in tags]

    def _enter(
        self,
        source: Dataset,
        tag: int,
        rule: Rule,
        run: _Run,
        depth: int,
        into: dict[int, Element],
    ) -> None:
        sequence = guarded(lambda: source[tag].value) if depth < MAX_DEPTH else None
        items: list[Elements] = []
        if isinstance(sequence, Sequence) and rule.items is not None:
            clean = partial(self._clean, run=run, depth=depth + 1)
            items = [item for one in sequence if (item := rule.items(one, clean))]
        if items and not (rule.is_free and _names_somebody(items, run.names)):
            into[tag] = ("SQ", items)
            run.log.append((tag, rule.action))
        else:
            _fall_back(tag, rule, b"", run.log, into)


def _write(tag: int, rule: Rule, raw: bytes, run: _Run, into: dict[int, Element]) -> None:
    value = None if rule.check is None else rule.check(raw)
    if value is None or len(value) > _MAX_ELEMENT or _tells(rule, value, raw, run):
        _fall_back(tag, rule, raw, run.log, into)
    else:
        into[tag] = (rule.vr, value)
        run.log.append((tag, rule.action))


def _tells(rule: Rule, value: bytes, raw: bytes, run: _Run) -> bool:
    """True if a kept text holds a name of the file, or a kept number is one of its identifiers."""
    if rule.is_free:
        return holds_name(raw, run.names)
    return not run.numbers.isdisjoint(quantities(rule.vr, value)) if run.numbers else False


def _fall_back(tag: int, rule: Rule, raw: bytes, log: Log, into: dict[int, Element]) -> None:
    """A value is refused: do what the basic profile does, or remove it."""
    otherwise = rule.otherwise
    value = otherwise.check(raw) if otherwise is not None and otherwise.check is not None else None
    if otherwise is None or value is None:
        log.append((tag, Action.INVALID))
    else:
        into[tag] = (otherwise.vr, value)
        log.append((tag, otherwise.action))


def _names_somebody(items: list[Elements], names: frozenset[str]) -> bool:
    return any(holds_name(encode_elements(item), names) for item in items)


def number_of(elements: Elements, keyword: str, default: int = 0) -> int:
    """Return the first value of a cleaned US or IS element, or ``default``."""
    vr, value = elements.get(tag_of(keyword), ("", b""))
    if not isinstance(value, bytes) or not value:
        return default
    if vr == "US":
        return int(struct.unpack_from("<H", value)[0])
    return int(value.split(b"\\")[0] or default)


def _shift(cleaned: _Cleaned, run: _Run) -> None:
    texts = {tag: values_of(raw) for tag, (_, raw) in cleaned.times.items()}
    for tag, (rule, raw) in cleaned.times.items():
        parts = texts[tag]
        clock = (texts.get(_TIME_OF_DATE.get(tag, 0)) or [""])[0] or None
        moved = [_moved(p, rule.vr, clock, run.shift) if p else "" for p in parts or ()]
        if parts is None or None in moved:
            _fall_back(tag, rule, raw, run.log, cleaned.elements)
            continue
        value = padded("\\".join(part or "" for part in moved), rule.vr)
        cleaned.elements[tag] = (rule.vr, value)
        run.log.append((tag, Action.SHIFTED))


def _moved(value: str, vr: str, clock: str | None, seconds: int) -> str | None:
    if vr == "DA":
        return dates.shift_date(value, clock, seconds)
    if vr == "TM":
        return dates.shift_time(value, seconds)
    return dates.shift_datetime(value, seconds)
