"""Kill the site or the server between any two messages: nothing is lost, signed or spent twice."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil

import pytest
from tests.world import STEPS, ServerStopped, World, coordinate, published

from fedward_common.errors import PeerError
from fedward_common.messages import (
    ORDERS,
    REPLIES,
    AgreeOrder,
    Hello,
    MaskOrder,
    Message,
    Propose,
    Refusal,
    ShareOrder,
    StepReply,
    UnmaskOrder,
    WitnessesNeeded,
    WitnessOrder,
    decode_message,
)

SUMS = 4
OPENING = 3 + 3 + 3 * 3
"""Three proposals, three beginnings, and for each site its witnesses and the beginning again."""

MESSAGES = OPENING + 4 * 3 * SUMS - 3 * (SUMS - 1)
"""Four exchanges a sum, of which step 1 rides along."""

LOGGED, UNLOGGED = (*STEPS, Propose, WitnessOrder), (Refusal, WitnessesNeeded)
"""Orders whose answers the site's log names, but for these answers."""

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


@pytest.fixture
def world(small, tmp_path) -> World:
    return small.copy(tmp_path / "world")


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory) -> list[bytes]:
    world = small.copy(tmp_path_factory.mktemp("straight") / "world")
    with world.sites(seed=7) as sites:
        coordinate(sites).run()
        assert len(sites.sent) == MESSAGES + 3  # and the last sum to all
    return [total.tobytes() for total in published(world, SUMS)]


def debits(world: World, name: str) -> list[tuple[bytes, int]]:
    with world.open(name) as site:
        return [(entry.study, entry.e) for entry in site.ledger.entries()]


def altered(order: Message) -> Message:
    """Another order for the same step of the same e."""
    match order:
        case ShareOrder():
            return order  # there is only one
        case MaskOrder():
            return MaskOrder(order.study, order.e, order.position, order.sums, order.request[:-1])
        case AgreeOrder():
            return AgreeOrder(order.study, order.e, order.request[:-1] + b"\0")
        case UnmaskOrder():
            return UnmaskOrder(order.study, order.e, order.request, order.next_e + 1)
        case _:
            return order


def refusal(data: bytes) -> Refusal:
    reply = decode_message(data, REPLIES)
    assert isinstance(reply, Refusal)
    return reply


def test_a_site_may_restart_between_any_two_steps(world, uninterrupted):
    with world.sites(seed=7, reopen=True) as sites:
        coordinate(sites).run()
        assert sites.refused == []
    assert [total.tobytes() for total in published(world, SUMS)] == uninterrupted
    for name in world.names:
        assert [e for _, e in debits(world, name)] == list(range(1, SUMS + 1))


@pytest.mark.parametrize("reopen", [False, True])
def test_a_repeated_order_gets_the_stored_bytes_and_a_different_one_a_refusal(world, reopen):
    seen = set()

    def ask_again(name: str, order: Message, reply: bytes) -> None:
        if not isinstance(order, STEPS):
            return
        assert isinstance(decode_message(reply, REPLIES), StepReply)
        assert sites.ask(name, order.encode()) == reply
        other = altered(order)
        if other != order:
            assert refusal(sites.ask(name, other.encode())).kind == "PeerError"
        assert sites.ask(name, order.encode()) == reply
        seen.add(type(order))

    with world.sites(reopen=reopen, on_order=ask_again) as sites:
        checkpoint = coordinate(sites).run()
    assert checkpoint.progress.position == SUMS
    assert seen == set(STEPS)
    for name in world.names:
        assert len(debits(world, name)) == len(set(debits(world, name))) == SUMS


def test_every_reply_that_leaves_is_in_the_sites_log_once_even_if_it_leaves_twice(world):
    def again(name: str, order: Message, reply: bytes) -> None:
        if isinstance(order, STEPS):
            assert sites.ask(name, order.encode()) == reply

    with world.sites(on_order=again) as sites:
        coordinator = coordinate(sites)
        coordinator.run()
        study, plan = coordinator.digest, world.study.plan.digest
        entries = [e for e in sites.site("site-1").audit.entries() if e.kind != "approve"]
        left = [(order, data) for name, order, data in sites.sent if name == "site-1"]
    named = [
        (order.TAG, hashlib.sha256(data).digest())
        for order, data in left
        if isinstance(order, LOGGED) and not isinstance(decode_message(data, REPLIES), UNLOGGED)
    ]
    assert [(entry.kind, entry.sha256) for entry in entries] == named
    assert {kind for kind, _ in named} == {kind.TAG for kind in (*STEPS, Propose, WitnessOrder)}
    assert {(e.kind == "propose", e.study) for e in entries} == {(True, plan), (False, study)}


def test_what_a_coordinator_may_ask_without_end_does_not_fill_the_log(world):
    with world.sites() as sites:
        coordinator = coordinate(sites)
        coordinator.run()
        ask = functools.partial(sites.ask, "site-1")
        before = sites.site("site-1").audit.head()
        for number in range(20):
            ask(Hello(number.to_bytes(32, "big")).encode())
            ask(ShareOrder(number.to_bytes(32, "big"), 1).encode())
            ask(ShareOrder(coordinator.digest, 100 + number).encode())
            ask(b"garbage")
        assert sites.site("site-1").audit.head() == before


