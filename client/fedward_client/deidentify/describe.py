"""What a profile does to each attribute, told from the very rules that the engine runs."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.datadict import dictionary_has_tag, keyword_for_tag

from fedward_client.deidentify import table
from fedward_client.deidentify.outcome import Action
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.pseudonyms import MIN_SECRET_BYTES, Pseudonyms
from fedward_client.deidentify.rules import Rule, build_rules, tag_of
from fedward_common.secret import SecretBytes

IDENTITY = frozenset(map(tag_of, ("PatientID", "PatientName")))
"""The engine writes the patient's keyed pseudonym here, whatever the rules say."""


@dataclass(frozen=True)
class AttributeEffect:
    """One attribute: its tag as the standard writes it, its keyword, and what happens to it."""

    tag: str
    keyword: str
    effect: str


def summary(profile: Profile) -> tuple[str, ...]:
    """The profile in sentences."""
    pixels = profile.pixels
    options = ", ".join(sorted(profile.options)) or "none"
    return (
        f"options of PS3.15 Annex E in force: {options}",
        "attributes: what no rule keeps is removed, private, overlay and curve groups included",
        f"dates and times: {_DATES[profile.retain.dates]}",
        f"burned-in text: {_TEXT[pixels.text]}; masks for {len(profile.mask)} layouts",
        f"secondary capture: {_REFUSE[pixels.secondary_capture]}",
        f"ultrasound without regions: {_REFUSE[pixels.ultrasound_without_regions]}",
        f"head CT and MR: {_REFUSE[pixels.head_ct_mr]}",
        f"no patient identifier: {_REFUSE[profile.missing_patient_id]}",
    )


def attributes(profile: Profile) -> tuple[AttributeEffect, ...]:
    """Every attribute that the rules or the standard's table name, in the order of the tags.

    Effects do not depend on the site's secret, so none is needed.
    """
    rules = build_rules(profile, Pseudonyms(SecretBytes(bytes(MIN_SECRET_BYTES))))
    named = {row.tag for row in table.rows() if dictionary_has_tag(row.tag)}
    return tuple(
        AttributeEffect(
            f"({tag >> 16:04x},{tag & 0xFFFF:04x})",
            keyword_for_tag(tag),
            _effect(tag, rules.get(tag)),
        )
        for tag in sorted(named | rules.keys() | IDENTITY)
    )


def _effect(tag: int, rule: Rule | None) -> str:
    if tag in IDENTITY:
        return str(Action.PSEUDONYM)
    if rule is None:
        return str(Action.REMOVED)
    if rule.vr == "SQ":
        return "entered: its items are cleaned by these rules"
    return str(Action.SHIFTED if rule.check is None else rule.action)


_DATES = {
    "none": "removed or emptied",
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
