"""A table of features: CSV, first column the patient's identifier, one column ``label``.

All other columns are numbers, except an optional ``split``. One line is one patient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedward_client.catalogue import Label
from fedward_client.intake.labels import (
    MAX_LABEL_CHARACTERS,
    parse_split,
    read_csv,
    refuse_moved,
)
from fedward_client.site_folder import SiteFolder
from fedward_common.errors import OperatorError
from fedward_common.queries.task import Split

_LABEL, _SPLIT = "label", "split"


@dataclass(frozen=True)
class TableRow:
    """One patient (a pseudonym): features in the order of the columns, float64, shape (F,)."""

    patient: str
    features: NDArray[np.float64]
    value: str
    split: Split | None


@dataclass(frozen=True)
class Table:
    """A feature table; ``columns`` names the features."""

    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class _Layout:
    names: tuple[str, ...]
    label: int
    split: int | None
    features: tuple[int, ...]


def read_table(path: Path, pseudonym: Callable[[str], str]) -> Table:
    """Read a feature table.

    Raises:
        OperatorError: naming the file, line and column: no label column, two columns of one name,
            a cell that is not a finite number, an empty identifier, or a patient on two lines.
    """
    lines = read_csv(path)
    layout = _layout(path, next(lines, (1, []))[1])
    rows: dict[str, TableRow] = {}
    for line, cells in lines:
        row = _row(path, line, cells, layout, pseudonym)
        if row.patient in rows:
            raise OperatorError(f"{path}: line {line}: this patient is on an earlier line too")
        rows[row.patient] = row
    if not rows:
        raise OperatorError(f"{path}: holds no patient below its header")
    return Table(tuple(layout.names[i] for i in layout.features), tuple(rows.values()))


def add_table(site: SiteFolder, path: Path, pseudonym: Callable[[str], str]) -> int:
    """Read a feature table into the site's catalogue, all or nothing; return how many patients."""
    table = read_table(path, pseudonym)
    labels = [Label("patient", r.patient, r.patient, r.value, r.split) for r in table.rows]
    refuse_moved(path, site.split, site.catalogue.labels(), labels)
    features = {row.patient: row.features for row in table.rows}
    site.catalogue.add_table(features, table.columns, labels)
    return len(table.rows)


def _layout(path: Path, header: Sequence[str]) -> _Layout:
    if _LABEL not in header[1:]:
        raise OperatorError(f"{path}: line 1: needs a column named {_LABEL} after the identifier")
    if len(set(header)) != len(header) or not all(header):
        raise OperatorError(f"{path}: line 1: every column needs a name of its own")
    positions = range(1, len(header))
    features = tuple(i for i in positions if header[i] not in (_LABEL, _SPLIT))
    if not features:
        raise OperatorError(f"{path}: line 1: there is no feature column")
    split = header.index(_SPLIT) if _SPLIT in header[1:] else None
    return _Layout(tuple(header), header.index(_LABEL), split, features)


def _row(
    path: Path, line: int, cells: Sequence[str], layout: _Layout, pseudonym: Callable[[str], str]
) -> TableRow:
    if len(cells) != len(layout.names):
        raise OperatorError(
            f"{path}: line {line}: {len(cells)} cells for {len(layout.names)} columns"
        )
    if not cells[0] or not 0 < len(cells[layout.label]) <= MAX_LABEL_CHARACTERS:
        raise OperatorError(f"{path}: line {line}: identifier and label must not be empty")
    numbers = [_number(path, line, layout.names[i], cells[i]) for i in layout.features]
    split = parse_split(path, line, cells[layout.split]) if layout.split is not None else None
    return TableRow(pseudonym(cells[0]), np.array(numbers), cells[layout.label], split)


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise OperatorError(f"{path}: line {line}: column {column!r} needs a finite number")
    return value
