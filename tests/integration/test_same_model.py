"""A deployment and a simulation of one plan, with the same randomness, make the same model."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.cli_world import client
from tests.seeded_daemon import randomness_of

from fedward_client.site import open_site
from fedward_server.checkpoints import load_checkpoint
from fedward_simulations.faults.deployment import Deployment, free_ports
from fedward_simulations.faults.world import Consortium, TrialPlan, begin, found
from fedward_simulations.federation import federate
from fedward_simulations.sites import POLICY

pytestmark = pytest.mark.slow

ROUNDS, SEED = 6, 7
LONGEST_SECONDS = 1800.0
DELAY_SECONDS = 8.0
"""No site may sit an attempt out because this machine is busy: see the first test."""


@dataclass
class SeededDeployment(Deployment):
    """The real coordinator and gateway; daemons of the test build."""

    def daemon_command(self, name: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "tests.seeded_daemon", str(self.made.site(name)), str(SEED))


@dataclass(frozen=True)
class Runs:
    """The same sites, copied before anything ran: deployed, simulated, and of another seed."""

    made: Consortium
    simulated: Path
    other: Path

    @property
    def deployed(self) -> Path:
        return self.made.study


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    root = tmp_path_factory.mktemp("same")
    ports = free_ports()
    made = found(root / "deployed", 3, type(ports)(ports.published, ports.published, ports.admin))
    for name in made.names:
        (made.site(name) / "policy.toml").write_text(POLICY.replace("share = 0.0", "share = 1.0"))
    begin(made, TrialPlan(ROUNDS, 3, ROUNDS + 8, 600.0, DELAY_SECONDS).toml())
    copies = (root / "simulated", root / "other")
    for copy in copies:
        shutil.copytree(made.root, copy)
    with SeededDeployment(made) as deployment:
        end = time.monotonic() + LONGEST_SECONDS
        while not deployment.finished:
            deployment.tick()
            assert time.monotonic() < end, deployment.log("supervisor")[-3000:]
    for seed, copy in enumerate(copies, SEED):
        _simulate(made, copy, seed)
    return Runs(made, *(copy / "run" for copy in copies))


def _simulate(made: Consortium, root: Path, seed: int) -> None:
    sites = [
        open_site(root / "sites" / name, randomness=randomness_of(name, seed))
        for name in made.names
    ]
    try:
        federate(made.signed, sites, root / "run", lambda _: None)
    finally:
        for site in sites:
            site.close()


def test_every_sum_took_one_attempt(runs):
    """The premise: an attempt in vain would draw other noise for the next."""
    for folder in (runs.deployed, runs.simulated):
        history = load_checkpoint(folder).history
        assert [entry["e"] for entry in history] == list(range(1, ROUNDS + 1))
        assert all(len(entry["sites"]) == 3 for entry in history)


def test_the_model_is_bit_identical(runs):
    deployed, simulated = load_checkpoint(runs.deployed), load_checkpoint(runs.simulated)
    assert deployed.progress.encode() == simulated.progress.encode()
    assert np.any(deployed.progress.state.parameters)


def test_every_sum_is_bit_identical(runs):
    for position in range(ROUNDS):
        name = Path("sums") / f"{position:06d}.u32"
        assert (runs.deployed / name).read_bytes() == (runs.simulated / name).read_bytes()


def test_every_sum_was_recounted_by_every_site(runs):
    for name in runs.made.names:
        for number in range(1, ROUNDS + 1):
            told = client("audit", "round", number, "--site", runs.made.site(name), "--json").json
            assert told["verdict"] == "true", (name, number, told)


def test_another_seed_makes_another_model(runs):
    """What the comparison rests on: the randomness decides, and nothing else differs."""
    simulated, other = load_checkpoint(runs.simulated), load_checkpoint(runs.other)
    assert simulated.progress.encode() != other.progress.encode()
    assert simulated.progress.position == other.progress.position
