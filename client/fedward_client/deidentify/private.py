"""Retain Safe Private (PS3.15 E.3.10): private attributes of the standard's list, rewritten.

Ours is the part of table E.3.10-1 that holds numbers and codes, each with a range or terms; its
text and bulk attributes are removed. A block that the file declares unsafe (0008,0300) is removed
too. Creators are written from our list, and blocks are numbered anew.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pydicom.dataset import Dataset

from fedward_client.deidentify import checks
from fedward_client.deidentify.checks import Check, padded
from fedward_client.deidentify.container import Element, Elements
from fedward_client.deidentify.outcome import Action
from fedward_client.deidentify.reading import items_of, raw_value, text_value

CHARACTERISTICS = 0x00080300
_GROUP, _CREATOR, _STATUS = 0x00080301, 0x00080302, 0x00080303
_FIRST_BLOCK = 0x10


@dataclass(frozen=True)
class SafeAttribute:
    """One attribute of the list: what it is called, how it is encoded, which values pass."""

    name: str
    vr: str
    check: Check


@cache
def safe_attributes() -> Mapping[tuple[str, int, int], SafeAttribute]:
    """Return the list by (creator, group, element within the block)."""
    text = files("fedward_client.deidentify").joinpath("data/safe_private.json").read_text("utf-8")
    listed = {}
    for creator, group, element, vr, count, allowed, name in json.loads(text)["rows"]:
        if vr == "CS":
            check = checks.codes(frozenset(allowed.split()))
        else:
            low, high = allowed
            check = checks.numbers(vr, low, high, count)
        listed[creator, int(group, 16), int(element, 16)] = SafeAttribute(name, vr, check)
    return listed


def is_private(tag: int) -> bool:
    """True for an attribute of an odd group."""
    return bool(tag >> 16 & 1)


def keep_safe(source: Dataset, tags: Iterable[int]) -> tuple[Elements, dict[int, Action]]:
    """Return the safe ones of the private ``tags`` with their creators, and what became of each."""
    refused = _declared_unsafe(source)
    kept: dict[int, Element] = {}
    blocks: dict[tuple[int, str], int] = {}
    actions = dict.fromkeys(tags, Action.REMOVED)
    for tag in sorted(actions):
        group, creator = tag >> 16, text_value(source, (tag & 0xFFFF0000) | (tag >> 8 & 0xFF))
        safe = safe_attributes().get((creator, group, tag & 0xFF))
        if safe is None or tag & 0xFFFF < _FIRST_BLOCK << 8 or (group, creator) in refused:
            continue
        value = safe.check(raw_value(source, tag, safe.vr))
        actions[tag] = Action.KEPT if value else Action.INVALID
        if value:
            used = sum(1 for other, _ in blocks if other == group)
            block = blocks.setdefault((group, creator), _FIRST_BLOCK + used)
            kept[group << 16 | block] = ("LO", padded(creator, "LO"))
            kept[group << 16 | block << 8 | tag & 0xFF] = (safe.vr, value)
    if blocks:
        kept[CHARACTERISTICS] = ("SQ", [_declaration(*block) for block in sorted(blocks)])
    return kept, actions


def _declared_unsafe(source: Dataset) -> set[tuple[int, str]]:
    return {
        (int.from_bytes(raw_value(item, _GROUP, "US"), "little"), text_value(item, _CREATOR))
        for item in items_of(source, CHARACTERISTICS)
        if text_value(item, _STATUS) != "SAFE"
    }


def _declaration(group: int, creator: str) -> Elements:
    """Say that a block is safe (PS3.3 C.12.1.1.7)."""
    return {
        _GROUP: ("US", struct.pack("<H", group)),
        _CREATOR: ("LO", padded(creator, "LO")),
        _STATUS: ("CS", padded("SAFE", "CS")),
    }
