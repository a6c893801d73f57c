"""The studies a site knows: what was proposed, what its operator decided, how far each has come."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fedward_client.database import transaction
from fedward_common.errors import OperatorError, PeerError, PolicyRefusalError

SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
    plan_digest BLOB PRIMARY KEY,
    plan BLOB NOT NULL,
    signature BLOB NOT NULL,
    state TEXT NOT NULL,
    approval BLOB,
    digest BLOB UNIQUE,
    approvals BLOB,
    progress BLOB,
    held BLOB,
    folded_e INTEGER,
    folded BLOB,
    released INTEGER NOT NULL DEFAULT -1,
    released_e INTEGER NOT NULL DEFAULT 0
) STRICT
"""


class StudyState(StrEnum):
    """Where a study stands at this site."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    REJECTED = "rejected"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    WITHDRAWN = "withdrawn"


ENDED = (StudyState.FINISHED, StudyState.STOPPED, StudyState.WITHDRAWN)
"""States in which the study's encryption key must be gone (A1)."""


@dataclass(frozen=True)
class StudyRecord:
    """One row. ``digest`` is H over plan and approvals, known once the study runs.

    ``held`` is the folded state after sums published outside a round, which any later attempt may
    confirm; ``folded`` is that of the attempt ``folded_e``, which its own signatures confirm.
    ``released`` is the highest position for which shares were released, in attempt ``released_e``;
    -1 before the first (A2).
    """

    plan_digest: bytes
    plan: bytes
    signature: bytes
    state: StudyState
    approval: bytes | None
    digest: bytes | None
    approvals: bytes | None
    progress: bytes | None
    held: bytes | None
    folded_e: int | None
    folded: bytes | None
    released: int
    released_e: int


