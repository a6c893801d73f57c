"""What a rule is: what is written of one attribute, and after which check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from fedward_client.deidentify.checks import Check
from fedward_client.deidentify.container import Elements
from fedward_client.deidentify.outcome import Action
from fedward_common.errors import MisuseError

Clean = Callable[[Dataset], Elements]
ItemCleaner = Callable[[Dataset, Clean], Elements]
"""Cleans one item of a sequence; its second argument cleans a data set by the rules."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is written as ``vr``, after which check.

    ``items`` cleans the items of a sequence, ``check`` a value; without both it is a time to shift.
    ``otherwise`` is the rule of a value that is refused (None: removed). ``is_free`` marks text
    that a person may have typed: it must not hold a name of the file.
    """

    vr: str
    action: Action
    check: Check | None = None
    items: ItemCleaner | None = None
    otherwise: Rule | None = None
    is_free: bool = False


def tag_of(keyword: str) -> int:
    """Return the tag of an attribute of the standard's dictionary."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise MisuseError(f"{keyword}: not a keyword of the DICOM dictionary")
    return tag


def entered(item: Dataset, clean: Clean) -> Elements:
    """Clean an item by the rules of its own attributes."""
    return clean(item)


def alone(cleaner: Callable[[Dataset], Elements]) -> ItemCleaner:
    """Wrap a cleaner that rebuilds an item without the rules."""
    return lambda item, _: cleaner(item)
