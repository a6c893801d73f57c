"""Which other hospitals this site has verified: fingerprints compared person to person (A1)."""

from __future__ import annotations

import sqlite3

from fedward_client.database import transaction
from fedward_common.errors import OperatorError
from fedward_common.identity import SitePublic, fingerprint
from fedward_common.plan.sections import RosterSite

SCHEMA = """CREATE TABLE IF NOT EXISTS confirmed_members (
    fingerprint BLOB PRIMARY KEY, name TEXT NOT NULL
) STRICT"""


class Members:
    """The fingerprints that this site's operator has confirmed with the other hospital."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with transaction(connection):
            connection.execute(SCHEMA)

    def confirm(self, member: SitePublic) -> None:
        """Record that the operators have compared this fingerprint, not through the server."""
        with transaction(self._connection) as db:
            db.execute(
                "INSERT OR IGNORE INTO confirmed_members VALUES (?, ?)",
                (member.fingerprint, member.name),
            )

    def withdraw(self, name: str) -> None:
        """Take back the confirmation of this hospital: of all its keys, old and new.

        Raises:
            OperatorError: none was confirmed.
        """
        with transaction(self._connection) as db:
            cursor = db.execute("DELETE FROM confirmed_members WHERE name = ?", (name,))
            if cursor.rowcount == 0:
                raise OperatorError(
                    f"hospital {name!r}: not confirmed here; fedward-client members list shows who"
                )

    def all(self) -> tuple[tuple[str, bytes], ...]:
        """Name and fingerprint of every confirmed key, by name, older keys of a hospital first."""
        query = "SELECT name, fingerprint FROM confirmed_members ORDER BY name, rowid"
        return tuple(self._connection.execute(query))

    def is_verified(self, member: RosterSite) -> bool:
        """Whether this roster entry is the one whose fingerprint was confirmed."""
        wanted = fingerprint(
            member.name, bytes.fromhex(member.identity), bytes.fromhex(member.transport)
        )
        row = self._connection.execute(
            "SELECT 1 FROM confirmed_members WHERE fingerprint = ?", (wanted,)
        ).fetchone()
        return row is not None
