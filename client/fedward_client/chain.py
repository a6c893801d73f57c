"""Append-only, hash-chained records in the site's database (B6).

Row k of a chain holds hash_k = H('chain', name, k, hash_{k-1}, key, payload), so that an edited,
removed or reordered row breaks every later hash. Triggers refuse UPDATE and DELETE. Whoever can
write the file can remove triggers and recompute the whole chain: against that stands the head,
which peers see in every signed step 1.
"""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from fedward_client.database import transaction
from fedward_common.codec import Value, decode, digest, encode
from fedward_common.errors import IntegrityError, MisuseError, PeerError, StorageError

Record = tuple[Value, ...]
"""What a row holds: a typed tuple of the codec."""

_MAX_RECORD_BYTES = 4096

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS chain_rows (
        chain TEXT NOT NULL, position INTEGER NOT NULL, key BLOB NOT NULL,
        payload BLOB NOT NULL, hash BLOB NOT NULL,
        PRIMARY KEY (chain, position), UNIQUE (chain, key)
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS chain_heads (
        chain TEXT PRIMARY KEY, count INTEGER NOT NULL, hash BLOB NOT NULL
    ) STRICT""",
    """CREATE TRIGGER IF NOT EXISTS chain_rows_keep BEFORE DELETE ON chain_rows
        BEGIN SELECT RAISE(ABORT, 'append-only'); END""",
    """CREATE TRIGGER IF NOT EXISTS chain_rows_fixed BEFORE UPDATE ON chain_rows
        BEGIN SELECT RAISE(ABORT, 'append-only'); END""",
    """CREATE TRIGGER IF NOT EXISTS chain_rows_grow BEFORE INSERT ON chain_rows
        WHEN EXISTS (SELECT 1 FROM chain_rows WHERE chain = NEW.chain
                     AND (position >= NEW.position OR key = NEW.key))
        BEGIN SELECT RAISE(ABORT, 'append-only'); END""",
    """CREATE TRIGGER IF NOT EXISTS chain_heads_once BEFORE INSERT ON chain_heads
        WHEN EXISTS (SELECT 1 FROM chain_heads WHERE chain = NEW.chain)
        BEGIN SELECT RAISE(ABORT, 'append-only'); END""",
    """CREATE TRIGGER IF NOT EXISTS chain_heads_keep BEFORE DELETE ON chain_heads
        BEGIN SELECT RAISE(ABORT, 'append-only'); END""",
    """CREATE TRIGGER IF NOT EXISTS chain_heads_grow BEFORE UPDATE ON chain_heads
        WHEN NEW.chain <> OLD.chain OR NEW.count <> OLD.count + 1
        BEGIN SELECT RAISE(ABORT, 'append-only'); END""",
)


class Head(NamedTuple):
    """Where a chain ends: the number of its rows and the last row's SHA-256 (32 bytes)."""

    length: int
    hash: bytes


class HashChain:
    """One named chain. ``append`` needs an open :func:`~fedward_client.database.transaction`."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self.name = name
        self._connection = connection
        with transaction(connection):
            for statement in _SCHEMA:
                connection.execute(statement)

    def head(self) -> Head:
        """Return the stored head; an empty chain has length 0 and a hash of its name alone."""
        rows = self._read("SELECT count, hash FROM chain_heads WHERE chain = ?", self.name)
        return Head(*rows[0]) if rows else self.genesis()

    def genesis(self) -> Head:
        """Return the head of the empty chain of this name."""
        return Head(0, digest("chain", self.name))

    def append(self, key: bytes, record: Record) -> Head:
        """Append a row and return the new head; ``key`` must be new to the chain.

        Raises:
            MisuseError: no transaction is open.
            IntegrityError: the last row is not the one that the head names.
        """
        if not self._connection.in_transaction:
            raise MisuseError("a row is appended inside a transaction")
        last = self.head()
        self._check_end(last)
        payload = encode(record)
        head = Head(last.length + 1, self._hash(last, key, payload))
        self._connection.execute(
            "INSERT INTO chain_rows VALUES (?, ?, ?, ?, ?)",
            (self.name, head.length, key, payload, head.hash),
        )
        self._connection.execute(
            "UPDATE chain_heads SET count = ?2, hash = ?3 WHERE chain = ?1"
            if last.length
            else "INSERT INTO chain_heads VALUES (?1, ?2, ?3)",
            (self.name, *head),
        )
        return head

    def find(self, key: bytes) -> Record | None:
        """Return the record stored under ``key``, or None."""
        rows = self._read(
            "SELECT payload FROM chain_rows WHERE chain = ? AND key = ?", self.name, key
        )
        return self._record(rows[0][0]) if rows else None

    def holds(self, head: Head) -> bool:
        """Say whether this chain once ended, or ends, at ``head``."""
        if head.length == 0:
            return head == self.genesis()
        rows = self._read(
            "SELECT hash FROM chain_rows WHERE chain = ? AND position = ?", self.name, head.length
        )
        return bool(rows) and rows[0][0] == head.hash

    def rows(self, after: Head) -> list[tuple[Head, Record]]:
        """Return (head up to it, record) of every row after ``after``, each hash verified.

        Raises:
            IntegrityError: a row was edited, removed or moved, or the chain ends short of its head.
        """
        if self._connection.in_transaction:
            return self._verified(after)
        self._connection.execute("BEGIN")  # one snapshot of rows and head
        try:
            return self._verified(after)
        finally:
            self._connection.execute("COMMIT")

    def verify(self) -> Head:
        """Recompute the whole chain and return its head.

        Raises:
            IntegrityError: it does not hold.
        """
        rows = self.rows(self.genesis())
        return rows[-1][0] if rows else self.genesis()

    def _verified(self, after: Head) -> list[tuple[Head, Record]]:
        current = after
        verified: list[tuple[Head, Record]] = []
        for position, key, payload, stored in self._read(
            "SELECT position, key, payload, hash FROM chain_rows "
            "WHERE chain = ? AND position > ? ORDER BY position",
            self.name,
            after.length,
        ):
            current = Head(current.length + 1, self._hash(current, key, payload))
            if position != current.length or stored != current.hash:
                raise self._broken(f"row {current.length} was altered, removed or moved")
            verified.append((current, self._record(payload)))
        if current != self.head():
            raise self._broken(
                f"it ends at row {current.length}, its head says {self.head().length}"
            )
        return verified

    def _read(self, query: str, *values: str | int | bytes) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(
                f"site database, {self.name} chain: cannot be read; check the disk"
            ) from error

    def _record(self, payload: bytes) -> Record:
        try:
            record = decode(payload, max_bytes=_MAX_RECORD_BYTES)
        except PeerError as error:
            raise self._broken("a row does not decode") from error
        if not isinstance(record, tuple):
            raise self._broken("a row is not a record")
        return record

    def _hash(self, previous: Head, key: bytes, payload: bytes) -> bytes:
        return digest("chain", self.name, previous.length + 1, previous.hash, key, payload)

    def _check_end(self, head: Head) -> None:
        end = self._read(
            "SELECT position, hash FROM chain_rows WHERE chain = ? ORDER BY position DESC LIMIT 1",
            self.name,
        )
        if (end[0] if end else self.genesis()) != head:
            raise self._broken(f"its last row is not row {head.length}, which its head names")

    def _broken(self, reason: str) -> IntegrityError:
        return IntegrityError(
            f"site database, {self.name} chain: {reason}; stop, keep the file as evidence and "
            "compare the head with the other sites' records"
        )
