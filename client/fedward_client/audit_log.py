"""What this site decided and what it sent, in order, hash-chained (G7).

An entry names a message by its size and SHA-256 and the ledger's head at that moment. It never
holds a message, and nothing that came from a patient. A reply that leaves again, because its
request was repeated, is in the log once.

Logged are every decision and every reply that is made of patients' data, of keys or of the
operator's word: to the four steps of a private sum, a proposal, a witness' and an evidence order;
and the refusal that leaves at the plan's delay in a masked addend's place. Not logged are the reply
to a greeting, a study's standing, the wish for witnesses and other refusals: they hold versions,
counts of published sums, nonces and fixed words, and may leave many times a minute.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass

from fedward_client.chain import HashChain, Head, Record
from fedward_client.database import transaction
from fedward_common.codec import digest
from fedward_common.errors import IntegrityError


@dataclass(frozen=True)
class AuditEntry:
    """One line of the log.

    Attributes:
        unix_time: seconds since 1970, by the site's clock.
        kind: what happened: a decision ('approve', 'reject', ...) or the order that was answered.
        study: what it belongs to: the digest that a study runs under, or of the plan decided on;
            32 bytes.
        e: the attempt, 0 outside of one.
        size: bytes of the message or of the text decided on.
        sha256: its SHA-256, 32 bytes.
        ledger_count: rows of the ledger at that moment.
        ledger_hash: the ledger's last hash, 32 bytes.
    """

    unix_time: int
    kind: str
    study: bytes
    e: int
    size: int
    sha256: bytes
    ledger_count: int
    ledger_hash: bytes


class AuditLog:
    """The log of one site."""

    def __init__(
        self, connection: sqlite3.Connection, clock: Callable[[], float] = time.time
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._chain = HashChain(connection, "audit")

    def sent(self, kind: str, study: bytes, e: int, message: bytes, ledger: Head) -> None:
        """Record that ``message`` is about to leave at attempt ``e``; again: nothing is added."""
        entry = self._entry(kind, study, e, message, ledger)
        key = digest("sent", study, e, kind, entry.sha256)
        with transaction(self._connection):
            if self._chain.find(key) is None:
                self._chain.append(key, ("audit-2", *astuple(entry)))

    def decided(self, kind: str, study: bytes, subject: bytes, ledger: Head) -> None:
        """Record a decision of ``kind`` on ``subject``, such as a plan's bytes; each one anew."""
        entry = self._entry(kind, study, 0, subject, ledger)
        with transaction(self._connection):
            key = digest("decided", self._chain.head().length + 1)
            self._chain.append(key, ("audit-2", *astuple(entry)))

    def ledger_head(self) -> Head | None:
        """The highest head of the ledger that an entry noted; None of an empty log.

        Raises:
            IntegrityError: the chain does not hold.
        """
        entries = self.entries()
        if not entries:
            return None
        highest = max(entries, key=lambda entry: entry.ledger_count)
        return Head(highest.ledger_count, highest.ledger_hash)

    def check_covers(self, ledger: Head) -> None:
        """Refuse a log that ends long before the ledger does.

        A debit is made before the message that is logged after it, so a kill may leave one debit of
        each study that the log has not seen; more than that were cut off the log.

        Raises:
            IntegrityError: entries are missing at the end.
        """
        entries = self.entries()
        seen = max((entry.ledger_count for entry in entries), default=0)
        if ledger.length - seen > max(1, len({entry.study for entry in entries if entry.e})):
            raise IntegrityError(
                f"site database, audit chain: it ends where the ledger had {seen} of its "
                f"{ledger.length} rows: entries were cut off; keep the site's folder as evidence"
            )

    def holds(self, head: Head) -> bool:
        """Say whether the log once ended, or ends, at ``head``."""
        return self._chain.holds(head)

    def entries(self) -> list[AuditEntry]:
        """Return the whole log, oldest first, verified on the way.

        Raises:
            IntegrityError: the chain does not hold.
        """
        return [_entry(record) for _, record in self._chain.rows(self._chain.genesis())]

    def head(self) -> Head:
        """Where the log ends, as it is stored."""
        return self._chain.head()

    def verify(self) -> Head:
        """Recompute the chain and return its head.

        Raises:
            IntegrityError: an entry was altered, removed or moved.
        """
        return self._chain.verify()

    def _entry(self, kind: str, study: bytes, e: int, data: bytes, ledger: Head) -> AuditEntry:
        return AuditEntry(
            unix_time=int(self._clock()),
            kind=kind,
            study=study,
            e=e,
            size=len(data),
            sha256=hashlib.sha256(data).digest(),
            ledger_count=ledger.length,
            ledger_hash=ledger.hash,
        )


def _entry(record: Record) -> AuditEntry:
    match record:
        case (
            "audit-2",
            int(at),
            str(kind),
            bytes(study),
            int(e),
            int(size),
            bytes(sha),
            int(count),
            bytes(head),
        ):
            return AuditEntry(at, kind, study, e, size, sha, count, head)
    raise IntegrityError("site database, audit chain: an entry is not of a known form")
