"""The embedded table study: scikit-learn's Wisconsin breast cancer data, spread over sites.

Real measurements of 569 patients (Street, Wolberg and Mangasarian 1993) that ship with the
library. Identifiers are invented; a share of the patients stays outside every site for testing.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from fedward_common.errors import OperatorError
from fedward_common.files import write_atomic

MALIGNANT = 0
"""scikit-learn's code of a malignant tumour; fedward's class 1, the one to find."""


@dataclass(frozen=True)
class Table:
    """Raw features float64 (N, 30), labels int64 (N,), and the columns' names."""

    columns: tuple[str, ...]
    features: NDArray[np.float64]
    labels: NDArray[np.int64]

    def rows(self, indices: NDArray[np.int64]) -> Table:
        """The table of some patients."""
        return Table(self.columns, self.features[indices], self.labels[indices])


def breast_cancer() -> Table:
    """The whole table; label 1 is malignant."""
    data = load_breast_cancer()
    columns = tuple(str(name).replace(" ", "_") for name in data.feature_names)
    return Table(columns, data.data, (data.target == MALIGNANT).astype(np.int64))


def share_table(
    table: Table, folder: Path, *, sites: int, held_out: float, seed: int
) -> tuple[list[Path], Table, Table]:
    """Write one CSV a site below ``folder``; returns the files, all their rows, the test rows."""
    order = np.random.default_rng(seed).permutation(len(table.labels))
    kept = round(held_out * len(order))
    if len(order) - kept < sites:
        raise OperatorError(
            f"data.sites: {sites} sites for {len(order) - kept} patients; use fewer"
        )
    files = []
    for site, indices in enumerate(np.array_split(order[kept:], sites), start=1):
        path = folder / f"site-{site:02d}" / "table.csv"
        write_atomic(path, _csv(table.rows(indices), indices))
        files.append(path)
    return files, table.rows(order[kept:]), table.rows(order[:kept])


def _csv(table: Table, numbers: NDArray[np.int64]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["patient", "label", *table.columns])
    for number, label, row in zip(numbers, table.labels, table.features, strict=True):
        writer.writerow([f"WDBC-{number:04d}", int(label), *(repr(float(x)) for x in row)])
    return text.getvalue().encode()
