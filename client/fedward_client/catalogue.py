"""The catalogue: which instances and labels the site holds, in its SQLite database.

In clear: keyed pseudonyms, modality and counts. Sealed: labels, splits and table features. A row is
written only after its object lies in the vault; an object without a row is swept. Rows of one
intake batch are one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward_client.database import transaction
from fedward_client.vault import Vault
from fedward_common.codec import decode, encode
from fedward_common.errors import IntegrityError, PeerError, StorageError

Level = Literal["patient", "study", "instance"]
Split = Literal["train", "holdout"]

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS instances (
      instance TEXT PRIMARY KEY, patient TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL,
      modality TEXT NOT NULL, fingerprint BLOB NOT NULL UNIQUE
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS instances_patient ON instances (patient)",
    "CREATE INDEX IF NOT EXISTS instances_study ON instances (study)",
    """CREATE TABLE IF NOT EXISTS labels (
      level TEXT NOT NULL, target TEXT NOT NULL, patient TEXT NOT NULL, sealed BLOB NOT NULL,
      PRIMARY KEY (level, target)
    ) STRICT""",
    "CREATE TABLE IF NOT EXISTS features (patient TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS refused (
      fingerprint BLOB PRIMARY KEY, reason TEXT NOT NULL, method BLOB NOT NULL
    ) STRICT""",
)
_MAX_LABEL_BYTES = 4096
_IMAGES_WITHOUT_LABEL = """
SELECT COUNT(*) FROM instances AS i
WHERE NOT EXISTS (SELECT 1 FROM labels WHERE level = 'patient' AND target = i.patient)
  AND NOT EXISTS (SELECT 1 FROM labels WHERE level = 'study' AND target = i.study)
  AND NOT EXISTS (SELECT 1 FROM labels WHERE level = 'instance' AND target = i.instance)
"""
_LABELS_WITHOUT_IMAGES = """
SELECT COUNT(*) FROM labels AS x WHERE NOT CASE level
  WHEN 'patient' THEN EXISTS (SELECT 1 FROM instances WHERE patient = x.target)
  WHEN 'study' THEN EXISTS (SELECT 1 FROM instances WHERE study = x.target)
  ELSE EXISTS (SELECT 1 FROM instances WHERE instance = x.target) END
"""


class Instance(NamedTuple):
    """One image object. All identifiers are keyed pseudonyms; ``fingerprint`` is of the source."""

    instance: str
    patient: str
    study: str
    series: str
    modality: str
    fingerprint: bytes

    @property
    def object_name(self) -> str:
        """Its name in the vault."""
        return instance_object(self.instance)


@dataclass(frozen=True)
class Label:
    """A label of a patient, study or instance (``target``); ``value`` as the file gave it.

    ``split`` is None (the site's keyed rule decides) except for public benchmark data.
    """

    level: Level
    target: str
    patient: str
    value: str
    split: Split | None


def instance_object(instance: str) -> str:
    """Return the vault name of an instance's cleaned DICOM file."""
    return f"instance/{instance}"


