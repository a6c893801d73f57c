"""The ledger replayed by other means: what left without a debit, and epsilons that are not true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedward_client.database import open_database
from fedward_client.debit import Allowance, Debit
from fedward_client.ledger import Ledger
from fedward_client.policy import ACCOUNTS, AccountCap, Caps
from fedward_client.privacy_audit.replay import compare
from fedward_common.privacy.parameters import MechanismParameters
from fedward_simulations.audit.recorded import record_study

STUDY = bytes(32)
CAP = AccountCap(epsilon=50.0, epsilon_worst_case=100.0, delta=1e-5)
CAPS = Caps(train=CAP, holdout=CAP)

GRADIENT = MechanismParameters(
    query="0:gradient",
    dimension=100,
    clip=1.0,
    noise_multiplier=4.0,
    sampling_rate=0.25,
    rounds=10,
    scale=1e5,
    ring_bound=10**8,
    slack=0.0,
    sites=4,
    t_min=3,
    colluding=1,
)


@pytest.fixture
def ledger(tmp_path):
    """Ten debits of training patients, one of held-out ones."""
    ledger = Ledger(open_database(tmp_path / "site.db"))
    allowance = Allowance({"0:gradient": 10, "1:histogram": 1}, 0)
    histogram = replace(GRADIENT, query="1:histogram", sampling_rate=1.0)
    for e in range(1, 11):
        ledger.debit(Debit.of(GRADIENT, study=STUDY, e=e, account="train"), CAPS, allowance)
    ledger.debit(Debit.of(histogram, study=STUDY, e=11, account="holdout"), CAPS, allowance)
    return ledger


def stated(ledger):
    return {account: ledger.spent(account, CAPS) for account in ACCOUNTS}


SEEN = {(STUDY, e) for e in range(1, 12)}


def test_a_true_ledger_agrees_and_covers_what_left(ledger):
    found = compare(ledger.entries(), stated(ledger), SEEN)
    assert found.finding.passed
    assert all(item.agrees and item.stated > 0 for item in found.epsilons)
    assert len(found.epsilons) == 4  # two accounts, two adversaries


def test_an_addend_that_was_not_debited_is_named(ledger):
    found = compare(ledger.entries(), stated(ledger), {*SEEN, (STUDY, 12)})
    assert found.undebited == ((STUDY, 12),)
    assert not found.finding.passed
    assert "WITHOUT a debit" in found.finding.verdict


def test_a_debit_that_no_addend_followed_is_no_fault(ledger):
    """Debited, then killed before it sent: the budget is over-counted, which is safe."""
    assert compare(ledger.entries(), stated(ledger), {(STUDY, 1)}).finding.passed


@pytest.mark.parametrize("field", ["epsilon_fixed", "epsilon_worst_case_fixed"])
@pytest.mark.parametrize("factor", [0.98, 1.05])
def test_an_epsilon_that_is_off_by_percents_is_told(ledger, field, factor):
    figures = stated(ledger)
    wrong = {field: getattr(figures["train"], field) * factor}
    figures["train"] = replace(figures["train"], **wrong)
    found = compare(ledger.entries(), figures, SEEN)
    assert [item.agrees for item in found.epsilons].count(False) == 1
    assert "does NOT agree" in found.finding.verdict


def test_an_attempt_that_was_debited_twice_is_told(ledger):
    entries = [*ledger.entries(), ledger.entries()[0]]
    assert compare(entries, stated(ledger), SEEN).twice == 1


def test_a_recorded_study_was_debited_for_every_addend_and_its_report_is_true():
    found = record_study(lambda *_: None)
    assert found.finding.passed
    assert {name: r.seen for name, r in found.replays.items()} == dict.fromkeys(found.replays, 8)
    lower = replace(found, stated=found.stated * 0.97)
    assert not lower.finding.passed
