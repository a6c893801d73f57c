"""One rule per attribute: the standard's table under the profile's options, then the allow-list.

What has no rule is removed. A rule's check decides from the value, so a kept attribute cannot carry
what its list or range does not allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword

from fedward_client.deidentify import allowlist, checks, table
from fedward_client.deidentify.checks import Check
from fedward_client.deidentify.dates import is_date_or_time
from fedward_client.deidentify.outcome import Action
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.pseudonyms import Pseudonyms
from fedward_common.errors import MisuseError

TIMES = ("DA", "TM", "DT")
_TEXT = ("AE", "AS", "CS", "LO", "LT", "SH", "ST", "UC", "UT", "PN")
_NUMBERS = ("DS", "IS", "US", "SS", "UL", "SL", "FL", "FD")
_DUMMY = b"REMOVED "
_WIDEST = 1e15


@dataclass(frozen=True, slots=True)
class Rule:
    """``vr`` is what is written. Without a check: a sequence to enter, or a time to shift."""

    vr: str
    action: Action
    check: Check | None = None


def tag_of(keyword: str) -> int:
    """Return the tag of an attribute of the standard's dictionary."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise MisuseError(f"{keyword}: not a keyword of the DICOM dictionary")
    return tag


def build_rules(profile: Profile, pseudonyms: Pseudonyms) -> Mapping[int, Rule]:
    """Return the rule of every attribute that may be written, by tag."""
    rules = _allowed()
    for row in table.rows():
        if not dictionary_has_tag(row.tag):
            continue  # newer than this dictionary: without a rule it is removed
        rule = _from_table(row, profile.options, pseudonyms, rules.get(row.tag))
        if rule is None:
            rules.pop(row.tag, None)
        else:
            rules[row.tag] = rule
    return rules


def _allowed() -> dict[int, Rule]:
    rules: dict[int, Rule] = {}
    for keyword, terms in allowlist.CODES.items():
        tag = tag_of(keyword)
        rules[tag] = Rule(dictionary_VR(tag), Action.KEPT, checks.codes(terms))
    for keyword, (low, high) in allowlist.NUMBERS.items():
        tag = tag_of(keyword)
        vr = dictionary_VR(tag)[:2]
        rules[tag] = Rule(vr, Action.KEPT, checks.numbers(vr, low, high))
    for keyword in allowlist.SEQUENCES:
        rules[tag_of(keyword)] = Rule("SQ", Action.KEPT)
    for keyword in ("SOPClassUID", "ReferencedSOPClassUID"):
        rules[tag_of(keyword)] = Rule("UI", Action.KEPT, checks.uids(_image_class))
    return rules


def _image_class(uid: str) -> str | None:
    return uid if uid in allowlist.IMAGE_CLASSES else None


def _from_table(
    row: table.Row, options: table.Options, pseudonyms: Pseudonyms, allowed: Rule | None
) -> Rule | None:
    action, vr = row.action(options), dictionary_VR(row.tag)
    if vr == "SQ":
        return allowed if "*" in row.basic else None
    if action == "K":
        return allowed or _retained(vr)
    rule: Rule | None = None
    if action == "U" and vr == "UI":
        rule = Rule("UI", Action.UID, checks.uids(pseudonyms.uid))
    elif action == "C" and vr in TIMES:
        rule = Rule(vr, Action.SHIFTED)
    elif action in ("Z", "Z/D"):
        rule = Rule(vr, Action.EMPTIED, _empty)
    elif action == "D" and vr in _TEXT and vr != "AS":
        rule = Rule(vr, Action.DUMMY, _dummy)
    return rule


def _retained(vr: str) -> Rule | None:
    """Keep a value because an option says so: its form is still checked."""
    if vr in TIMES:
        return Rule(vr, Action.KEPT, _well_formed_time(vr))
    if vr in _NUMBERS:
        return Rule(vr, Action.KEPT, checks.numbers(vr, -_WIDEST, _WIDEST))
    if vr == "UI":
        return Rule(vr, Action.KEPT, checks.uids(str))
    return Rule(vr, Action.KEPT, _printable) if vr in _TEXT else None


def _well_formed_time(vr: str) -> Check:
    def check(raw: bytes) -> bytes | None:
        parts = checks.values_of(raw)
        if parts is None or not all(is_date_or_time(part, vr) for part in parts if part):
            return None
        return checks.padded("\\".join(parts), vr)

    return check


def _printable(raw: bytes) -> bytes | None:
    parts = checks.values_of(raw)
    if parts is None or not all(part.isprintable() for part in parts):
        return None
    return checks.padded("\\".join(parts), "LO")


def _empty(_: bytes) -> bytes:
    return b""


def _dummy(_: bytes) -> bytes:
    return _DUMMY
