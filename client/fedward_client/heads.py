"""The ledger heads that this site has seen of the others (B6).

Every signed step 1 shows its site's head. The highest of every other member is kept by identity
key, over all studies: what this site answers when that member asks what was last seen of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedward_client.chain import Head
from fedward_client.database import transaction


@dataclass(frozen=True)
class Seen:
    """The last that was seen of a site: its ledger's head, and whether it debited after that.

    ``debited``: a masked addend of the attempt in which it showed the head was seen as well, so
    the ledger must have grown by a row since.
    """

    head: Head
    debited: bool

    @property
    def least(self) -> int:
        """The rows that the ledger has at least."""
        return self.head.length + self.debited


NEVER = Seen(Head(0, b""), debited=False)
"""Of a site that was never seen."""


class HeadBook:
    """The highest head seen of every identity key, in one site's database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with transaction(connection):
            connection.execute(
                """CREATE TABLE IF NOT EXISTS heads_seen (
                    identity BLOB PRIMARY KEY, count INTEGER NOT NULL, hash BLOB NOT NULL,
                    study BLOB NOT NULL, e INTEGER NOT NULL, debited INTEGER NOT NULL
                ) STRICT"""
            )

    def saw(self, study: bytes, e: int, heads: Mapping[bytes, tuple[int, bytes]]) -> None:
        """Keep the heads that identities signed in attempt ``e``, where they are the highest yet.

        Of two heads with one count the first stays: the other would be a fork.
        """
        rows = [(identity, *head, study, e) for identity, head in heads.items()]
        with transaction(self._connection) as db:
            db.executemany(
                "INSERT INTO heads_seen VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (identity) DO UPDATE"
                " SET count = excluded.count, hash = excluded.hash, study = excluded.study,"
                " e = excluded.e, debited = 0 WHERE excluded.count > count",
                rows,
            )

    def debited(self, study: bytes, e: int, identities: Iterable[bytes]) -> None:
        """Note that these signed a masked addend in attempt ``e``, after the head shown in it."""
        rows = [(study, e, identity) for identity in identities]
        with transaction(self._connection) as db:
            db.executemany(
                "UPDATE heads_seen SET debited = 1 WHERE study = ? AND e = ? AND identity = ?", rows
            )

    def latest(self, identity: bytes) -> Seen:
        """The last that was seen of this identity."""
        row = self._connection.execute(
            "SELECT count, hash, debited FROM heads_seen WHERE identity = ?", (identity,)
        ).fetchone()
        return NEVER if row is None else Seen(Head(row[0], row[1]), bool(row[2]))
