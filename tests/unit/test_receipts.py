"""Participation receipts: a real study with sites that are away, late or refuse; none is silent."""

from __future__ import annotations

import fcntl
import json
import threading

import pytest
from tests.world import GRADIENT, make_world

from fedward_common.messages import (
    MaskOrder,
    ProposeReply,
    Refusal,
    WitnessesNeeded,
)
from fedward_server import coordinator
from fedward_server.coordinator import Coordinator
from fedward_server.receipts import AWAY, UNNOTED, Receipts, RecordedSites, StudyStoppedError
from fedward_server.server_folder import StoredStudy
from fedward_server.status import study_lines, study_status
from fedward_server.study_files import (
    append_receipt,
    exclusive,
    failure,
    forget_failure,
    is_finished,
    is_held,
    note_failed,
    note_finished,
    read_receipts,
)
from fedward_server.supervisor import CLAIM_SECONDS

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    queries = [{"kind": "count", "noise_multiplier": 5.0}, {**GRADIENT, "rounds": 3}]
    root = tmp_path_factory.mktemp("receipts") / "federation"
    return make_world(root, 4, queries=queries, schedule={"maximum_attempts": 12})


@pytest.fixture
def world(made, tmp_path, monkeypatch):
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)
    return made.copy(tmp_path / "federation")


def run(sites, stopping=lambda: False, upto=None):
    """The study as the ServerApp runs it; stops once ``upto`` receipts of rounds are there."""
    world = sites.world
    world.server.mkdir(exist_ok=True)
    receipts = Receipts(world.server, world.names)
    receipts.reconcile()

    def enough():
        return upto is not None and len(rounds(world)) >= upto

    recorded = RecordedSites(sites, receipts, stopping=lambda: stopping() or enough())
    Coordinator(
        world.signed,
        recorded,
        world.server,
        on_round=receipts.round_finished,
        on_abort=receipts.attempt_aborted,
    ).run()


def rounds(world):
    return [entry for entry in read_receipts(world.server) if "round" in entry]


def test_every_round_has_a_receipt_with_everybody_in_it(world):
    with world.sites(seed=3) as sites:
        run(sites)
    found = rounds(world)
    assert [entry["round"] for entry in found] == [1, 2, 3, 4]
    assert [entry["query"] for entry in found] == ["count", *["gradient"] * 3]
    for entry in found:
        assert entry["contributed"] == list(world.names)
        assert entry["absent"] == {}
    stored = StoredStudy(world.signed, world.server)
    status = study_status(stored)
    assert (status.position, status.rounds, status.attempt) == (4, 4, 4)
    assert status.late == {}


def test_who_is_absent_and_why(world):
    gone, mute = world.names[1], world.names[3]

    def fate(name, order):
        masks = isinstance(order, MaskOrder) and order.e == 2
        return "lost" if masks and name == mute else "ok"

    with world.sites(seed=3) as sites:
        sites.fate = fate
        with pytest.raises(StudyStoppedError):
            run(sites, upto=2)
        second = rounds(world)[1]
        assert second["contributed"] == [n for n in world.names if n != mute]
        assert second["absent"][mute].startswith("no valid answer to mask within")
        sites.offline = {gone}
        run(sites)
    third = rounds(world)[2]
    assert third["absent"] == {gone: AWAY}
    status = study_status(StoredStudy(world.signed, world.server))
    assert status.late == {gone: AWAY}
    assert f"  late: {gone}: {AWAY}" in study_lines(status)


def test_an_attempt_in_vain_is_told_with_its_reasons(world):
    lost = set(world.names[2:])

    def fate(name, order):
        return "lost" if isinstance(order, MaskOrder) and order.e == 1 and name in lost else "ok"

    with world.sites(seed=3) as sites:
        sites.fate = fate
        run(sites)
    first = read_receipts(world.server)[0]
    assert first["e"] == 1
    assert "aborted" in first
    assert first["problems"].keys() == lost
    assert [entry["e"] for entry in rounds(world)] == [2, 3, 4, 5]


def test_a_receipt_that_a_crash_prevented_is_written_at_the_next_start(world):
    with world.sites(seed=3) as sites:
        with pytest.raises(StudyStoppedError):
            run(sites, upto=2)
        path = world.server / "receipts.jsonl"
        whole = path.read_text()
        path.write_text(whole[: whole.rindex("\n") + 20])  # the last line was cut short
        assert len(rounds(world)) == 1
        run(sites)
    found = rounds(world)
    assert sorted(entry["round"] for entry in found) == [1, 2, 3, 4]
    again = next(entry for entry in found if entry["round"] == 2)
    assert again["contributed"] == list(world.names)