def test_an_e_is_never_begun_twice(world):
    shares: dict[int, bytes] = {}

    def note(name: str, order: Message, data: bytes) -> None:
        reply = decode_message(data, REPLIES)
        if name != "site-1" or not isinstance(reply, StepReply):
            return
        if isinstance(order, ShareOrder):
            shares[order.e] = reply.reply
        if isinstance(order, UnmaskOrder) and order.next_e:
            shares[order.next_e] = reply.share

    with world.sites(on_order=note) as sites:
        coordinator = coordinate(sites)
        coordinator.run()
        answers = {
            e: decode_message(
                sites.ask("site-1", ShareOrder(coordinator.digest, e).encode()), REPLIES
            )
            for e in range(1, SUMS + 1)
        }
    assert sorted(shares) == list(answers)
    assert len(set(shares.values())) == SUMS
    for e, answer in answers.items():
        stored = isinstance(answer, StepReply) and answer.reply == shares[e]
        assert stored or isinstance(answer, Refusal)
    assert isinstance(answers[1], Refusal)


def test_a_refused_step_1_leaves_the_attempt_in_flight_as_it_was(world):
    """An order for an e that is over must not replace the key that seals the state of e."""

    def disturb(name: str, order: Message, _: bytes) -> None:
        if isinstance(order, ShareOrder | MaskOrder):
            for e in range(order.e):
                sites.ask(name, ShareOrder(order.study, e).encode())

    with world.sites(on_order=disturb) as sites:
        assert coordinate(sites).run().progress.position == SUMS
        assert sites.refused == []


def test_a_lost_last_message_does_not_cost_its_site_the_next_attempt(template, tmp_path):
    """Step 1 that rode on a reply which got lost may be asked for on its own."""

    def mute(name: str, order: Message) -> str:
        return "mute" if name == "site-2" and isinstance(order, UnmaskOrder) else "ok"

    world = template.copy(tmp_path / "four")
    with world.sites(fate=mute) as sites:
        checkpoint = coordinate(sites).run()
        assert sites.refused == []
    assert [entry["e"] for entry in checkpoint.history] == [1, 2, 3, 4, 5, 6]
    assert all(entry["sites"] == list(world.names) for entry in checkpoint.history)


def test_a_restored_database_cannot_open_the_seeds_of_an_old_attempt(world, tmp_path):
    saved = tmp_path / "backup"
    kept: dict[str, bytes] = {}

    def back_up(name: str, order: Message, _: bytes) -> None:
        if name == "site-1" and isinstance(order, ShareOrder) and not saved.exists():
            sites.restart(name)  # checkpoints the write-ahead log
            saved.mkdir()
            for file in (world.root / name).glob("site.db*"):
                shutil.copy(file, saved)
        if name == "site-1" and isinstance(order, MaskOrder) and order.e == 1:
            kept["mask"] = order.encode()

    with world.sites(on_order=back_up) as sites:
        coordinate(sites).run()
        sites.restart("site-1")
        for file in (world.root / "site-1").glob("site.db*"):
            file.unlink()
        for file in saved.iterdir():
            shutil.copy(file, world.root / "site-1")
        # The others saw more of its ledger: nothing is served (B6), and the seeds are gone (A6).
        assert refusal(sites.ask("site-1", kept["mask"])).kind == "IntegrityError"
        study = decode_message(kept["mask"], ORDERS).study
        with pytest.raises(PeerError, match="cannot be opened"):
            sites.site("site-1").rounds.load(study, 1)
    assert debits(world, "site-1") == []


QUICK = {1, 5, 8, 11, 14, 17, 20, MESSAGES, MESSAGES + 2}


@pytest.mark.parametrize(
    "stop_after",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in range(1, MESSAGES + 3)],
)
def test_a_server_that_is_killed_resumes_without_losing_an_attempt(
    world, uninterrupted, stop_after
):
    with world.sites(seed=7, stop_after=stop_after) as sites, pytest.raises(ServerStopped):
        coordinate(sites).run()
    with world.sites(seed=7) as sites:
        history = coordinate(sites).run().history
        assert sites.refused == []
    assert [entry["e"] for entry in history] == list(range(1, SUMS + 1))
    assert [total.tobytes() for total in published(world, SUMS)] == uninterrupted
    for name in world.names:
        assert [e for _, e in debits(world, name)] == list(range(1, SUMS + 1))


def test_sites_and_server_killed_together_resume_as_well(world, uninterrupted):
    """Each life lasts for one round, and for one message of the next."""
    for life in range(SUMS):
        opening = OPENING if life == 0 else OPENING - 3  # the approvals are on the disk by then
        with world.sites(seed=7, stop_after=opening + 13) as sites, pytest.raises(ServerStopped):
            coordinate(sites).run()
    with world.sites(seed=7, stop_after=OPENING + 13) as sites:
        assert coordinate(sites).run().progress.position == SUMS
    assert [total.tobytes() for total in published(world, SUMS)] == uninterrupted


def test_the_counter_is_on_the_disk_before_an_attempt_is_asked_for(world):
    counters = []

    def read(_: str, order: Message, __: bytes) -> None:
        if isinstance(order, ShareOrder | MaskOrder):
            stored = json.loads((world.server / "attempts.json").read_text())["e"]
            counters.append((order.e, stored))

    with world.sites(on_order=read) as sites:
        coordinate(sites).run()
    assert all(e == stored for e, stored in counters)
