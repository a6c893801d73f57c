"""What a profile does to each attribute, told from the very rules that the engine runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.datadict import dictionary_has_tag, keyword_for_tag

from fedward_client.deidentify import descriptors, marks, private, table
from fedward_client.deidentify.annex_e import build_rules
from fedward_client.deidentify.outcome import Action
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.pseudonyms import MIN_SECRET_BYTES, Pseudonyms
from fedward_client.deidentify.rules import Rule, tag_of
from fedward_common.secret import SecretBytes

IDENTITY = frozenset(map(tag_of, ("PatientID", "PatientName")))
"""The engine writes the patient's keyed pseudonym here, whatever the rules say."""


@dataclass(frozen=True)
class AttributeEffect:
    """One attribute: its tag as the standard writes it, its keyword, and what happens to it.

    ``otherwise``: what happens to a value that is refused. ``rule``: the letter of table E.1-1 in
    force, or the list that allows it. ``options``: what each option of the standard would ask for.
    """

    tag: str
    keyword: str
    effect: str
    otherwise: str
    rule: str
    options: str


@dataclass(frozen=True, order=True)
class AuditEntry:
    """Which rule did what to which attribute; never a value."""

    rule: str
    action: str
    tag: str


def summary(profile: Profile) -> tuple[str, ...]:
    """The profile in sentences."""
    pixels = profile.pixels
    options = ", ".join(sorted(profile.options)) or "none"
    codes = ", ".join(f"{code} {meaning}" for code, meaning in marks.method_codes(profile))
    return (
        f"options of PS3.15 Annex E in force: {options}",
        f"recorded in each file: {codes}",
        "attributes: what no rule keeps is removed, overlay and curve groups included",
        f"private attributes: {_private(profile)}",
        f"texts: {_texts(profile)}",
        f"content items: {_CONTENT[profile.clean.structured_content]}",
        f"graphic annotations: {_GRAPHICS[profile.clean.graphics]}",
        f"dates and times: {_DATES[profile.retain.dates]}",
        f"burned-in text: {_TEXT[pixels.text]}; masks for {len(profile.mask)} layouts",
        f"secondary capture: {_REFUSE[pixels.secondary_capture]}",
        f"ultrasound without regions: {_REFUSE[pixels.ultrasound_without_regions]}",
        f"head CT and MR, unless declared defaced: {_REFUSE[pixels.head_ct_mr]}",
        f"no patient identifier: {_REFUSE[profile.missing_patient_id]}",
    )


def attributes(profile: Profile) -> tuple[AttributeEffect, ...]:
    """Every attribute that the rules or the standard's table name, in the order of the tags.

    Effects do not depend on the site's secret, so none is needed.
    """
    rules = _rules_of(profile)
    rows = _named_rows()
    return tuple(
        AttributeEffect(
            _written(tag),
            keyword_for_tag(tag),
            _effect(tag, rules.get(tag)),
            _otherwise(rules.get(tag)),
            _rule_name(tag, profile, rules, rows),
            _options(rows.get(tag)),
        )
        for tag in sorted(rows.keys() | rules.keys() | IDENTITY)
    )


def audit(log: Mapping[tuple[int, Action], int], profile: Profile) -> Counter[AuditEntry]:
    """Tell what was done how often (``Cleaned.log``, counted) by rule, action and tag."""
    rules, rows = _rules_of(profile), _named_rows()
    entries: Counter[AuditEntry] = Counter()
    for (tag, action), count in log.items():
        rule = _rule_name(tag, profile, rules, rows)
        entries[AuditEntry(rule, str(action), _written(tag))] += count
    return entries


def _rules_of(profile: Profile) -> Mapping[int, Rule]:
    return build_rules(profile, Pseudonyms(SecretBytes(bytes(MIN_SECRET_BYTES))))


def _named_rows() -> Mapping[int, table.Row]:
    return {row.tag: row for row in table.rows() if dictionary_has_tag(row.tag)}


def _written(tag: int) -> str:
    return f"({tag >> 16:04x},{tag & 0xFFFF:04x})"


def _effect(tag: int, rule: Rule | None) -> str:
    if tag in IDENTITY:
        return str(Action.PSEUDONYM)
    if rule is None:
        return str(Action.REMOVED)
    if rule.items is not None:
        return "entered: its items are cleaned by these rules"
    return str(Action.SHIFTED if rule.check is None else rule.action)


def _otherwise(rule: Rule | None) -> str:
    chosen = rule.otherwise if rule is not None else None
    return str(Action.REMOVED if chosen is None else chosen.action)


def _rule_name(
    tag: int, profile: Profile, rules: Mapping[int, Rule], rows: Mapping[int, table.Row]
) -> str:
    if tag in rows:
        return f"E.1-1 {rows[tag].action(profile.options)}"
    if private.is_private(tag):
        return "E.3.10 safe private" if profile.retain.safe_private else "E.1-1 X"
    return "allow-list" if tag in rules else "no rule"


def _options(row: table.Row | None) -> str:
    under = row.under if row is not None else {}
    return ", ".join(f"{option} {letter}" for option, letter in sorted(under.items()))


def _private(profile: Profile) -> str:
    if not profile.retain.safe_private:
        return "removed"
    return f"removed but for {len(private.safe_attributes())} that the standard calls safe"


def _texts(profile: Profile) -> str:
    if not profile.clean.descriptors:
        return "removed"
    return f"kept if they consist of {len(descriptors.vocabulary())} public words, else removed"


_CONTENT = {
    False: "removed",
    True: "kept if concept and value are public codes, numbers, public words or dates",
}
_GRAPHICS = {"remove": "removed", "geometry": "simple shapes kept, all text removed"}
_DATES = {
    "none": "removed, emptied or replaced by a dummy",
    "modified": "shifted together by a keyed time for each patient; intervals stay exact",
    "full": "kept",
}
_TEXT = {
    "mask": "found and blanked",
    "quarantine": "the file is refused",
    "off": "not looked for",
}
_REFUSE = {
    "quarantine": "refused",
    "mask": "text and masks blanked, then used",
    "keep": "used",
    "study": "each study counts as a patient of its own",
}
