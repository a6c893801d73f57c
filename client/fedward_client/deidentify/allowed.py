"""The rules of what is kept without asking the standard's table: the allow-list."""

from __future__ import annotations

from functools import partial

from pydicom.datadict import dictionary_VM, dictionary_VR

from fedward_client.deidentify import allowlist, checks, codes, luts, structured
from fedward_client.deidentify.descriptors import public_words
from fedward_client.deidentify.outcome import Action
from fedward_client.deidentify.rules import Rule, alone, entered, tag_of


def allowed_rules() -> dict[int, Rule]:
    """Return the rules of the allow-list: codes, numbers, sequences, classes, tables, regions."""
    rules: dict[int, Rule] = {}
    for keyword, terms in allowlist.CODES.items():
        tag = tag_of(keyword)
        rules[tag] = Rule(dictionary_VR(tag), Action.KEPT, checks.codes(terms))
    for keyword, (low, high) in allowlist.NUMBERS.items():
        tag = tag_of(keyword)
        vr = dictionary_VR(tag)[:2]
        rules[tag] = Rule(vr, Action.KEPT, checks.numbers(vr, low, high, _most_values(tag)))
    for keyword in allowlist.SEQUENCES:
        rules[tag_of(keyword)] = Rule("SQ", Action.KEPT, items=entered)
    for keyword in ("SOPClassUID", "ReferencedSOPClassUID"):
        rules[tag_of(keyword)] = Rule("UI", Action.KEPT, checks.uids(_image_class))
    for tag in (luts.MODALITY_LUT, luts.VOI_LUT):
        rules[tag] = Rule("SQ", Action.KEPT, items=alone(luts.lookup_table))
    known = partial(codes.code_element, meanings=allowlist.REGION_CODES)
    rules[tag_of("AnatomicRegionSequence")] = Rule("SQ", Action.KEPT, items=alone(known))
    return rules


def content_rules() -> dict[int, Rule]:
    """Return the rules of content items' attributes, which the standard's table does not name."""
    public = Rule("SQ", Action.CLEANED, items=alone(codes.public_code))
    content = Rule("SQ", Action.CLEANED, items=structured.content_item)
    return {
        structured.VALUE_TYPE: Rule("CS", Action.KEPT, checks.codes(structured.VALUE_TYPES)),
        structured.CONCEPT_NAME: public,
        structured.CONCEPT_CODE: public,
        structured.UNITS: public,
        structured.NUMERIC: Rule("DS", Action.CLEANED, checks.numbers("DS", -1e4, 1e4, 3)),
        structured.TEXT: Rule("UT", Action.CLEANED, public_words, is_free=True),
        structured.STEP_CONTENT: content,
        structured.SPECIMEN: Rule("SQ", Action.KEPT, items=entered),
    }


def _most_values(tag: int) -> int:
    most = dictionary_VM(tag).rpartition("-")[2]
    return int(most) if most.isdigit() else checks.MAX_VALUES


def _image_class(uid: str) -> str | None:
    return uid if uid in allowlist.IMAGE_CLASSES else None
