"""kill -9 at random moments: no debit is lost, doubled or half-written (B6, G6)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from tests.killed_site import KilledSites
from tests.world import GRADIENT, World, coordinate, make_world

from fedward_client.database import open_database
from fedward_client.debit import Debit
from fedward_client.ledger import Ledger
from fedward_client.policy import AccountCap, Caps
from fedward_common.messages import REPLIES, MaskOrder, Message, StepReply, decode_message
from fedward_server import coordinator

CAPS = Caps(train=AccountCap(epsilon=100.0, delta=1e-5))

CHILD = """
import sys
from pathlib import Path
from fedward_client.database import open_database
from fedward_client.debit import Allowance, Debit
from fedward_client.ledger import Ledger
from fedward_client.policy import AccountCap, Caps
from tests.privacy_samples import GRADIENT

caps = Caps(train=AccountCap(epsilon=100.0, delta=1e-5))
ledger = Ledger(open_database(Path(sys.argv[1])))
any_ = Allowance({}, 1_000_000)
e = ledger.head()[0]  # the last attempt debited, if any: debited again first, as after a restart
while True:
    ledger.debit(Debit.of(GRADIENT, study=bytes(32), e=max(e, 1), account="train"), caps, any_)
    print(max(e, 1), flush=True)
    e = max(e, 1) + 1
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_ledger_holds_every_debit_that_was_acknowledged(tmp_path):
    path = tmp_path / "site.db"
    moments = random.Random(0)
    acknowledged, epsilon = 0, 0.0
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        first = child.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.15))
        child.send_signal(signal.SIGKILL)
        lines = [first, *child.stdout.read().splitlines()]
        child.wait()
        complete = [int(line) for line in lines if line.strip()]
        acknowledged = max([acknowledged, *complete])
        ledger = Ledger(open_database(path))
        attempts = [debit.e for debit in ledger.entries()]
        # Each attempt exactly once and without gaps; at most the last was not acknowledged.
        assert attempts == list(range(1, len(attempts) + 1))
        assert acknowledged <= len(attempts) <= acknowledged + 1
        spent = ledger.spent("train", CAPS).epsilon
        assert spent >= epsilon
        epsilon = spent
    assert acknowledged > 24


SITE = "site-1"
SUMS, ATTEMPTS = 120, 1000


class Enough(Exception):  # noqa: N818  (the test ends the server)
    pass


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four sites, of which three must contribute, and more sums than there are kills."""
    queries = [
        {"kind": "count", "noise_multiplier": 30.0},
        {**GRADIENT, "noise_multiplier": 30.0, "rounds": SUMS - 1},
    ]
    root = tmp_path_factory.mktemp("killed") / "study"
    return make_world(root, 4, queries=queries, schedule={"maximum_attempts": ATTEMPTS})


def epsilon_of(world: World, attempts: list[Debit]) -> float:
    """Straight from dp_accounting, of the queries that these attempts ran."""
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for task in world.study.tasks:
        count = sum(debit.query == task.name for debit in attempts)
        if count:
            event = GaussianDpEvent(task.query.noise_multiplier)
            accountant.compose(PoissonSampledDpEvent(task.sampling_rate, event), count)
    return float(accountant.get_epsilon(CAPS.train.delta)) if attempts else 0.0


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_a_site_killed_in_a_study_has_debited_whatever_left_it_once(
    study, tmp_path, monkeypatch, kills
):
    """An independent recorder at the server's door sees what left; the ledger never says less."""
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)
    world = study.copy(tmp_path / "world")
    left: set[tuple[bytes, int]] = set()
    seen: list[float] = []

    def record(name: str, order: Message, reply: bytes) -> None:
        if name == SITE and isinstance(order, MaskOrder):
            assert isinstance(decode_message(reply, REPLIES), StepReply)
            left.add((order.study, order.e))

    def check() -> None:
        ledger = Ledger(open_database(world.root / SITE / "site.db"))  # verifies the chain
        entries = ledger.entries()
        debited = [(debit.study, debit.e) for debit in entries]
        assert len(debited) == len(set(debited))
        assert left <= set(debited)
        spent = ledger.spent("train", CAPS)
        seen.append(spent.epsilon)
        truth = [debit for debit in entries if (debit.study, debit.e) in left]
        assert spent.epsilon_fixed >= epsilon_of(world, truth) - 1e-3
        assert spent.epsilon_fixed == pytest.approx(epsilon_of(world, entries), abs=1e-3)

    def enough(_: object) -> None:
        if sites.died >= kills:
            raise Enough

    with KilledSites(
        world, victim=SITE, kills=kills, moments=random.Random(kills), on_order=record
    ) as sites:
        sites.on_death = check
        with pytest.raises(Enough):
            coordinate(sites, enough).run()
        kinds = {reply.kind for _, _, reply in sites.refused}
    assert sites.died == kills
    check()
    assert seen == sorted(seen)  # never lower than before
    assert len(left) >= kills // 2  # it was killed at work
    assert "IntegrityError" not in kinds  # a restart is no rollback