class Studies:
    """The table of studies."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with transaction(connection):
            connection.execute(SCHEMA)

    def propose(self, plan_digest: bytes, plan: bytes, signature: bytes) -> None:
        """Remember a validly signed plan until the operator decides; known plans stay as is."""
        with transaction(self._connection) as db:
            db.execute(
                "INSERT OR IGNORE INTO studies (plan_digest, plan, signature, state)"
                " VALUES (?, ?, ?, ?)",
                (plan_digest, plan, signature, StudyState.PROPOSED),
            )

    def approve(self, plan_digest: bytes, approval: bytes) -> None:
        """Record the operator's signed approval. A study under way keeps the one it began with."""
        self._decide(plan_digest, StudyState.APPROVED, approval)

    def reject(self, plan_digest: bytes) -> None:
        """Record that the operator said no."""
        self._decide(plan_digest, StudyState.REJECTED, None)

    def withdraw(self, plan_digest: bytes) -> None:
        """End a study that is running here, because the operator says so: nothing undoes it (G7).

        Raises:
            OperatorError: it is not running, or not any more.
        """
        with transaction(self._connection) as db:
            cursor = db.execute(
                "UPDATE studies SET state = ? WHERE plan_digest = ? AND state = ?",
                (StudyState.WITHDRAWN, plan_digest, StudyState.RUNNING),
            )
            if cursor.rowcount != 1:
                raise OperatorError(
                    f"plan {plan_digest.hex()[:16]}: its study is not running; see `plan show`"
                )

    def begin(self, plan_digest: bytes, digest: bytes, approvals: bytes, progress: bytes) -> None:
        """Start an approved study under its final digest."""
        with transaction(self._connection) as db:
            db.execute(
                "UPDATE studies SET state = ?, digest = ?, approvals = ?, progress = ?"
                " WHERE plan_digest = ? AND state = ?",
                (
                    StudyState.RUNNING,
                    digest,
                    approvals,
                    progress,
                    plan_digest,
                    StudyState.APPROVED,
                ),
            )

    def finish(self, digest: bytes, progress: bytes) -> None:
        """Store the folded state after the last published sum."""
        with transaction(self._connection) as db:
            db.execute(
                "UPDATE studies SET progress = ?, state = ? WHERE digest = ? AND state = ?",
                (progress, StudyState.FINISHED, digest, StudyState.RUNNING),
            )

    def fold(
        self, db: sqlite3.Connection, digest: bytes, e: int, position: int, progress: bytes
    ) -> None:
        """Store in the open transaction the public input that ``e`` computed on (A2).

        Raises:
            PeerError: the study is over, or a sum of this position was opened in the meantime.
        """
        cursor = db.execute(
            "UPDATE studies SET folded_e = ?, folded = ?"
            " WHERE digest = ? AND state = ? AND released < ?",
            (e, progress, digest, StudyState.RUNNING, position),
        )
        if cursor.rowcount != 1:
            raise _too_late(db, digest, e, position)

    def release(self, db: sqlite3.Connection, digest: bytes, e: int, position: int) -> None:
        """Note in the open transaction that e's shares leave, and adopt what it confirmed (A2).

        Raises:
            PeerError: the study is over, or a sum of this position was opened in the meantime.
        """
        cursor = db.execute(
            "UPDATE studies SET released = ?, released_e = ?, progress = folded,"
            " folded = NULL, folded_e = NULL"
            " WHERE digest = ? AND state = ? AND folded_e = ? AND released < ?",
            (position, e, digest, StudyState.RUNNING, e, position),
        )
        if cursor.rowcount != 1:
            raise _too_late(db, digest, e, position)

    def stop(
        self, digest: bytes, beside: Callable[[sqlite3.Connection], None] = lambda _: None
    ) -> None:
        """End the study at this site, whatever comes (A3.5), with what ``beside`` writes."""
        with transaction(self._connection) as db:
            beside(db)
            db.execute(
                "UPDATE studies SET state = ? WHERE digest = ?", (StudyState.STOPPED, digest)
            )

    def hold(self, digest: bytes, progress: bytes) -> None:
        """Store the state after published sums, which a later attempt has still to confirm."""
        with transaction(self._connection) as db:
            db.execute("UPDATE studies SET held = ? WHERE digest = ?", (progress, digest))

    def ended(self) -> tuple[StudyRecord, ...]:
        """The studies that are over at this site, oldest first."""
        return tuple(record for record in self.all() if record.state in ENDED)

    def by_plan(self, plan_digest: bytes) -> StudyRecord | None:
        """The study of this plan, if the site has heard of it."""
        return self._one("plan_digest", plan_digest)

    def running(self, digest: bytes) -> StudyRecord:
        """The study of this digest.

        Raises:
            PolicyRefusalError: the site has not begun it.
        """
        record = self._one("digest", digest)
        if record is None:
            raise PolicyRefusalError("this study has not begun at this site")
        return record

    def state(self, digest: bytes) -> StudyState | None:
        """How the study of this digest stands; None if it has not begun here."""
        query = "SELECT state FROM studies WHERE digest = ?"
        row = self._connection.execute(query, (digest,)).fetchone()
        return None if row is None else StudyState(row[0])

    def all(self) -> tuple[StudyRecord, ...]:
        """Every study, oldest first."""
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM studies ORDER BY rowid")  # noqa: S608
        return tuple(_record(row) for row in rows)

    def _decide(self, plan_digest: bytes, state: StudyState, approval: bytes | None) -> None:
        with transaction(self._connection) as db:
            cursor = db.execute(
                "UPDATE studies SET state = ?, approval = ? WHERE plan_digest = ?"
                " AND state IN ('proposed', 'approved', 'rejected')",
                (state, approval, plan_digest),
            )
            if cursor.rowcount != 1:
                raise OperatorError(
                    f"plan {plan_digest.hex()[:16]}: not waiting for a decision; see `plan show`"
                )

    def _one(self, column: str, value: bytes) -> StudyRecord | None:
        query = f"SELECT {_COLUMNS} FROM studies WHERE {column} = ?"  # noqa: S608  (constants)
        row = self._connection.execute(query, (value,)).fetchone()
        return None if row is None else _record(row)


def _too_late(db: sqlite3.Connection, digest: bytes, e: int, position: int) -> PeerError:
    row = db.execute("SELECT state FROM studies WHERE digest = ?", (digest,)).fetchone()
    if row is None or row[0] != StudyState.RUNNING:
        return PeerError(f"attempt {e}: the study is over at this site")
    return PeerError(f"attempt {e}: this site's shares for sum {position + 1} have left")


_COLUMNS = (
    "plan_digest, plan, signature, state, approval, digest, approvals, progress, held, folded_e,"
    " folded, released, released_e"
)


def _record(row: tuple[Any, ...]) -> StudyRecord:
    plan_digest, plan, signature, state, *rest = row
    return StudyRecord(plan_digest, plan, signature, StudyState(state), *rest)
