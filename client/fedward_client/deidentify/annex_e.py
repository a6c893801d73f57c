"""The standard's table E.1-1 under a profile's options, and the allow-list: a rule per attribute.

What has no rule is removed. A rule's check decides from the value, so a kept attribute cannot carry
what its list or range does not allow; what an option would keep and its check refuses falls back to
what the basic profile does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag

from fedward_client.deidentify import checks, codes, graphics, structured, table
from fedward_client.deidentify.allowed import allowed_rules, content_rules
from fedward_client.deidentify.checks import Check
from fedward_client.deidentify.descriptors import public_words
from fedward_client.deidentify.dummies import DUMMIES
from fedward_client.deidentify.outcome import Action
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.pseudonyms import Pseudonyms
from fedward_client.deidentify.retained import TEXT, TIMES, is_free_text, retained
from fedward_client.deidentify.rules import ItemCleaner, Rule, alone, entered, tag_of

_EMPTIED = frozenset(map(tag_of, ("PatientAge",)))
"""Written with zero length where table E.1-1 asks for removal (X): it then shows that an age was
withheld, and a reader that expects the attribute finds it. Neither way holds a value."""

_FIRST_TAG = 0x00080000
"""Lower groups belong to commands, file meta information and directories."""


def build_rules(profile: Profile, pseudonyms: Pseudonyms) -> Mapping[int, Rule]:
    """Return the rule of every attribute that may be written, by tag."""
    rules = allowed_rules()
    if "structured" in profile.options:
        rules |= content_rules()
    for row in table.rows():
        if not dictionary_has_tag(row.tag) or row.tag < _FIRST_TAG:
            continue  # newer than this dictionary, or of no data set: without a rule it is removed
        rule = _from_table(row, profile.options, pseudonyms, rules.get(row.tag))
        if rule is None:
            rules.pop(row.tag, None)
        else:
            rules[row.tag] = rule
    return rules


def _from_table(
    row: table.Row, options: table.Options, pseudonyms: Pseudonyms, allowed: Rule | None
) -> Rule | None:
    action, vr, keyword = row.action(options), dictionary_VR(row.tag), keyword_for_tag(row.tag)
    if "*" in action:  # X/Z/U*: the references within are mapped by their own rules
        return allowed
    basic = _basic("Z" if row.tag in _EMPTIED else row.basic, vr, pseudonyms)
    chosen: Rule | None = None
    if action == "K":
        chosen = allowed or _kept(keyword, vr)
    elif action == "C":
        chosen = _cleaned(keyword, vr, pseudonyms)
    return basic if chosen is None else replace(chosen, otherwise=basic)


def _basic(letters: str, vr: str, pseudonyms: Pseudonyms) -> Rule | None:
    """Return the basic profile's rule.

    Of letters such as X/Z/D the one that keeps most structure counts: without knowledge of every
    IOD, an attribute that was there is taken for required.
    """
    if vr == "UI" and letters in ("U", "D"):
        return Rule("UI", Action.UID, checks.uids(pseudonyms.uid))
    if "D" in letters and not (vr == "SQ" and letters != "D"):
        return Rule(vr, Action.DUMMY, _constant(DUMMIES[vr]))
    return Rule(vr, Action.EMPTIED, _constant(b"")) if "Z" in letters else None


def _kept(keyword: str, vr: str) -> Rule | None:
    """Keep a value because an option says so, if its form can be checked."""
    if vr == "SQ":
        is_coded = keyword.endswith("CodeSequence")
        own = Rule("SQ", Action.KEPT, items=alone(codes.own_code), is_free=True)
        return own if is_coded else Rule("SQ", Action.KEPT, items=entered)
    check = retained(keyword, vr)
    if check is None:
        return None
    return Rule(vr, Action.KEPT, check, is_free=is_free_text(keyword, vr))


def _cleaned(keyword: str, vr: str, pseudonyms: Pseudonyms) -> Rule | None:
    if vr in TIMES:
        return Rule(vr, Action.SHIFTED)
    if vr == "AE":
        return Rule(vr, Action.PSEUDONYM, _titles(pseudonyms))
    if vr == "SQ":
        return Rule("SQ", Action.CLEANED, items=_item_cleaner(keyword))
    return Rule(vr, Action.CLEANED, public_words, is_free=True) if vr in TEXT else None


def _item_cleaner(keyword: str) -> ItemCleaner:
    if keyword in ("AcquisitionContextSequence", "ContentSequence"):
        return structured.content_item
    if keyword == "GraphicAnnotationSequence":
        return alone(graphics.annotation)
    return alone(codes.public_code) if keyword.endswith("CodeSequence") else entered


def _titles(pseudonyms: Pseudonyms) -> Check:
    """Replace application entity titles by keyed ones: devices stay distinct and have no name."""

    def check(raw: bytes) -> bytes | None:
        parts = checks.values_of(raw)
        if parts is None:
            return None
        titles = [pseudonyms.title(part) if part else "" for part in parts]
        return checks.padded("\\".join(titles), "AE")

    return check


def _constant(value: bytes) -> Check:
    return lambda _: value