def test_a_reconciled_receipt_names_who_was_not_in_it(world):
    gone = world.names[0]
    with world.sites(seed=3) as sites:
        with pytest.raises(StudyStoppedError):
            run(sites, upto=1)
        sites.offline = {gone}
        with pytest.raises(StudyStoppedError):
            run(sites, upto=2)
    (world.server / "receipts.jsonl").unlink()
    Receipts(world.server, world.names).reconcile()
    first, second = rounds(world)
    assert first["absent"] == {}
    assert second["absent"] == {gone: UNNOTED}


def test_a_server_that_stops_ends_between_steps_and_the_next_run_goes_on(world):
    with world.sites(seed=3) as sites:
        with pytest.raises(StudyStoppedError):
            run(sites, upto=2)
        assert [entry["round"] for entry in rounds(world)] == [1, 2]
        asked = len(sites.sent)
        with pytest.raises(StudyStoppedError):
            run(sites, stopping=lambda: True)
        assert len(sites.sent) == asked
        run(sites)
    assert [entry["e"] for entry in rounds(world)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Refusal("PolicyRefusalError", "outside hours"), "refused share (PolicyRefusalError): out"),
        (ProposeReply(b""), "not approved the plan yet"),
        (WitnessesNeeded(b"s", b"n"), "waits for witnesses"),
    ],
)
def test_an_answer_that_brings_nothing_is_a_reason(tmp_path, reply, words):
    receipts = Receipts(tmp_path, ["a", "b"])
    receipts.present(["a", "b"])
    receipts.asked("share", ["a", "b"])
    receipts.heard("share", "a", reply)
    receipts.silent("share", 5.0)
    now = json.loads((tmp_path / "now.json").read_text())
    assert words in now["problems"]["a"]
    assert now["problems"]["b"] == "no valid answer to share within 5 s"
    assert now["waiting"] == ["b"]
    receipts.attempt_aborted(1, "too few")
    assert read_receipts(tmp_path)[0]["problems"].keys() == {"a", "b"}


def test_a_site_that_answers_after_all_has_no_problem(tmp_path):
    receipts = Receipts(tmp_path, ["a"])
    receipts.problem("a", "it speaks protocol 2")
    receipts.asked("share", ["a"])
    receipts.heard("share", "a", ProposeReply(b"approval"))
    receipts.silent("share", 5.0)
    assert json.loads((tmp_path / "now.json").read_text())["problems"] == {}


def test_lines_after_one_that_was_cut_short_are_read(tmp_path):
    append_receipt(tmp_path, {"round": 1})
    with (tmp_path / "receipts.jsonl").open("a") as stream:
        stream.write('\n{"round": 2, "abs')
    append_receipt(tmp_path, {"round": 3})
    assert [entry["round"] for entry in read_receipts(tmp_path)] == [1, 3]


def test_how_a_study_ended_is_on_the_disk(tmp_path):
    assert (failure(tmp_path), is_finished(tmp_path)) == (None, False)
    note_failed(tmp_path, "attempts are used up")
    assert failure(tmp_path) == "attempts are used up"
    forget_failure(tmp_path)
    note_finished(tmp_path)
    assert (failure(tmp_path), is_finished(tmp_path)) == (None, True)


def test_who_only_looks_keeps_nobody_from_starting(tmp_path):
    with exclusive(tmp_path):
        pass  # makes the lock's file
    looking = (tmp_path / "running.lock").open()
    fcntl.flock(looking, fcntl.LOCK_SH)  # as is_held does, for a moment
    threading.Timer(0.2, looking.close).start()
    with exclusive(tmp_path, CLAIM_SECONDS):
        assert is_held(tmp_path)


def test_two_who_look_do_not_see_each_other(tmp_path):
    with exclusive(tmp_path):
        pass
    with (tmp_path / "running.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as is_held does
        assert not is_held(tmp_path)


def test_a_folder_is_worked_on_by_one(tmp_path):
    assert not is_held(tmp_path)
    with exclusive(tmp_path):
        assert is_held(tmp_path)
        with (
            pytest.raises(Exception, match="another process works on it"),
            exclusive(tmp_path, 0.0),
        ):
            pass
    assert not is_held(tmp_path)
