"""A ledger that others contradict: what its operator is told, and the one way to end it (B6)."""

from __future__ import annotations

import pytest
from tests.cli_world import client, ok
from tests.world import GRADIENT, coordinate, make_world, roster_entry

from fedward_client import witness
from fedward_client.approval import review
from fedward_client.chain import Head
from fedward_client.database import open_database, transaction
from fedward_client.debit import Allowance, Debit
from fedward_client.heads import Seen
from fedward_client.ledger import Ledger
from fedward_client.policy import ACCOUNTS, AccountCap, Caps
from fedward_common.errors import PolicyRefusalError

CAP = AccountCap(epsilon=100.0, epsilon_worst_case=100.0, delta=1e-3)
CAPS = Caps(train=CAP, holdout=CAP)
ANY = Allowance({}, 1000)
SITE = "site-1"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    queries = [{"kind": "count", "noise_multiplier": 5.0}, {**GRADIENT, "rounds": 2}]
    root = tmp_path_factory.mktemp("closed") / "template"
    world = make_world(root, 4, queries=queries, schedule={"maximum_attempts": 6})
    with world.sites() as sites:
        coordinate(sites).run()
    return world


@pytest.fixture
def world(template, tmp_path):
    return template.copy(tmp_path / "world")


@pytest.fixture
def contradicted(world):
    """The site has kept what site-2 and one unknown to its studies said of its ledger."""
    with world.open("site-2") as other:
        identity = bytes.fromhex(roster_entry(other)["identity"])
    with world.open(SITE) as site:
        site.heads.keep_ahead(identity, Seen(Head(50, b"h" * 32), ()))
        site.heads.keep_ahead(b"k" * 32, Seen(Head(0, b""), (b"a" * 32,)))
    return world.root / SITE


def debit(e: int, account: str = "train") -> Debit:
    return Debit(b"s" * 32, e, account, "0:count", 5.0, 3.0, 1.0, 1e-15, 1e-15)


def test_verify_says_in_one_line_what_others_saw_and_what_to_do(contradicted):
    done = client("ledger", "verify", "--site", contradicted)
    done.refused(1, "ledger ends at row 3", "site-2 saw row 50", "put back the newest copy")
    done.refused(1, "`ledger close`", "; 1 more say so")


def test_a_ledger_that_has_what_was_said_is_not_contradicted(world):
    """Putting the newest copy back is enough: nothing has to be cleared by hand."""
    with world.open(SITE) as site:
        head = site.ledger.head()
        site.heads.keep_ahead(b"k" * 32, Seen(head, ()))
        assert witness.contradictions(site) == []
    ok(client("ledger", "verify", "--site", world.root / SITE))


def test_closing_asks_first_and_changes_nothing_without_an_answer(contradicted):
    client("ledger", "close", "--site", contradicted).refused(2, "not closed", "--yes")
    client("ledger", "verify", "--site", contradicted).refused(1)


def test_a_closed_ledger_pays_for_nothing_ever_and_says_so_everywhere(contradicted, world):
    told = ok(client("ledger", "close", "--yes", "--site", contradicted))
    assert "site-2 saw row 50" in told.out
    assert "for good" in told.out
    ok(client("ledger", "verify", "--site", contradicted))  # the state is on file now
    shown = ok(client("ledger", "show", "--json", "--site", contradicted)).json["accounts"]
    for account in ACCOUNTS:
        assert shown[account]["epsilon"] is None  # without bound
        assert shown[account]["left"] == 0.0
    assert "without bound" in ok(client("ledger", "show", "--site", contradicted)).out
    with world.open(SITE) as site:
        assert site.ledger.closed
        assert len(site.ledger.entries()) == 3
        for account in ACCOUNTS:
            with pytest.raises(PolicyRefusalError, match="closed for good: debits were lost"):
                site.ledger.debit(debit(9, account), CAPS, ANY)
        (record,) = site.studies.all()
        refusals = review(site, record.plan_digest).refusals
        assert any("closed for good" in line for line in refusals)
        assert [entry.kind for entry in site.audit.entries()][-1] == "close"


def test_closing_holds_for_other_processes_and_once(tmp_path):
    ledger, other = (Ledger(open_database(tmp_path / "site.db")) for _ in range(2))
    ledger.debit(debit(1), CAPS, ANY)
    head = ledger.close()
    assert ledger.close() == head == Ledger(open_database(tmp_path / "site.db")).head()
    assert other.closed
    with pytest.raises(PolicyRefusalError, match="closed for good"):
        other.debit(debit(2), CAPS, ANY)
    assert other.debit(debit(1), CAPS, ANY) == head  # paid before: the attempt may be finished
    assert other.excess("train", [], 0, CAPS) is not None
    assert [entry.e for entry in other.entries()] == [1]


def test_no_cap_however_high_reopens_it(tmp_path):
    ledger = Ledger(open_database(tmp_path / "site.db"))
    ledger.close()
    wide = AccountCap(epsilon=100.0, epsilon_worst_case=None, delta=9e-3)
    with pytest.raises(PolicyRefusalError, match="closed for good"):
        ledger.debit(debit(1), Caps(train=wide, holdout=wide), ANY)
    spent = ledger.spent("train", Caps(train=wide, holdout=wide))
    assert spent.epsilon == spent.epsilon_worst_case_fixed == float("inf")
    assert spent.epsilon_worst_case is None


def test_a_closing_cannot_be_taken_out_of_the_chain(tmp_path):
    from fedward_common.errors import StorageError

    database = open_database(tmp_path / "site.db")
    Ledger(database).close()
    with pytest.raises(StorageError), transaction(database):
        database.execute("DELETE FROM chain_rows")
    assert Ledger(database).closed
