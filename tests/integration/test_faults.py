"""The parts of the fault campaign find what they look for; test_accept_deployment runs one."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli_world import simulate
from tests.world import COORDINATOR, coordinate, make_world

from fedward_common.messages import StepReply
from fedward_common.secagg.messages import MaskedAddend
from fedward_server.server_folder import KEY
from fedward_simulations.faults.addends import AddendFinder
from fedward_simulations.faults.processes import Process, Unit, descendants, marked, process_of
from fedward_simulations.faults.verdict import examine
from fedward_simulations.faults.world import Consortium, Ports

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


def addend(e: int) -> bytes:
    return StepReply(MaskedAddend(e, 2, bytes(400), bytes(64), ()).encode(), b"", 0).encode()


@given(
    attempts=st.lists(st.integers(1, 2**31 - 1), max_size=4),
    between=st.binary(max_size=50),
    size=st.integers(1, 200),
)
def test_every_addend_is_found_however_it_is_cut(attempts, between, size):
    data = between + between.join(addend(e) for e in attempts) + between
    finder = AddendFinder()
    found = [e for at in range(0, len(data), size) for e in finder.feed(data[at : at + size])]
    assert found == attempts


def test_other_messages_are_no_addends():
    data = b"addend" + StepReply(b"agree", b"", 0).encode() + b"s\x00\x00\x00\x06addendi"
    assert list(AddendFinder().feed(data)) == []


@pytest.fixture
def unit(tmp_path):
    made = Unit("sleeper", SLEEP, tmp_path / "log", f"test-{os.getpid()}-{time.monotonic_ns()}")
    made.start()
    yield made
    made.stop()


def test_a_killed_unit_is_started_again_and_a_stopped_one_is_not(unit):
    first = unit.process
    assert first.alive
    first.kill()
    _until(lambda: not first.alive)
    _until(lambda: unit.tick() or unit.process is not None)
    assert unit.process != first
    assert unit.starts == 2
    assert unit.stop() != 0
    unit.tick()
    assert unit.process is None


def test_processes_of_a_campaign_are_found_by_their_mark(unit):
    _until(lambda: marked(unit._mark) == [unit.process])
    assert process_of(unit.process.pid) == unit.process
    assert not replace(unit.process, started=1).alive  # a number that was given again
    assert unit.process in descendants(Process(os.getpid(), 0))
    process = unit.process
    unit.stop()
    assert not process.alive
    assert marked(unit._mark) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small study that has run in memory, in the folders of a deployment."""
    root = tmp_path_factory.mktemp("verdict")
    world = make_world(root / "sites", 3)
    seen = set()
    with world.sites(seed=1, on_order=lambda name, _, reply: _note(seen, name, reply)) as sites:
        coordinate(sites).run()
        attempts = json.loads((world.server / "attempts.json").read_text())["e"]
    study = root / "server" / "studies" / "trial"
    study.parent.mkdir(parents=True)
    world.server.rename(study)
    (study / "plan.signed").write_bytes(world.signed.to_file())
    (root / "server" / KEY).write_text(COORDINATOR.reveal().hex())
    return Consortium(root, world.names, Ports(1, 2, 3)), seen, attempts


def _note(seen, name, reply):
    seen.update((name, e) for e in AddendFinder().feed(reply))


def failed(made, seen, attempts):
    return {check.name for check in examine(made, seen, attempts)[0] if not check.passed}


def test_a_clean_study_passes(finished):
    made, seen, attempts = finished
    assert len(seen) == 3 * attempts
    assert failed(made, seen, attempts) == set()


def test_an_addend_without_a_debit_is_found(finished):
    made, seen, attempts = finished
    assert failed(made, seen | {(made.names[0], attempts + 1)}, attempts) == {
        "addends that left without exactly one debit"
    }


def test_an_addend_that_nobody_saw_is_found(finished):
    made, seen, attempts = finished
    less = seen - {(made.names[1], 1)}
    assert failed(made, less, attempts) == {"contributions that the recorder did not see"}


def test_too_many_attempts_are_found(finished):
    made, seen, _ = finished
    assert failed(made, seen, 10**6) == {"attempts used"}


def test_a_sum_that_counts_twice_and_an_altered_one_are_found(finished):
    made, seen, attempts = finished
    history = made.study / "history.json"
    text = history.read_text()
    record = json.loads(text)
    record["rounds"][1] = {**record["rounds"][0]}
    history.write_text(json.dumps(record))
    assert "rounds counted twice or out of order" in failed(made, seen, attempts)
    history.write_text(text)
    path = made.study / "sums" / "000000.u32"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert "model is the fold of the published sums" in failed(made, seen, attempts)
    path.write_bytes(data)


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "something").touch()
    simulate("faults", "--out", tmp_path).refused(2, tmp_path, "not empty")


def _until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
