"""The studies a site knows: what was proposed, what its operator decided, how far each has come."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import StrEnum

from fedward_client.database import transaction
from fedward_common.errors import OperatorError, PolicyRefusalError

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
    held_e INTEGER,
    held BLOB
) STRICT
"""


class StudyState(StrEnum):
    """Where a study stands at this site."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    REJECTED = "rejected"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True)
class StudyRecord:
    """One row. ``digest`` is H over plan and approvals, known once the study runs."""

    plan_digest: bytes
    plan: bytes
    signature: bytes
    state: StudyState
    approval: bytes | None
    digest: bytes | None
    approvals: bytes | None
    progress: bytes | None


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

    def save_progress(self, digest: bytes, progress: bytes, *, finished: bool) -> None:
        """Store the folded state after another published sum."""
        state = StudyState.FINISHED if finished else StudyState.RUNNING
        with transaction(self._connection) as db:
            db.execute(
                "UPDATE studies SET progress = ?, state = ? WHERE digest = ? AND state != ?",
                (progress, state, digest, StudyState.FINISHED),
            )

    def hold(self, digest: bytes, e: int, progress: bytes) -> None:
        """Store a folded state that attempt ``e`` has still to confirm."""
        with transaction(self._connection) as db:
            db.execute(
                "UPDATE studies SET held_e = ?, held = ? WHERE digest = ?", (e, progress, digest)
            )

    def held(self, digest: bytes, e: int) -> bytes:
        """The state held for attempt ``e``.

        Raises:
            PolicyRefusalError: nothing is held for it.
        """
        row = self._connection.execute(
            "SELECT held FROM studies WHERE digest = ? AND held_e = ?", (digest, e)
        ).fetchone()
        if row is None:
            raise PolicyRefusalError(f"attempt {e} has no public input waiting to be confirmed")
        return bytes(row[0])

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


_COLUMNS = "plan_digest, plan, signature, state, approval, digest, approvals, progress"


def _record(row: tuple[bytes, bytes, bytes, str, bytes, bytes, bytes, bytes]) -> StudyRecord:
    plan_digest, plan, signature, state, *rest = row
    return StudyRecord(plan_digest, plan, signature, StudyState(state), *rest)
