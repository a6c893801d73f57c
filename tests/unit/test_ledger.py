"""The ledger never forgets a debit, never makes one twice, and keeps to its caps (B6)."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from itertools import pairwise

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.privacy_samples import GRADIENT

from fedward_client.database import open_database, transaction
from fedward_client.debit import Allowance, Debit
from fedward_client.ledger import Ledger
from fedward_client.policy import ACCOUNTS, AccountCap, Caps
from fedward_common.errors import IntegrityError, OperatorError, PolicyRefusalError, StorageError
from fedward_common.privacy.accounting import Mechanism, epsilon

STUDY = bytes(range(32))
ANY = Allowance({}, 1_000_000)
CAPS = Caps(train=AccountCap(epsilon=2.5, delta=1e-5), holdout=AccountCap(epsilon=1.0, delta=1e-5))
COUNT = replace(
    GRADIENT,
    query="count",
    dimension=2,
    clip=1.0,
    noise_multiplier=30.0,
    sampling_rate=1.0,
    rounds=1,
    scale=2.0**18,
    ring_bound=200_000_000,
)


def gradient(e: int, **changes) -> Debit:
    return replace(Debit.of(GRADIENT, study=STUDY, e=e, account="train"), **changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site.db"


@pytest.fixture
def ledger(path):
    return Ledger(open_database(path))


def test_a_new_ledger_has_spent_nothing(ledger):
    spent = ledger.spent("train", CAPS)
    assert (spent.debits, spent.epsilon, spent.epsilon_fixed) == (0, 0.0, 0.0)
    assert ledger.head()[0] == 0
    assert len(ledger.head()[1]) == 32
    assert ledger.entries() == []


def test_a_debit_is_kept_and_read_back(ledger, path):
    head = ledger.debit(gradient(1), CAPS, ANY)
    assert head == ledger.head() == Ledger(open_database(path)).verify()
    assert ledger.entries() == [gradient(1)]


def test_the_same_debit_again_changes_nothing(ledger, path):
    head = ledger.debit(gradient(1), CAPS, ANY)
    assert ledger.debit(gradient(1), CAPS, ANY) == head
    assert Ledger(open_database(path)).debit(gradient(1), CAPS, ANY) == head  # after a restart
    assert ledger.spent("train", CAPS).debits == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 6.0},
        {"sampling_rate": 0.1},
        {"account": "holdout"},
        {"query": "count"},
        {"grid_divergence": 0.0},
    ],
)
def test_another_debit_for_the_same_attempt_is_refused(ledger, changes):
    head = ledger.debit(gradient(1), CAPS, ANY)
    with pytest.raises(PolicyRefusalError, match="other parameters"):
        ledger.debit(gradient(1, **changes), CAPS, ANY)
    assert ledger.head() == head


def test_attempts_of_different_studies_are_different_debits(ledger):
    ledger.debit(gradient(1), CAPS, ANY)
    ledger.debit(gradient(1, study=bytes(32)), CAPS, ANY)
    assert ledger.spent("train", CAPS).debits == 2


def test_spending_equals_the_accountant_and_the_filter_is_a_little_above(ledger):
    ledger.debit(Debit.of(COUNT, study=STUDY, e=1, account="train"), CAPS, ANY)
    for e in range(2, 152):
        ledger.debit(gradient(e), CAPS, ANY)
    spent = ledger.spent("train", CAPS)
    exact = epsilon([Mechanism(30.0, 1.0, 1), Mechanism(5.8, 0.2, 150)], 1e-5)
    assert spent.epsilon_fixed == pytest.approx(exact, abs=1e-3)
    assert exact < spent.epsilon < 1.25 * exact
    worst = [Mechanism(30.0 / 5**0.5, 1.0, 1), Mechanism(5.8 / 5**0.5, 0.2, 150)]
    assert spent.epsilon_worst_case_fixed == pytest.approx(epsilon(worst, 1e-5), abs=1e-3)
    assert spent.epsilon_worst_case is None
    assert ledger.spent("holdout", CAPS).debits == 0


KINDS = tuple(
    replace(GRADIENT, noise_multiplier=noise, sampling_rate=rate, ring_bound=200_000_000)
    for noise, rate in ((3.1, 0.05), (5.8, 0.2), (8.0, 1.0), (30.0, 1.0))
)


def told(events: list[tuple[float, float]]) -> float:
    """The same events put to dp_accounting itself, one after another."""
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for noise, rate in events:
        gaussian = dp_accounting.GaussianDpEvent(noise)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, gaussian))
    return accountant.get_epsilon(1e-5)


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    history=st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from(("train", "holdout")), st.integers(1, 3)),
        min_size=1,
        max_size=24,
    ),
    restarts=st.sets(st.integers(0, 23)),
)
def test_what_is_printed_equals_dp_accounting_for_any_history(tmp_path_factory, history, restarts):
    """Both accounts, several studies, queries of both kinds, restarts anywhere, both epsilons."""
    path = tmp_path_factory.mktemp("history") / "site.db"
    caps = Caps(
        train=AccountCap(epsilon=100.0, epsilon_worst_case=150.0, delta=1e-5),
        holdout=AccountCap(epsilon=100.0, epsilon_worst_case=150.0, delta=1e-5),
    )
    ledger = Ledger(open_database(path))
    before = dict.fromkeys(ACCOUNTS, 0.0)
    for e, (query, account, study) in enumerate(history, start=1):
        if e in restarts:
            ledger = Ledger(open_database(path))
        ledger.debit(Debit.of(query, study=bytes([study]) * 32, e=e, account=account), caps, ANY)
        after = ledger._accounts[account].server.filtered(100.0, 1e-5)
        assert after >= before[account]
        before[account] = after
    for account in ACCOUNTS:
        mine = [query for query, used, _ in history if used == account]
        spent = ledger.spent(account, caps)
        assert spent.debits == len(mine)
        if mine:
            main = [(query.noise_multiplier, query.sampling_rate) for query in mine]
            worst = [(query.noise_multiplier_of(1), query.sampling_rate) for query in mine]
            assert spent.epsilon_fixed == pytest.approx(told(main), abs=1e-3)
            assert spent.epsilon_worst_case_fixed == pytest.approx(told(worst), abs=1e-3)
            assert spent.epsilon >= spent.epsilon_fixed - 1e-9
            assert spent.epsilon_worst_case >= spent.epsilon_worst_case_fixed - 1e-9


def test_a_course_ends_where_the_forecast_does(ledger):
    ledger.debit(gradient(1), CAPS, ANY)
    queries = [COUNT, replace(GRADIENT, rounds=40)]
    steps = [0, 1, 20, 41, 51]
    course = ledger.course("train", queries, 10, CAPS, steps)
    assert [point.debits for point in course] == [1 + step for step in steps]
    assert course[0].epsilon == ledger.spent("train", CAPS).epsilon
    end = ledger.forecast("train", queries, 10, CAPS)
    assert course[-1].epsilon == pytest.approx(end.epsilon)
    assert course[-1].epsilon_fixed == pytest.approx(end.epsilon_fixed, abs=1e-2)
    assert all(a.epsilon < b.epsilon for a, b in pairwise(course))


def test_debits_stop_at_the_cap_and_leave_no_trace_past_it(ledger):
    caps = Caps(train=AccountCap(epsilon=0.6, delta=1e-5))
    seen = [0.0]

    def spend() -> None:
        for e in range(1, 500):
            ledger.debit(gradient(e), caps, ANY)
            seen.append(ledger._accounts["train"].server.filtered(0.6, 1e-5))

    with pytest.raises(PolicyRefusalError, match=r"caps\.train.*no image was touched"):
        spend()
    assert seen == sorted(seen)
    assert 0.5 < seen[-1] <= 0.6
    assert ledger.head()[0] == len(seen) - 1
    assert ledger.spent("train", caps).epsilon_fixed <= 0.6
    assert ledger.debit(gradient(1), caps, ANY) == ledger.head()  # what was paid stays paid


def test_the_worst_case_can_be_capped_too(ledger):
    caps = Caps(train=AccountCap(epsilon=10.0, epsilon_worst_case=0.5, delta=1e-5))

    def spend() -> None:
        for e in range(1, 100):
            ledger.debit(gradient(e), caps, ANY)

    with pytest.raises(PolicyRefusalError, match="worst-case"):
        spend()
    assert ledger.spent("train", caps).epsilon_worst_case <= 0.5


def test_empty_caps_refuse_the_first_debit(ledger):
    with pytest.raises(PolicyRefusalError):
        ledger.debit(gradient(1), Caps(), ANY)
    assert ledger.head()[0] == 0


def test_an_unknown_account_is_refused(ledger):
    with pytest.raises(OperatorError, match="account"):
        ledger.debit(gradient(1, account="test"), CAPS, ANY)


def test_a_coarse_grid_is_refused_rather_than_left_uncharged(ledger):
    with pytest.raises(PolicyRefusalError, match="inf"):
        ledger.debit(gradient(1, grid_divergence=1e-3), CAPS, ANY)


def test_a_forecast_is_what_the_debits_then_cost(ledger):
    queries = [COUNT, replace(GRADIENT, rounds=60)]
    forecast = ledger.forecast("train", queries, 0, CAPS)
    ledger.debit(Debit.of(COUNT, study=STUDY, e=1, account="train"), CAPS, ANY)
    for e in range(2, 62):
        ledger.debit(gradient(e), CAPS, ANY)
    spent = ledger.spent("train", CAPS)
    assert forecast.debits == spent.debits == 61
    assert forecast.epsilon == pytest.approx(spent.epsilon)
    assert forecast.epsilon_fixed == pytest.approx(spent.epsilon_fixed, abs=1e-6)
    assert ledger.forecast("train", queries, 20, CAPS).epsilon > 1.2 * spent.epsilon
    assert ledger.forecast("train", [], 20, CAPS).epsilon == spent.epsilon
    assert ledger.head()[0] == 61


def test_two_processes_share_one_ledger(path, ledger):
    other = Ledger(open_database(path))
    ledger.debit(gradient(1), CAPS, ANY)
    other.debit(gradient(2), CAPS, ANY)
    ledger.debit(gradient(3), CAPS, ANY)
    assert ledger.spent("train", CAPS) == other.spent("train", CAPS)
    assert ledger.spent("train", CAPS).debits == 3


def test_two_threads_debiting_at_once_never_pass_the_cap_or_fork_the_chain(path):
    caps = Caps(train=AccountCap(epsilon=0.5, delta=1e-5))
    Ledger(open_database(path))
    refused = []

    def spend(first: int) -> None:
        mine = Ledger(open_database(path))
        try:
            for e in range(first, 400, 2):
                mine.debit(gradient(e), caps, ANY)
        except PolicyRefusalError:
            refused.append(first)

    threads = [threading.Thread(target=spend, args=(first,)) for first in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = Ledger(open_database(path))
    assert sorted(refused) == [1, 2]
    assert 0.4 < ledger.spent("train", caps).epsilon <= 0.5
    assert ledger.verify()[0] == len(ledger.entries())


def test_a_thousand_rows_cost_one_read_and_then_nothing(ledger, path):
    caps = Caps(train=AccountCap(epsilon=100.0, delta=1e-5))
    for e in range(1, 1001):
        ledger.debit(gradient(e), caps, ANY)
    reopened = Ledger(open_database(path))
    assert reopened.head() == ledger.head()
    statements: list[str] = []
    reopened._connection.set_trace_callback(statements.append)
    reopened.debit(gradient(1001), caps, ANY)
    reopened._connection.set_trace_callback(None)
    assert len(statements) < 15, "a debit does not read the history again"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE chain_rows SET payload = x'00'",
        "DELETE FROM chain_rows",
        "DELETE FROM chain_heads",
        "UPDATE chain_heads SET count = count - 1",
        "UPDATE chain_heads SET hash = x'00'",
        "INSERT OR REPLACE INTO chain_rows SELECT chain, 1, key, x'00', hash FROM chain_rows",
        "INSERT OR REPLACE INTO chain_rows SELECT chain, 2, key, x'00', hash FROM chain_rows",
        "INSERT OR REPLACE INTO chain_heads SELECT chain, 0, hash FROM chain_heads",
    ],
)
def test_the_database_itself_refuses_changes(ledger, path, statement):
    ledger.debit(gradient(1), CAPS, ANY)
    before = ledger.entries()
    connection = open_database(path)
    with pytest.raises(StorageError), transaction(connection):
        connection.execute(statement)
    assert Ledger(open_database(path)).entries() == before


TAMPERINGS = {
    "edited": "UPDATE chain_rows SET payload = (SELECT payload FROM chain_rows WHERE position = 4) "
    "WHERE position = 2",
    "key-edited": "UPDATE chain_rows SET key = x'00' WHERE position = 2",
    "deleted-inside": "DELETE FROM chain_rows WHERE position = 3",
    "deleted-first": "DELETE FROM chain_rows WHERE position = 1",
    "truncated": "DELETE FROM chain_rows WHERE position > 3",
    "emptied": "DELETE FROM chain_rows",
    "reordered": "UPDATE chain_rows SET position = CASE position WHEN 2 THEN -3 WHEN 3 THEN -2 "
    "ELSE position END; UPDATE chain_rows SET position = -position WHERE position < 0",
    "head-moved": "UPDATE chain_heads SET count = 4",
    "head-removed": "DELETE FROM chain_heads",
    "row-added": "INSERT INTO chain_rows SELECT chain, 6, x'01', payload, hash FROM chain_rows "
    "WHERE position = 5",
    "renumbered": "DELETE FROM chain_rows WHERE position = 5; UPDATE chain_heads SET count = 4",
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found(ledger, path, name):
    for e in range(1, 6):
        ledger.debit(gradient(e), CAPS, ANY)
    raw = sqlite3.connect(path)
    triggers = raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (trigger,) in triggers:
        raw.execute(f"DROP TRIGGER {trigger}")
    raw.executescript(TAMPERINGS[name])
    raw.close()
    with pytest.raises(IntegrityError, match="ledger chain"):
        ledger.verify()
    with pytest.raises(IntegrityError):
        Ledger(open_database(path))  # a site does not even start on it


def test_a_foreign_row_of_a_valid_chain_is_not_a_debit(ledger):
    with transaction(ledger._connection):
        ledger._chain.append(b"key", ("not a debit", 1))
    with pytest.raises(IntegrityError, match="known form"):
        ledger.spent("train", CAPS)


def test_attempts_beyond_what_the_epsilon_counts_are_refused(ledger):
    allowance = Allowance({"gradient": 2, "count": 1}, extra=1)
    for e in (1, 2, 3):
        ledger.debit(gradient(e, query="gradient"), CAPS, allowance)
    with pytest.raises(PolicyRefusalError, match="beyond its rounds"):
        ledger.debit(gradient(4, query="gradient"), CAPS, allowance)
    assert ledger.head().length == 3
    ledger.debit(gradient(4, query="count"), CAPS, allowance)
    with pytest.raises(PolicyRefusalError, match="beyond its rounds"):
        ledger.debit(gradient(5, query="count"), CAPS, allowance)
    ledger.debit(gradient(5, study=bytes(32)), CAPS, Allowance({}, 1))  # another study
