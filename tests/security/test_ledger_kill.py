"""kill -9 at random moments: no debit is lost, doubled or half-written (B6, G6)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from fedward_client.database import open_database
from fedward_client.ledger import Ledger
from fedward_client.policy import AccountCap, Caps

CAPS = Caps(train=AccountCap(epsilon=100.0, delta=1e-5))

CHILD = """
import sys
from pathlib import Path
from fedward_client.database import open_database
from fedward_client.ledger import Allowance, Debit, Ledger
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
