"""Which published sums this site wants to see proven, and what came of it (A3.5).

A site asks for the evidence of a sum with its next masked addend, or when the study is over, by
chance or because its operator registered the sum. Only a plan with c of at least 1 allows it: the
evidence is the server's own view of a round.
"""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass
from enum import StrEnum

from fedward_client.database import transaction
from fedward_common.codec import decode, encode
from fedward_common.errors import IntegrityError

SCHEMA = """
CREATE TABLE IF NOT EXISTS audits (
    study BLOB NOT NULL, number INTEGER NOT NULL, verdict TEXT NOT NULL,
    detail TEXT NOT NULL, subject BLOB,
    PRIMARY KEY (study, number)
) STRICT
"""

MAX_SUBJECT_BYTES = 1 << 12


class Verdict(StrEnum):
    """How the audit of one sum stands."""

    REGISTERED = "registered"
    ASKED = "asked"
    TRUE = "true"
    FALSE = "false"
    REFUSED = "refused"
    UNSERVED = "unserved"


EXPLAINED = {
    Verdict.REGISTERED: "will be asked for when the sum is published",
    Verdict.ASKED: "the evidence was asked for and has not come yet",
    Verdict.TRUE: "the published sum is the sum of the addends that the members signed",
    Verdict.FALSE: "the published sum is NOT that of the addends; the study is stopped here",
    Verdict.REFUSED: "what the server served proves nothing",
    Verdict.UNSERVED: "the server did not serve the evidence",
}
"""Each verdict in words."""


@dataclass(frozen=True)
class Subject:
    """What the evidence of a sum is held against: this site's own idea of the attempt.

    ``e`` is the attempt in which this site released its shares, 0 if it took no part; ``sum_hash``
    is the SHA-256 by which the folded sum is known, ``dimension`` its coordinates.
    """

    e: int
    query: str
    round_number: int
    public_input_digest: bytes
    dimension: int
    sum_hash: bytes


@dataclass(frozen=True)
class Audit:
    """One row: sum ``number`` of ``study``, counted from 1."""

    study: bytes
    number: int
    verdict: Verdict
    detail: str
    subject: Subject | None


class Audits:
    """The table of audits."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with transaction(connection):
            connection.execute(SCHEMA)

    def find(self, study: bytes, number: int) -> Audit | None:
        """The audit of one sum, if there is one."""
        row = self._connection.execute(
            "SELECT study, number, verdict, detail, subject FROM audits"
            " WHERE study = ? AND number = ?",
            (study, number),
        ).fetchone()
        return None if row is None else _audit(row)

    def of_study(self, study: bytes) -> tuple[Audit, ...]:
        """Every audit of a study, by number."""
        rows = self._connection.execute(
            "SELECT study, number, verdict, detail, subject FROM audits WHERE study = ?"
            " ORDER BY number",
            (study,),
        )
        return tuple(map(_audit, rows))

    def register(self, study: bytes, number: int) -> Audit:
        """Note the operator's wish for a sum that is still to come."""
        with transaction(self._connection) as db:
            db.execute(
                "INSERT OR IGNORE INTO audits VALUES (?, ?, ?, '', NULL)",
                (study, number, Verdict.REGISTERED),
            )
        return Audit(study, number, Verdict.REGISTERED, "", None)

    def ask(self, study: bytes, number: int, subject: Subject) -> None:
        """Note that the evidence is asked for; earlier sums whose evidence never came have lapsed.

        So have registered ones that the server passed over, publishing several sums at once. A
        verdict that stands is not asked for again.
        """
        with transaction(self._connection) as db:
            db.execute(
                "UPDATE audits SET verdict = ? WHERE study = ? AND number < ?"
                " AND verdict IN (?, ?)",
                (Verdict.UNSERVED, study, number, Verdict.ASKED, Verdict.REGISTERED),
            )
            db.execute(
                "INSERT INTO audits VALUES (?, ?, ?, '', ?) ON CONFLICT DO UPDATE"
                " SET verdict = excluded.verdict, subject = excluded.subject"
                " WHERE verdict = ?",
                (study, number, Verdict.ASKED, encode(astuple(subject)), Verdict.REGISTERED),
            )

    def decide(self, study: bytes, number: int, verdict: Verdict, detail: str) -> None:
        """Record what came of an audit."""
        with transaction(self._connection) as db:
            self.write(db, study, number, verdict, detail)

    def write(
        self, db: sqlite3.Connection, study: bytes, number: int, verdict: Verdict, detail: str
    ) -> None:
        """Record what came of an audit, in the open transaction."""
        db.execute(
            "UPDATE audits SET verdict = ?, detail = ? WHERE study = ? AND number = ?",
            (verdict, detail, study, number),
        )


def _audit(row: tuple[bytes, int, str, str, bytes | None]) -> Audit:
    study, number, verdict, detail, subject = row
    about = None if subject is None else _subject(subject)
    return Audit(study, number, Verdict(verdict), detail, about)


def _subject(data: bytes) -> Subject:
    match decode(data, max_bytes=MAX_SUBJECT_BYTES):
        case (int(e), str(query), int(number), bytes(public), int(dimension), bytes(hashed)):
            return Subject(e, query, number, public, dimension, hashed)
    raise IntegrityError("site database: a stored audit is damaged; see `audit verify`")
