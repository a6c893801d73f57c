"""The labels file: CSV with the header ``level,id,label,split``.

Identifiers are the original DICOM ones; they are pseudonymised as they are read and never appear in
a message. All labels of a patient must agree, because a patient is the unit of privacy and has one
label (B1).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from fedward_client.catalogue import Label, Level
from fedward_client.split import SplitRule
from fedward_common.errors import OperatorError
from fedward_common.queries.task import Split

HEADER = ("level", "id", "label", "split")
MAX_LABEL_CHARACTERS = 200
_LEVELS = ("patient", "study", "instance")
_SPLITS = ("", "train", "holdout")


@dataclass(frozen=True)
class LabelRow:
    """One line of a labels file; ``target`` is already a pseudonym."""

    line: int
    level: Level
    target: str
    value: str
    split: Split | None


Known = Mapping[Level, Mapping[str, str]]
"""For each level, the pseudonyms that the site knows -> the patient's pseudonym."""


def read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every line of a UTF-8 CSV file that is not empty.

    Raises:
        OperatorError: the file cannot be read, or is not UTF-8 text or CSV.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except OSError as error:
        raise OperatorError(f"{path}: cannot be read; check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise OperatorError(f"{path}: not a UTF-8 CSV file; export it again") from error


def read_labels(path: Path, pseudonym: Callable[[Level, str], str]) -> list[LabelRow]:
    """Read a labels file.

    Raises:
        OperatorError: naming the file and line: a wrong header, level, split or an empty cell.
    """
    lines = read_csv(path)
    header = next(lines, (1, []))[1]
    if tuple(header) != HEADER:
        raise OperatorError(f"{path}: line 1: the header must be {','.join(HEADER)}")
    rows = [_row(path, line, cells, pseudonym) for line, cells in lines]
    if not rows:
        raise OperatorError(f"{path}: holds no label below its header")
    return rows


def _row(
    path: Path, line: int, cells: Sequence[str], pseudonym: Callable[[Level, str], str]
) -> LabelRow:
    if len(cells) != len(HEADER):
        raise OperatorError(f"{path}: line {line}: {len(cells)} cells; needs {','.join(HEADER)}")
    level, identifier, value, split = cells
    if level not in _LEVELS:
        raise OperatorError(f"{path}: line {line}: level must be one of {', '.join(_LEVELS)}")
    if not identifier or not 0 < len(value) <= MAX_LABEL_CHARACTERS:
        raise OperatorError(f"{path}: line {line}: id and label must not be empty (or very long)")
    return LabelRow(
        line,
        cast("Level", level),
        pseudonym(cast("Level", level), identifier),
        value,
        parse_split(path, line, split),
    )


def refuse_moved(
    path: Path, rule: SplitRule, existing: Iterable[Label], labels: Iterable[Label]
) -> None:
    """Refuse labels that would move a patient between training and held-out. # B6.

    Each account pays for its own patients: one who changed sides would have been used by both.

    Raises:
        OperatorError: a patient's split differs from the one it has, or within ``labels``.
    """
    decided: dict[str, Split] = {}
    moved = set()
    for label in (*existing, *labels):
        split = label.split or rule.split_of(label.patient)
        if decided.setdefault(label.patient, split) != split:
            moved.add(label.patient)
    if moved:
        raise OperatorError(
            f"{path}: {len(moved)} patients would move between train and holdout, which is fixed "
            "for good; leave the split column as it was"
        )


def parse_split(path: Path, line: int, text: str) -> Split | None:
    """Return a split column's value; empty means the site's keyed rule."""
    if text not in _SPLITS:
        raise OperatorError(f"{path}: line {line}: split must be empty, train or holdout")
    return cast("Split", text) if text else None


def resolve(
    path: Path, rows: Sequence[LabelRow], known: Known, existing: Iterable[Label] = ()
) -> list[Label]:
    """Turn rows into labels of known patients.

    ``existing``: labels that the catalogue holds; a row replaces the one of its own target.

    Raises:
        OperatorError: labels for unknown patients, or labels or splits of one patient that differ.
    """
    unknown = [row.line for row in rows if row.target not in known[row.level]]
    if unknown:
        raise OperatorError(
            f"{path}: {len(unknown)} labels are for patients, studies or instances that are not "
            f"among the images (first on line {unknown[0]}); correct the ids or add the images"
        )
    replaced = {(row.level, row.target) for row in rows}
    decided = {
        label.patient: (label.value, label.split)
        for label in existing
        if (label.level, label.target) not in replaced
    }
    labels: dict[tuple[Level, str], Label] = {}
    for row in rows:
        patient = known[row.level][row.target]
        if decided.setdefault(patient, (row.value, row.split)) != (row.value, row.split):
            raise OperatorError(
                f"{path}: line {row.line}: another label or split was given for the same patient; "
                "a patient has one label"
            )
        labels[row.level, row.target] = Label(row.level, row.target, patient, row.value, row.split)
    return list(labels.values())
