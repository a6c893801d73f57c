"""A hostile or broken server: every order is refused in one line, and the site goes on unharmed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.world import MemorySites, World, coordinate

from fedward_client.round import SiteService
from fedward_common.codec import encode
from fedward_common.messages import (
    MAX_SUMS,
    ORDERS,
    REPLIES,
    AgreeOrder,
    Begin,
    Hello,
    MaskOrder,
    Message,
    Propose,
    Publish,
    Refusal,
    ShareOrder,
    Standing,
    StepReply,
    UnmaskOrder,
    WitnessesNeeded,
    decode_message,
)
from fedward_common.secagg.messages import MaskRequest

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

HUGE = 2**200


@pytest.fixture(scope="module")
def running(small, tmp_path_factory):
    """A study that stands after its second sum, at a server that then fell silent."""
    world: World = small.copy(tmp_path_factory.mktemp("orders") / "world")
    kept: dict[type, Message] = {}

    class Silent(Exception):  # noqa: N818
        pass

    def fate(name: str, order: Message) -> str:
        if name == "site-1":
            kept[type(order)] = order
        if isinstance(order, MaskOrder) and order.e == 3 and name == "site-1":
            raise Silent
        return "ok"

    with world.sites(seed=1, fate=fate) as sites, pytest.raises(Silent):
        coordinate(sites).run()
    with world.sites(seed=1) as sites:
        yield sites, kept


@pytest.fixture(scope="module")
def fuzzed(running, tmp_path_factory):
    """A copy for invented messages: among them may be a valid step 1 of a later attempt."""
    sites, kept = running
    sites.close()
    with sites.world.copy(tmp_path_factory.mktemp("fuzzed") / "world").sites(seed=1) as others:
        yield others, kept
        others.site("site-1").ledger.verify()
        # Attempt 3 stood open: an order that is whole but for one site's share may open it, once.
        assert [debit.e for debit in others.site("site-1").ledger.entries()] in ([1, 2], [1, 2, 3])


def refusal(sites: MemorySites, data: bytes) -> Refusal:
    before = sites.site("site-1").ledger.head()
    reply = decode_message(sites.ask("site-1", data), REPLIES)
    assert isinstance(reply, Refusal)
    assert reply.kind != "InternalError"
    assert "\n" not in reply.reason
    assert sites.site("site-1").ledger.head() == before  # nothing was spent
    return reply


def is_answered(sites: MemorySites, order: Message) -> bool:
    return isinstance(decode_message(sites.ask("site-1", order.encode()), REPLIES), StepReply)


def test_numbers_that_no_database_holds(running):
    sites, kept = running
    study = kept[MaskOrder].study
    for e in (HUGE, 2**64, 2**63 - 1, -1):
        for order in (
            ShareOrder(study, e),
            AgreeOrder(study, e, b""),
            MaskOrder(study, e, 0, (), b""),
            MaskOrder(study, 3, e, (), b""),
            UnmaskOrder(study, e, b"", 0),
            UnmaskOrder(study, 3, b"", e),
            Publish(study, e, ()),
        ):
            refusal(sites, order.encode())


def test_sums_with_a_gap_too_many_too_long_or_past_the_end(running):
    sites, kept = running
    mask: MaskOrder = kept[MaskOrder]
    good = mask.sums[-1]
    for position, sums in (
        (mask.position + 1, (good,)),
        (mask.position, (good[:-4],)),
        (mask.position, (good + bytes(4),)),
        (mask.position, (b"",)),
        (mask.position, (good,) * MAX_SUMS),
        (mask.position, (good,) * (MAX_SUMS + 1)),
    ):
        refusal(sites, replace(mask, position=position, sums=sums).encode())
        if position > mask.position or len(sums) > 1 or sums[0] != good:
            refusal(sites, Publish(mask.study, position, sums).encode())


def test_a_model_that_the_others_do_not_have_gives_the_server_nothing(running):
    """A false sum changes this site's ctx: its addend does not fit the others' (A2)."""
    sites, kept = running
    mask: MaskOrder = kept[MaskOrder]
    false = np.frombuffer(mask.sums[-1], dtype="<u4") + np.uint32(1)
    world = sites.world
    copy = world.copy(world.root.parent / "false")
    with copy.sites(seed=1) as others:
        lied = decode_message(
            others.ask("site-1", replace(mask, sums=(false.tobytes(),)).encode()), REPLIES
        )
        assert isinstance(lied, StepReply)  # the site cannot know yet
        assert others.site("site-1").studies.running(mask.study).progress is not None
        running_state = others.service("site-1")._study(mask.study)
        assert running_state.progress.position == mask.position  # nothing is adopted
    with world.copy(world.root.parent / "true").sites(seed=1) as others:
        honest = decode_message(others.ask("site-1", mask.encode()), REPLIES)
    assert isinstance(honest, StepReply)
    assert lied.reply != honest.reply


def test_step_orders_out_of_turn(running):
    sites, kept = running
    study = kept[MaskOrder].study
    agree, unmask = kept[AgreeOrder], kept[UnmaskOrder]
    assert (agree.e, unmask.e) == (2, 2)
    refusal(sites, AgreeOrder(study, 3, agree.request).encode())
    refusal(sites, UnmaskOrder(study, 3, unmask.request, 4).encode())
    refusal(sites, ShareOrder(study, 1).encode())
    refusal(sites, MaskOrder(bytes(32), 3, 0, (), b"").encode())


@pytest.mark.parametrize("field", ["u1 without it", "too few", "of another e", "resigned"])
def test_a_mask_request_with_wrong_keys(running, field):
    sites, kept = running
    mask: MaskOrder = kept[MaskOrder]
    good = MaskRequest.decode(mask.request)
    first, second, third = good.keys
    records = good.ciphertexts
    bad = {
        "u1 without it": replace(good, keys=(second, third), ciphertexts=records[1:]),
        "too few": replace(good, keys=(first, second), ciphertexts=records[:2]),
        "of another e": replace(good, e=2),
        "resigned": replace(good, keys=(first, second, replace(third, signature=bytes(64)))),
    }[field]
    assert refusal(sites, replace(mask, request=bad.encode()).encode()).kind == "PeerError"


def valid_orders(kept) -> list[bytes]:
    return [order.encode() for order in kept.values()]


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_mangled_bytes_are_refused_for_what_they_are(fuzzed, data):
    sites, kept = fuzzed
    order = data.draw(st.sampled_from([o for o in valid_orders(kept) if len(o) < 20_000]))
    place = data.draw(st.integers(0, len(order) - 1))
    mangled = data.draw(
        st.one_of(
            st.just(order[:place]),
            st.just(order + b"\0"),
            st.binary(max_size=40).map(lambda junk: order[:place] + junk + order[place:]),
            st.binary(min_size=1, max_size=8).map(
                lambda junk: order[:place] + junk + order[place + len(junk) :]
            ),
        )
    )
    reply = decode_message(sites.ask("site-1", mangled), REPLIES)
    assert not isinstance(reply, Refusal) or reply.kind != "InternalError"


@given(
    tag=st.sampled_from([kind.TAG for kind in (*ORDERS, *REPLIES)] + ["", "nonsense"]),
    values=st.lists(
        st.one_of(
            st.integers(-(2**63), 2**63),
            st.binary(max_size=40),
            st.text(max_size=20),
            st.floats(allow_nan=False, allow_infinity=False),
            st.booleans(),
            st.lists(st.binary(max_size=8), max_size=20).map(tuple),
        ),
        max_size=6,
    ),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_invented_messages_are_refused_for_what_they_are(fuzzed, tag, values):
    sites, _ = fuzzed
    reply = decode_message(sites.ask("site-1", encode((tag, *values))), REPLIES)
    if isinstance(reply, Refusal):
        assert reply.kind != "InternalError"
    else:
        assert tag in {Hello.TAG, Propose.TAG, Begin.TAG, Publish.TAG}


def test_after_all_that_the_study_goes_on(running):
    sites, kept = running
    assert isinstance(decode_message(sites.ask("site-1", kept[Begin].encode()), REPLIES), Standing)
    assert is_answered(sites, kept[MaskOrder])
    sites.close()
    with sites.world.sites(seed=1) as again:
        assert coordinate(again).run().progress.position == 4
        assert again.refused == []


class Clock:
    """Time stands still except where it is told to pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def masking(tmp_path, delay: float):
    """A world under a plan with a reply delay, and site-1's first MaskOrder in it."""
    from tests.world import make_world

    queries = [{"kind": "count", "noise_multiplier": 5.0}]
    schedule = {"maximum_attempts": 3, "reply_delay_seconds": delay}
    world = make_world(tmp_path / "world", 3, queries=queries, schedule=schedule)
    orders = []

    class Caught(Exception):  # noqa: N818
        pass

    def fate(name: str, order: Message) -> str:
        if isinstance(order, MaskOrder):
            orders.append(order)
            raise Caught
        return "ok"

    with world.sites(fate=fate) as sites, pytest.raises(Caught):
        coordinate(sites).run()
    return world, orders[0]


