"""A site's log of what it decided and sent: every way of changing it shows, offline (G7).

The attacker owns the disk: triggers are dropped, and where it says so the chain is made good again.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.cli_world import client, ok
from tests.world import World, coordinate, make_world

from fedward_client.chain import HashChain
from fedward_client.database import open_database, transaction
from fedward_client.signed_heads import check_heads, parse_heads, sign_heads
from fedward_client.site import open_site
from fedward_common.codec import decode
from fedward_common.errors import IntegrityError, OperatorError

SITE = "site-1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> World:
    world = make_world(tmp_path_factory.mktemp("log") / "world", 3)
    with world.sites() as sites:
        coordinate(sites).run()
    ok(client("audit", "head", "--site", world.root / SITE, "--out", world.root / "heads"))
    return world


@pytest.fixture
def site(trained, tmp_path) -> Path:
    shutil.copytree(trained.root / SITE, tmp_path / SITE)
    return tmp_path / SITE


@pytest.fixture
def heads(trained) -> Path:
    return trained.root / "heads"


def rows(site: Path) -> list[tuple[int, bytes, bytes, bytes]]:
    with sqlite3.connect(site / "site.db") as database:
        return database.execute(
            "SELECT position, key, payload, hash FROM chain_rows WHERE chain = 'audit'"
            " ORDER BY position"
        ).fetchall()


def change(site: Path, *statements: tuple[str, tuple]) -> None:
    """As whoever owns the file can: without the triggers."""
    with sqlite3.connect(site / "site.db") as database:
        for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'chain_%'"
        ).fetchall():
            database.execute(f"DROP TRIGGER {name}")
        for statement, values in statements:
            database.execute(statement, values)


def chain_again(site: Path, entries: list[tuple[bytes, bytes]]) -> None:
    """Replace the log by these (key, payload), with every hash and the head made good."""
    change(
        site,
        ("DELETE FROM chain_rows WHERE chain = 'audit'", ()),
        ("DELETE FROM chain_heads WHERE chain = 'audit'", ()),
    )
    database = open_database(site / "site.db")
    chain = HashChain(database, "audit")
    with transaction(database):
        for key, payload in entries:
            chain.append(key, decode(payload, max_bytes=4096))
    database.close()


def verify(site: Path, *options):
    return client("audit", "verify", "--site", site, *options)


def test_an_honest_log_goes_on_from_its_signed_heads(site, heads):
    shown = ok(verify(site, "--against", heads)).out
    assert f"{heads}: both chains go on from there" in shown
    assert "--against" in ok(verify(site)).out


def test_an_edited_entry_shows(site):
    position, _, payload, _ = rows(site)[4]
    edited = payload[:-1] + bytes([payload[-1] ^ 1])  # the ledger's head at that moment
    change(site, ("UPDATE chain_rows SET payload = ? WHERE chain = 'audit' AND position = ?",
                  (edited, position)))  # fmt: skip
    verify(site).refused(1, "audit chain: row 5", "altered")


def test_a_deleted_entry_shows(site):
    change(site, ("DELETE FROM chain_rows WHERE chain = 'audit' AND position = 5", ()))
    verify(site).refused(1, "audit chain: row 5", "removed")


def test_reordered_entries_show(site):
    fifth, sixth = rows(site)[4:6]
    change(
        site,
        ("DELETE FROM chain_rows WHERE chain = 'audit' AND position IN (5, 6)", ()),
        ("INSERT INTO chain_rows VALUES ('audit', 5, ?, ?, ?)", sixth[1:]),
        ("INSERT INTO chain_rows VALUES ('audit', 6, ?, ?, ?)", fifth[1:]),
    )
    verify(site).refused(1, "audit chain: row 5", "moved")


def test_a_log_cut_at_its_end_without_its_head_shows(site):
    last = len(rows(site))
    change(site, ("DELETE FROM chain_rows WHERE chain = 'audit' AND position = ?", (last,)))
    verify(site).refused(1, f"ends at row {last - 1}")


def test_a_log_cut_and_mended_lags_behind_the_ledger(site):
    kept = [(key, payload) for _, key, payload, _ in rows(site)][:4]
    chain_again(site, kept)
    verify(site).refused(1, "entries were cut off")


def test_a_log_cut_by_one_entry_and_mended_shows_against_signed_heads(site, heads):
    kept = [(key, payload) for _, key, payload, _ in rows(site)][:-1]
    chain_again(site, kept)
    ok(verify(site))  # nothing inside the file tells
    verify(site, "--against", heads).refused(1, "the log does not hold", heads, "truncated")


def test_a_forked_log_shows_against_signed_heads(site, heads):
    entries = [(key, payload) for _, key, payload, _ in rows(site)]
    entries[-1], entries[-2] = entries[-2], entries[-1]
    chain_again(site, entries)
    ok(verify(site))
    verify(site, "--against", heads).refused(1, "the log does not hold", "forked")


def test_heads_of_another_site_or_changed_ones_are_not_this_sites(trained, site, heads):
    other = trained.root / "site-2"
    client("audit", "verify", "--site", other, "--against", heads).refused(2, "identity key")
    record = json.loads(heads.read_text())
    for name, value in {"audit_entries": 1, "unix_time": 5, "site": "site-9"}.items():
        file = site.parent / f"{name}.heads"
        file.write_text(json.dumps({**record, name: value}))
        verify(site, "--against", file).refused(2, "not signed by this site's identity key")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 1}', "x" * 5000, "[" * 4000])
def test_a_file_that_holds_no_heads_is_one_line(site, text):
    file = site.parent / "bad.heads"
    file.write_text(text)
    verify(site, "--against", file).refused(2, file, "not signed heads")
    verify(site, "--against", site.parent / "none").refused(2, "cannot be read")


def test_heads_are_not_written_over_older_ones(site, heads):
    client("audit", "head", "--site", site, "--out", heads).refused(2, heads, "already exists")
    told = ok(client("audit", "head", "--site", site)).out
    parse_heads(told, "stdout")


def test_a_restored_ledger_shows_as_well(trained, site, heads):
    """The heads hold both chains: an older ledger with an older log is told too."""
    with trained.open(SITE) as now:
        signed = sign_heads(now)
    empty = site.parent / "fresh"
    shutil.copytree(site, empty)
    change(
        empty,
        ("DELETE FROM chain_rows WHERE chain = 'ledger'", ()),
        ("DELETE FROM chain_heads WHERE chain = 'ledger'", ()),
    )
    with open_site(empty) as opened, pytest.raises(IntegrityError, match="the ledger does not"):
        check_heads(opened, signed, "heads")
    with open_site(trained.root / "site-3") as other, pytest.raises(OperatorError):
        check_heads(other, signed, "heads")
