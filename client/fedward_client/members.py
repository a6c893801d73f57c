"""Which other hospitals this site has verified: fingerprints compared person to person (A1)."""

from __future__ import annotations

import sqlite3

from fedward_client.database import transaction
from fedward_common.identity import SitePublic, fingerprint
from fedward_common.plan.sections import RosterSite

SCHEMA = "CREATE TABLE IF NOT EXISTS verified_members (fingerprint BLOB PRIMARY KEY) STRICT"


class Members:
    """The fingerprints that this site's operator has confirmed with the other hospital."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with transaction(connection):
            connection.execute(SCHEMA)

    def confirm(self, member: SitePublic) -> None:
        """Record that the operators have compared this fingerprint, not through the server."""
        with transaction(self._connection) as db:
            db.execute("INSERT OR IGNORE INTO verified_members VALUES (?)", (member.fingerprint,))

    def is_verified(self, member: RosterSite) -> bool:
        """Whether this roster entry is the one whose fingerprint was confirmed."""
        wanted = fingerprint(
            member.name, bytes.fromhex(member.identity), bytes.fromhex(member.transport)
        )
        row = self._connection.execute(
            "SELECT 1 FROM verified_members WHERE fingerprint = ?", (wanted,)
        ).fetchone()
        return row is not None
