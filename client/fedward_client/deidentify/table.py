"""DICOM PS3.15 Annex E, table E.1-1: what the standard asks for each attribute.

The rows are package data (their source and edition are named in the file). A profile's options
change the action of some rows; every row is the basic profile's unless an option says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

Options = frozenset[str]
"""Columns of the table in force: ``uids``, ``device``, ``institution``, ``patient``,
``dates-full``, ``dates-modified``, ``descriptors``, ``structured``, ``graphics``, ``private``."""

_DATES = ("dates-full", "dates-modified")
_PRECEDENCE = (
    "uids", "device", "institution", "patient", "descriptors", "structured", "graphics", "private",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row: ``basic`` and the actions under options are the standard's letters (D Z X K C U)."""

    tag: int
    name: str
    basic: str
    under: Mapping[str, str]

    def action(self, options: Options) -> str:
        """Return the standard's action with ``options`` in force.

        A date's own options go first: one real date beside shifted ones (a detector's calibration,
        which the option for devices keeps) would give the shift away. Then an option's K goes
        before its C. Without an option for dates no date is kept: (0028,0303) says so.
        """
        if any(option in self.under for option in _DATES):
            asked = [self.under[o] for o in _DATES if o in options and o in self.under]
            return asked[0] if asked else self.basic
        chosen = [self.under[o] for o in _PRECEDENCE if o in options and o in self.under]
        if "K" in chosen:
            return "K"
        return chosen[0] if chosen else self.basic


@cache
def rows() -> tuple[Row, ...]:
    """Return the rows that name one attribute each; private, curve and overlay groups are not here.

    Those groups are on no allow-list, so they are always removed.
    """
    text = files("fedward_client.deidentify").joinpath("data/ps3_15_e1_1.json").read_text("utf-8")
    table = json.loads(text)["rows"]
    return tuple(
        Row(int(tag[1:5] + tag[6:10], 16), name, basic, under)
        for tag, name, basic, under in table
        if "X" not in tag.upper() and "G" not in tag
    )