class Catalogue:
    """The catalogue of one site, over its open database and its vault's key."""

    def __init__(self, database: sqlite3.Connection, vault: Vault) -> None:
        self._database, self._vault = database, vault
        with transaction(database):
            for statement in _SCHEMA:
                database.execute(statement)

    def add(
        self,
        instances: Sequence[Instance],
        quarantined: Mapping[bytes, str] | None = None,
        method: bytes = b"",
    ) -> None:
        """Record instances whose objects the vault has flushed, and sources that are not used.

        ``method`` is a digest of all that decided; another one may decide otherwise.
        """
        rows = [(source, reason, method) for source, reason in (quarantined or {}).items()]
        with transaction(self._database) as database:
            database.executemany(
                "INSERT OR IGNORE INTO instances VALUES (?, ?, ?, ?, ?, ?)",
                instances,
            )
            database.executemany(
                "DELETE FROM refused WHERE fingerprint = ?", [(i.fingerprint,) for i in instances]
            )
            database.executemany("INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", rows)

    def add_labels(self, labels: Iterable[Label]) -> None:
        """Record labels, replacing those of the same targets, in one transaction."""
        rows = [(x.level, x.target, x.patient, self._sealed(x)) for x in labels]
        with transaction(self._database) as database:
            database.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", rows)

    def add_table(
        self, rows: Mapping[str, NDArray[np.float64]], columns: Sequence[str], labels: list[Label]
    ) -> None:
        """Record one feature row (float64, shape (columns,)) per patient, and their labels."""
        sealed = [
            (patient, self._vault.seal(f"features {patient}", _pack(columns, row)))
            for patient, row in rows.items()
        ]
        label_rows = [(x.level, x.target, x.patient, self._sealed(x)) for x in labels]
        with transaction(self._database) as database:
            database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", sealed)
            database.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", label_rows)

    def instances(self) -> list[Instance]:
        """Return every instance, in a fixed order."""
        return list(self.each_instance())

    def each_instance(self) -> Iterator[Instance]:
        """Yield every instance in the same order: by patient, study and instance."""
        rows = self._rows("SELECT * FROM instances ORDER BY patient, study, instance")
        return map(Instance._make, rows)

    def labels(self) -> list[Label]:
        """Return every label, unsealed.

        Raises:
            IntegrityError: a label was altered or moved to another target.
        """
        rows = self._rows("SELECT * FROM labels ORDER BY patient, level, target")
        return [self._unsealed(*row) for row in rows]

    def features(self, patient: str) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return a table patient's column names and values (float64, shape (columns,))."""
        rows = self._rows("SELECT sealed FROM features WHERE patient = ?", patient)
        if not rows:
            raise IntegrityError("site database: a patient's table row is missing")
        return _unpack(self._vault.unseal(f"features {patient}", rows[0][0]))

    def table_patients(self) -> set[str]:
        """Return the pseudonyms of patients that have a table row."""
        return {row[0] for row in self._rows("SELECT patient FROM features")}

    def recorded(self, fingerprint: bytes, method: bytes = b"") -> str | None:
        """Return "" for a source that is stored, why ``method`` refused it, or None: not known."""
        if self._rows("SELECT 1 FROM instances WHERE fingerprint = ?", fingerprint):
            return ""
        query = "SELECT reason FROM refused WHERE fingerprint = ? AND method = ?"
        refused = self._rows(query, fingerprint, method)
        return str(refused[0][0]) if refused else None

    def holds(self, instance: str) -> bool:
        """True if the instance of this pseudonym is stored."""
        return bool(self._rows("SELECT 1 FROM instances WHERE instance = ?", instance))

    def patients(self) -> set[str]:
        """Return the pseudonyms of patients that have images."""
        return {row[0] for row in self._rows("SELECT DISTINCT patient FROM instances")}

    def unmatched(self) -> tuple[int, int]:
        """Return how many instances no label covers, and how many labels cover no instance."""
        return self._rows(_IMAGES_WITHOUT_LABEL)[0][0], self._rows(_LABELS_WITHOUT_IMAGES)[0][0]

    def counts(self) -> Mapping[str, int]:
        """Return how many patients, studies, instances, labels, table rows and quarantined."""
        queries = {
            "patients": "SELECT COUNT(DISTINCT patient) FROM instances",
            "studies": "SELECT COUNT(DISTINCT study) FROM instances",
            "instances": "SELECT COUNT(*) FROM instances",
            "labels": "SELECT COUNT(*) FROM labels",
            "table_rows": "SELECT COUNT(*) FROM features",
            "quarantined": "SELECT COUNT(*) FROM refused",
        }
        return {name: self._rows(sql)[0][0] for name, sql in queries.items()}

    def sweep(self) -> int:
        """Delete vault objects without a row (left by a kill) and stale caches; return how many."""
        held = self._rows("SELECT instance FROM instances")
        return self._vault.sweep(instance_object(row[0]) for row in held)

    def _rows(self, query: str, *values: str | bytes) -> list[Any]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _unreadable(error) from error

    def _sealed(self, label: Label) -> bytes:
        context = f"label {label.level} {label.target} {label.patient}"
        return self._vault.seal(context, encode((label.value, label.split or "")))

    def _unsealed(self, level: Level, target: str, patient: str, sealed: bytes) -> Label:
        value, split = _decoded(self._vault.unseal(f"label {level} {target} {patient}", sealed))
        return Label(level, target, patient, value, split)


@lru_cache(maxsize=256)
def _decoded(raw: bytes) -> tuple[str, Split | None]:
    """A label's value and split: few different ones for many patients."""
    match decode(raw, max_bytes=_MAX_LABEL_BYTES):
        case (str(value), ("train" | "holdout" | "") as split):
            return value, split or None
        case _:
            raise IntegrityError("site database: a label is malformed")


def _unreadable(error: sqlite3.Error) -> StorageError:
    reason = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return StorageError(f"site database: {reason}; cannot read the catalogue: check the disk")


def _pack(columns: Sequence[str], row: NDArray[np.float64]) -> bytes:
    return encode((tuple(columns), np.ascontiguousarray(row, dtype="<f8").tobytes()))


def _unpack(raw: bytes) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    try:
        match decode(raw, max_bytes=1 << 24):
            case (tuple(columns), bytes(data)):
                return tuple(map(str, columns)), np.frombuffer(data, dtype="<f8").copy()
            case _:
                raise IntegrityError("site database: a table row is malformed")
    except PeerError as error:
        raise IntegrityError("site database: a table row is malformed") from error