def witnessed(others: MemorySites, service: SiteService, order: Message) -> Message:
    """What a service answers to an order once the others have borne witness (B6)."""
    reply = decode_message(service.handle(order.encode()), REPLIES)
    if isinstance(reply, WitnessesNeeded):
        others.vouch("site-1", reply, service.handle)
        reply = decode_message(service.handle(order.encode()), REPLIES)
    return reply


def test_the_addend_leaves_at_the_plans_delay_and_a_late_one_not_at_all(tmp_path):
    world, order = masking(tmp_path, 20.0)
    late = world.copy(tmp_path / "late")
    clock = Clock()
    with world.open("site-1") as site, world.sites() as others:
        service = SiteService(site, clock=clock, sleep=clock.sleep)
        reply = witnessed(others, service, order)
        assert isinstance(reply, StepReply)
        sent = decode_message(service.handle(order.encode()), REPLIES)
        assert sent == reply  # and a repeated one waits no more
        (entry,) = [entry for entry in site.audit.entries() if entry.kind.startswith("mask")]
    assert (entry.kind, entry.sha256) == ("mask", hashlib.sha256(reply.encode()).digest())
    assert clock.slept == [20.0]
    with world.open("site-1") as site:  # it may have been killed within the delay: all of it again
        restarted = SiteService(site, clock=clock, sleep=clock.sleep)
        for _ in range(2):
            assert decode_message(restarted.handle(order.encode()), REPLIES) == reply
    assert clock.slept == [20.0, 20.0]

    class Slow(Clock):
        def __call__(self) -> float:
            self.now += 25.0  # between the order's arrival and the addend
            return self.now

    clock = Slow()
    with late.open("site-1") as site, late.sites() as others:
        service = SiteService(site, clock=clock, sleep=clock.sleep)
        for _ in range(2):  # asked again, it does not leave late either
            refusal = witnessed(others, service, order)
            assert isinstance(refusal, Refusal)
            (entry,) = [entry for entry in site.audit.entries() if entry.kind.startswith("mask")]
            hashed = hashlib.sha256(refusal.encode()).digest()
            assert (entry.kind, entry.sha256) == ("mask-refused", hashed)  # what left, in fact
    assert clock.slept == [15.0, 15.0]
