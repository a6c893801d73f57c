"""What this site has seen of the others' ledgers, and what they have said of its own (B6).

Every signed step 1 shows its site's head, and every masked addend is a debit made after it. Of
every other member the highest head is kept, over all studies, and of each study the last attempt
in which it debited: what this site answers when that member asks what was last seen of it.

A head alone is not enough: debits of other studies may have brought an older copy of a ledger to
the same length. A debit before a study's last is in every head that its site shows later there.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedward_client.chain import Head
from fedward_client.database import transaction
from fedward_common.codec import decode, digest, encode
from fedward_common.errors import IntegrityError, PeerError
from fedward_common.messages import MAX_NUMBER

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 64
"""Attempts that an answer names: of that many studies, the latest ones."""

MAX_SEEN_BYTES = 4096

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS witnessed_heads (
        identity BLOB PRIMARY KEY, count INTEGER NOT NULL, hash BLOB NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS witnessed_attempts (
        identity BLOB NOT NULL, study BLOB NOT NULL, e INTEGER NOT NULL, debited INTEGER NOT NULL,
        PRIMARY KEY (identity, study)
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS heard_ahead (
        witness BLOB PRIMARY KEY, seen BLOB NOT NULL
    ) STRICT""",
)


@dataclass(frozen=True)
class Seen:
    """The last that was seen of a site: its highest head, and attempts that it has debited.

    ``attempts`` are :func:`attempt_digest` of those whose masked addend was seen; a site knows its
    own, and nobody else learns from them which studies it is in.
    """

    head: Head
    attempts: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return encode((*self.head, self.attempts))

    @classmethod
    def decode(cls, data: bytes) -> Seen:
        """Read what :meth:`encode` wrote.

        Raises:
            PeerError: malformed or too long.
        """
        match decode(data, max_bytes=MAX_SEEN_BYTES):
            case (int(count), bytes(hashed), tuple(items)) if 0 <= count <= MAX_NUMBER:
                attempts = tuple(item for item in items if isinstance(item, bytes))
                if len(attempts) == len(items) <= MAX_ATTEMPTS:
                    return cls(Head(count, hashed), attempts)
        raise PeerError("what was seen of a ledger is not a head and attempts")


NEVER = Seen(Head(0, b""), ())
"""Of a site that was never seen."""


def attempt_digest(study: bytes, e: int) -> bytes:
    """Name an attempt to who knows it: SHA-256 of (study, e), 32 bytes."""
    return digest("attempt seen", study, e)


class HeadBook:
    """What was seen of every identity key, in one site's database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with transaction(connection):
            for statement in _SCHEMA:
                connection.execute(statement)

    def saw(self, study: bytes, e: int, heads: Mapping[bytes, tuple[int, bytes]]) -> None:
        """Keep the heads that identities signed in attempt ``e``, where they are the highest yet.

        Of two heads with one count the first stays: the other is a fork, such as two running copies
        of a site make, and is logged. An earlier attempt of the study is in the head that is shown
        now, or was never debited.
        """
        with transaction(self._connection) as db:
            for identity, (count, hashed) in heads.items():
                known = _stored(db, identity)
                if known is not None and known[0] == count and known[1] != hashed:
                    log.error("member %s shows two ledgers of one length", identity.hex()[:16])
            db.executemany(
                "INSERT INTO witnessed_heads VALUES (?, ?, ?) ON CONFLICT (identity) DO UPDATE"
                " SET count = excluded.count, hash = excluded.hash WHERE excluded.count > count",
                [(identity, *head) for identity, head in heads.items()],
            )
            db.executemany(
                "DELETE FROM witnessed_attempts WHERE identity = ? AND study = ? AND e < ?",
                [(identity, study, e) for identity in heads],
            )
            db.executemany(
                "INSERT OR IGNORE INTO witnessed_attempts VALUES (?, ?, ?, 0)",
                [(identity, study, e) for identity in heads],
            )

    def debited(self, study: bytes, e: int, identities: Iterable[bytes]) -> None:
        """Note that these signed a masked addend in attempt ``e``, whose heads were seen."""
        rows = [(study, e, identity) for identity in identities]
        with transaction(self._connection) as db:
            db.executemany(
                "UPDATE witnessed_attempts SET debited = 1"
                " WHERE study = ? AND e = ? AND identity = ?",
                rows,
            )

    def latest(self, identity: bytes) -> Seen:
        """The last that was seen of this identity."""
        row = _stored(self._connection, identity)
        if row is None:
            return NEVER
        attempts = self._connection.execute(
            "SELECT study, e FROM witnessed_attempts WHERE identity = ? AND debited = 1"
            " ORDER BY rowid DESC LIMIT ?",
            (identity, MAX_ATTEMPTS),
        )
        return Seen(Head(*row), tuple(attempt_digest(study, e) for study, e in attempts))

    def keep_ahead(self, witness: bytes, seen: Seen) -> None:
        """Keep what this witness signed of this site's own ledger, which contradicts it."""
        with transaction(self._connection) as db:
            db.execute("INSERT OR REPLACE INTO heard_ahead VALUES (?, ?)", (witness, seen.encode()))

    def all_ahead(self) -> list[tuple[bytes, Seen]]:
        """Every witness, by identity key, that ever contradicted this site's own ledger."""
        rows = self._connection.execute("SELECT witness FROM heard_ahead ORDER BY rowid").fetchall()
        found = ((bytes(witness), self.ahead(witness)) for (witness,) in rows)
        return [(witness, seen) for witness, seen in found if seen is not None]

    def ahead(self, witness: bytes) -> Seen | None:
        """What this witness signed that contradicted this site's ledger, if it ever did."""
        row = self._connection.execute(
            "SELECT seen FROM heard_ahead WHERE witness = ?", (witness,)
        ).fetchone()
        try:
            return None if row is None else Seen.decode(row[0])
        except PeerError as error:
            raise IntegrityError("site database: what a witness said is damaged") from error


def _stored(db: sqlite3.Connection, identity: bytes) -> tuple[int, bytes] | None:
    row = db.execute(
        "SELECT count, hash FROM witnessed_heads WHERE identity = ?", (identity,)
    ).fetchone()
    return None if row is None else (int(row[0]), bytes(row[1]))
