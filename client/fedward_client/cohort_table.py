"""A description of the site's patients that may be shown to others: a CSV table, k-anonymous.

One row is one patient: modality, manufacturer, part of the body, and sex and age where the profile
retains them. Values are terms of the de-identifier's lists or "other", ages are decades; no label,
no date and no pseudonym is in it. Groups below :data:`fedward_client.kanonymity.K` lose cells,
then vanish.

The counts are exact, without noise. That is for a hospital's own use, such as the first table of a
paper: it spends no privacy budget and so never goes through the door (B2).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO, StringIO
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from fedward_client.catalogue import Instance
from fedward_client.deidentify import allowlist
from fedward_client.deidentify.retained import OLDEST, PER_YEAR
from fedward_client.kanonymity import SUPPRESSED, Groups, K, anonymous_groups
from fedward_client.site_folder import SiteFolder
from fedward_common.errors import OperatorError
from fedward_common.files import write_atomic

COLUMNS = ("modality", "manufacturer", "body part", "sex", "age")
UNKNOWN, OTHER = "unknown", "other"
_TAGS = ("Modality", "Manufacturer", "BodyPartExamined", "PatientSex", "PatientAge")
_DECADE = 10


@dataclass(frozen=True)
class Description:
    """The groups of a cohort by :data:`COLUMNS`, and how many cells were suppressed in each."""

    groups: Groups
    suppressed: dict[str, int]

    def lines(self) -> tuple[str, ...]:
        """What was done to the table, for a person."""
        shown = sum(size for _, size in self.groups.shown)
        cells = ", ".join(f"{column} {count}" for column, count in self.suppressed.items())
        hidden = self.groups.hidden or 0
        return (
            f"{shown} patients in {len(self.groups.shown)} groups of {K} or more, {hidden} in none",
            f"ages are decades, {OLDEST} and above together; terms of no list are '{OTHER}'",
            f"patients whose cell was suppressed: {cells}",
            "counts are exact, without noise: for this hospital's own use, not for a study",
            "give out one such table: two of nearly the same patients show who was added",
        )

    def csv(self) -> str:
        """The table: a line for each group, with its patients; the hidden ones come last."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow((*COLUMNS, "patients"))
        writer.writerows((*key, size) for key, size in self.groups.shown)
        if self.groups.hidden:
            writer.writerow((*(SUPPRESSED for _ in COLUMNS), self.groups.hidden))
        return text.getvalue()


def describe_cohort(site: SiteFolder, out: Path) -> Description:
    """Write the description of all patients with images to ``out`` (new, mode 0600).

    Raises:
        OperatorError: ``out`` exists, or there are too few patients to show any group.
        IntegrityError: an object of the vault was altered.
        StorageError: the disk is full or read-only.
    """
    if out.exists():
        raise OperatorError(f"{out}: exists; choose a new file")
    groups = anonymous_groups(_rows(site))
    if not groups.shown:
        raise OperatorError(f"{site.path}: no {K} patients are alike; there is no table to show")
    suppressed = {
        column: sum(size for key, size in groups.shown if key[i] == SUPPRESSED)
        for i, column in enumerate(COLUMNS)
    }
    description = Description(groups, suppressed)
    write_atomic(out, description.csv().encode("ascii"), mode=0o600)
    return description


def _rows(site: SiteFolder) -> Iterator[tuple[str, ...]]:
    """Yield a row for each patient, from one instance of each of their series."""
    for _, instances in groupby(site.catalogue.each_instance(), attrgetter("patient")):
        one_each = {instance.series: instance for instance in instances}
        yield _row([_header(site, instance) for instance in one_each.values()])


def _header(site: SiteFolder, instance: Instance) -> Dataset:
    data = site.vault.get(instance.object_name)
    return dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=list(_TAGS))


def _row(headers: list[Dataset]) -> tuple[str, ...]:
    *terms, ages = ([str(header.get(tag, "")) for header in headers] for tag in _TAGS)
    known = [_terms(tag, values) for tag, values in zip(_TAGS, terms, strict=False)]
    return (*known, min(map(_decade, ages), key=_youngest_first))


def _terms(keyword: str, values: Iterable[str]) -> str:
    """A patient's different terms, in one cell."""
    listed = allowlist.CODES.get(keyword, frozenset("MFO"))
    found = {value if value in listed else OTHER for value in values if value}
    return "+".join(sorted(found)) or UNKNOWN


def _decade(age: str) -> str:
    """An age as PS3.5 writes it, as a decade of years."""
    if not (len(age) == 4 and age[:3].isdigit() and age[3] in "DWMY"):
        return UNKNOWN
    years = int(int(age[:3]) / PER_YEAR[age[3]])
    if years >= OLDEST:
        return f"{OLDEST}+"
    low = years // _DECADE * _DECADE
    return f"{low:02}-{low + _DECADE - 1:02}"


def _youngest_first(decade: str) -> tuple[bool, str]:
    return decade == UNKNOWN, decade
