"""The round in flight: the counter e, sealed state, the exact bytes of every reply (A2, A3, A6).

Every state is sealed under a key of its own, in a file outside the database (and outside backups)
that is destroyed with the next step: a restored database cannot open old seeds. A repeated
identical request gets the stored bytes; a different one for the same step is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedward_client.database import transaction
from fedward_common.codec import digest, encode
from fedward_common.errors import PeerError
from fedward_common.files import sync_folder, write_atomic
from fedward_common.randomness import os_random
from fedward_common.secret import SecretBytes

KEY_BYTES = 32
NAME_BYTES = 8
NONCE_BYTES = 12

Beside = Callable[[sqlite3.Connection], None]
"""Writes more in an open transaction."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS round_attempts (
        study BLOB PRIMARY KEY, e INTEGER NOT NULL, sealed BLOB
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS round_replies (
        study BLOB NOT NULL, e INTEGER NOT NULL, step TEXT NOT NULL,
        request BLOB NOT NULL, reply BLOB NOT NULL, PRIMARY KEY (study, e, step)
    ) STRICT""",
)


@dataclass(frozen=True)
class Following:
    """Step 1 of the next e, made while this one ended: its state, and the order it answers."""

    e: int
    state: SecretBytes
    step: str
    request: bytes
    reply: bytes


class RoundStore:
    """Counter, state and replies of each study's attempt in flight: at most one e a study."""

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        self._connection = connection
        self._folder = folder
        with transaction(connection):
            for statement in SCHEMA:
                connection.execute(statement)
        self._sweep()

    def replied(self, study: bytes, e: int, step: str, request: bytes) -> bytes | None:
        """The stored reply to this very request, or None if the step has not been answered.

        Raises:
            PeerError: the step was answered for another request; nothing is signed twice.
        """
        row = self._connection.execute(
            "SELECT request, reply FROM round_replies WHERE study = ? AND e = ? AND step = ?",
            (study, e, step),
        ).fetchone()
        if row is None:
            return None
        if row[0] != digest(request):
            raise PeerError(f"step {step} of attempt {e} was answered for a different request")
        return bytes(row[1])

    def load(self, study: bytes, e: int) -> SecretBytes:
        """The state of e.

        Raises:
            PeerError: there is none, it is of another e, or its key is gone.
        """
        row = self._connection.execute(
            "SELECT sealed FROM round_attempts WHERE study = ? AND e = ?", (study, e)
        ).fetchone()
        if row is None or row[0] is None:
            raise PeerError(f"attempt {e} is not in flight at this site")
        sealed = bytes(row[0])
        nonce = sealed[NAME_BYTES : NAME_BYTES + NONCE_BYTES]
        try:
            cipher = AESGCM(self._key_path(study, sealed[:NAME_BYTES]).read_bytes())
            plain = cipher.decrypt(nonce, sealed[NAME_BYTES + NONCE_BYTES :], _context(study, e))
        except (InvalidTag, OSError) as error:
            raise PeerError(f"the state of attempt {e} cannot be opened; await the next") from error
        return SecretBytes(plain)

    def begin(
        self, study: bytes, e: int, step: str, request: bytes, reply: bytes, state: SecretBytes
    ) -> None:
        """Raise the counter to ``e`` with its first state; whatever a lower e left is destroyed.

        Raises:
            PeerError: ``e`` is not above the last one (A2).
        """
        with self._one_key(study), transaction(self._connection) as db:
            self._raise_counter(db, study, e, state)
            _put_reply(db, study, e, step, request, reply)

    def advance(
        self,
        study: bytes,
        e: int,
        step: str,
        request: bytes,
        reply: bytes,
        state: SecretBytes,
        beside: Beside = lambda _: None,
    ) -> None:
        """Put the next state of e and the reply on the disk, before the reply leaves (A3).

        The state gets a key of its own, and the key of the state before is destroyed: a copy of
        the database taken a step earlier opens nothing. ``beside`` writes what must be on the disk
        with it, in the same transaction.

        Raises:
            PeerError: another process has ended e since; then nothing is stored.
        """
        with self._one_key(study), transaction(self._connection) as db:
            beside(db)
            _replace_state(db, study, e, self._seal(study, e, state))
            _put_reply(db, study, e, step, request, reply)

    def finish(
        self,
        study: bytes,
        e: int,
        step: str,
        request: bytes,
        reply: bytes,
        following: Following | None = None,
        beside: Beside = lambda _: None,
    ) -> None:
        """Destroy the state of e, keeping the last reply's bytes; begin ``following`` if given.

        ``beside`` writes what must be on the disk with it, in the same transaction.

        Raises:
            PeerError: another process has ended e since; then nothing is stored.
        """
        with self._one_key(study), transaction(self._connection) as db:
            beside(db)
            _replace_state(db, study, e, None)
            if following is not None:
                self._raise_counter(db, study, following.e, following.state)
                _put_reply(
                    db, study, following.e, following.step, following.request, following.reply
                )
            _put_reply(db, study, e, step, request, reply)

    def abandon(self, study: bytes, e: int) -> None:
        """Destroy the state and the replies of e: this site takes no further part in it (A3.4)."""
        with self._one_key(study), transaction(self._connection) as db:
            db.execute(
                "UPDATE round_attempts SET sealed = NULL WHERE study = ? AND e = ?", (study, e)
            )
            db.execute("DELETE FROM round_replies WHERE study = ? AND e = ?", (study, e))

    def end(self, study: bytes) -> None:
        """Destroy the state that a study which is over has left (A6); its replies stay readable."""
        stored = "SELECT 1 FROM round_attempts WHERE study = ? AND sealed IS NOT NULL"
        if self._connection.execute(stored, (study,)).fetchone() is None:
            return
        with self._one_key(study), transaction(self._connection) as db:
            db.execute("UPDATE round_attempts SET sealed = NULL WHERE study = ?", (study,))

    def _raise_counter(
        self, db: sqlite3.Connection, study: bytes, e: int, state: SecretBytes
    ) -> None:
        """Store the first state of ``e``, which must be new: a refusal changes nothing (A6)."""
        found = db.execute("SELECT e FROM round_attempts WHERE study = ?", (study,)).fetchone()
        last = 0 if found is None else int(found[0])
        if e <= last:
            raise PeerError(f"attempt {e} is over: this site has seen attempt {last}")
        row = (study, e, self._seal(study, e, state))
        db.execute("INSERT OR REPLACE INTO round_attempts VALUES (?, ?, ?)", row)
        # A3.4: the last attempt's replies stay through the one that follows, in which the server
        # may still need its shares; they are destroyed when the attempt after that begins.
        db.execute("DELETE FROM round_replies WHERE study = ? AND e < ?", (study, last))

    @contextmanager
    def _one_key(self, study: bytes) -> Iterator[None]:
        """Afterwards only the key of the state that is stored is left, whatever happened."""
        try:
            yield
        finally:
            self._sweep(study)

    def _sweep(self, study: bytes | None = None) -> None:
        """Destroy the keys, of one study or of all, that open no stored state (A6).

        Inside a transaction: another process may have written the key of a state that it is
        about to store.
        """
        with transaction(self._connection) as db:
            rows = db.execute("SELECT study, sealed FROM round_attempts WHERE sealed IS NOT NULL")
            kept = {self._key_path(row[0], bytes(row[1])[:NAME_BYTES]) for row in rows}
            pattern = "*.key" if study is None else f"{_short(study)}-*.key"
            old = [path for path in self._folder.glob(pattern) if path not in kept]
            for path in old:
                path.unlink(missing_ok=True)
            if old and study is None:  # a step's next key syncs the folder
                sync_folder(self._folder)

    def _key_path(self, study: bytes, name: bytes) -> Path:
        return self._folder / f"{_short(study)}-{name.hex()}.key"

    def _seal(self, study: bytes, e: int, state: SecretBytes) -> bytes:
        """Seal a state under a fresh key, whose file is on the disk before the state is."""
        name, key, nonce = os_random(NAME_BYTES), os_random(KEY_BYTES), os_random(NONCE_BYTES)
        write_atomic(self._key_path(study, name), key, mode=0o600)
        return name + nonce + AESGCM(key).encrypt(nonce, state.reveal(), _context(study, e))


def _replace_state(db: sqlite3.Connection, study: bytes, e: int, sealed: bytes | None) -> None:
    """Store the next state of e, or none after its last step, where e is in flight still (A2)."""
    cursor = db.execute(
        "UPDATE round_attempts SET sealed = ? WHERE study = ? AND e = ? AND sealed IS NOT NULL",
        (sealed, study, e),
    )
    if cursor.rowcount != 1:
        raise PeerError(f"attempt {e} is not in flight at this site any more")


def _put_reply(
    db: sqlite3.Connection, study: bytes, e: int, step: str, request: bytes, reply: bytes
) -> None:
    row = (study, e, step, digest(request), reply)
    db.execute("INSERT INTO round_replies VALUES (?, ?, ?, ?, ?)", row)


def _context(study: bytes, e: int) -> bytes:
    return encode(("round-state", study, e))


def _short(study: bytes) -> str:
    return study.hex()[:32]
