"""The audit log names every decision and message, in order, and shows any change (G7)."""

from __future__ import annotations

import hashlib
import sqlite3

import pytest

from fedward_client.audit_log import AuditEntry, AuditLog
from fedward_client.chain import HashChain, Head
from fedward_client.database import open_database
from fedward_client.ledger import Ledger
from fedward_common.errors import IntegrityError, MisuseError, StorageError

HEAD = Head(7, bytes(32))
PLAN, STUDY = bytes([1]) * 32, bytes([2]) * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site.db"


def test_entries_tell_what_left_but_hold_none_of_it(path):
    log = AuditLog(open_database(path), clock=lambda: 1_700_000_000.9)
    log.decided("approve", PLAN, b"the plan", HEAD)
    log.sent("mask", STUDY, 3, b"secret" * 1000, HEAD)
    log.sent("mask", STUDY, 3, b"secret" * 1000, HEAD)  # resent: known
    digest = hashlib.sha256(b"secret" * 1000).digest()
    sent = AuditEntry(1_700_000_000, "mask", STUDY, 3, 6000, digest, 7, bytes(32))
    assert AuditLog(open_database(path)).entries()[1:] == [sent]
    assert (log.entries()[0].kind, log.entries()[0].study) == ("approve", PLAN)
    log.sent("mask", PLAN, 3, b"secret" * 1000, HEAD)  # the same bytes in another study
    log.decided("approve", PLAN, b"the plan", HEAD)  # a person decided again
    assert log.verify()[0] == 4
    assert log.ledger_head() == HEAD
    stored = b"".join(
        payload for (payload,) in sqlite3.connect(path).execute("SELECT payload FROM chain_rows")
    )
    assert b"secret" not in stored


def test_the_log_and_the_ledger_are_separate_chains_of_one_database(path):
    connection = open_database(path)
    ledger, log = Ledger(connection), AuditLog(connection)
    log.sent("share", STUDY, 1, b"x", ledger.head())
    assert ledger.head()[0] == 0
    assert log.verify()[0] == 1
    assert ledger.verify() != log.verify()


def test_a_changed_entry_is_found(path):
    log = AuditLog(open_database(path))
    for e in range(3):
        log.sent("share", STUDY, e, b"x", HEAD)
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER chain_rows_fixed")
    raw.execute("UPDATE chain_rows SET payload = x'00' WHERE position = 2")
    raw.commit()
    for check in (log.verify, log.entries):
        with pytest.raises(IntegrityError, match="audit chain: row 2"):
            check()


def test_a_row_needs_a_transaction_and_a_readable_database(path):
    connection = open_database(path)
    chain = HashChain(connection, "any")
    with pytest.raises(MisuseError):
        chain.append(b"k", b"v")
    connection.execute("DROP TABLE chain_heads")
    with pytest.raises(StorageError, match="cannot be read"):
        chain.head()
