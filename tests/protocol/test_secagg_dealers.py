"""Who dealt wrong shares (A3.5): named where the others' word proves it, never on the word of c.

Nine sites, t = 7, c = 2: a share is 17 bytes that only its holder sees before step 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.secagg_world import PUBLIC_INPUT, QUERY, Round, World

from fedward_common.randomness import os_random
from fedward_common.secagg.closing import RoundAbortedError
from fedward_common.secagg.messages import MaskRequest, ShareMessage, UnmaskReply
from fedward_common.secagg.server import CollectingReveals, CollectingShares
from fedward_common.secagg.server_store import decode_reveals, encode_reveals
from fedward_common.secagg.shamir import SHARE_BYTES, split
from fedward_common.secagg.sharing import SharePair, deal
from fedward_common.secret import SecretBytes

N, C = 9, 2
ADDENDS = [np.arange(6, dtype=np.uint32) + i for i in range(N)]
SUM = sum(ADDENDS).tolist()
DEALER = 4


@pytest.fixture(scope="module")
def world():
    world = World.make(N, os_random, c=C)
    assert world.group.threshold == 7
    return world


def wrong() -> SecretBytes:
    return SecretBytes(bytes(1) + os_random(SHARE_BYTES - 1))


def misdeal(attempt: Round, victims: Collection[int]) -> ShareMessage:
    """The dealer's message once more: it opens everywhere, and the victims' shares are wrong."""
    state = attempt.sharing[DEALER]
    t = state.seat.group.threshold
    pairs = list(map(SharePair, split(state.a, t, N, os_random), split(state.b, t, N, os_random)))
    for victim in victims:
        pairs[victim] = SharePair(wrong(), wrong())
    own, records = deal(state.seat, state.key, pairs, os_random)
    attempt.sharing[DEALER] = dataclasses.replace(state, own=own)
    return ShareMessage(attempt.e, state.key, records)


def until_reveals(
    attempt: Round, victims: Collection[int] = (), silent: Collection[int] = ()
) -> CollectingReveals:
    """Steps 1 to 4 with a dealer of wrong shares; ``silent`` sites do not answer step 4."""
    attempt.share()
    dealt = misdeal(attempt, victims)
    server = CollectingShares(attempt.world.group, attempt.e)
    for i in range(N):
        own = ShareMessage.decode(attempt.wire["share", i])
        server = server.receive(i, dealt if i == DEALER else own)
    masking, requests = server.close(QUERY, 0, PUBLIC_INPUT, 6)
    for i in range(N):
        masking = masking.receive(i, attempt.mask_one(i, requests[i]))
    agreeing, asked = masking.close()
    for i in range(N):
        attempt.agreed[i], message = attempt.masked[i].agree(asked[i])
        agreeing = agreeing.receive(i, message)
    revealing, last = agreeing.close()
    for i in set(range(N)) - set(silent):
        revealing = revealing.receive(i, attempt.agreed[i].unmask(last[i])[1])
    return revealing


@pytest.mark.parametrize("victims", [(), (0,), (0, 1)])
def test_up_to_c_wrong_shares_are_routed_around_and_prove_nothing(world, victims):
    summed, _ = until_reveals(Round(world, ADDENDS), victims).close()
    assert summed.total.tolist() == SUM
    assert summed.dealers == ()


def test_a_dealer_whose_seed_no_shares_rebuild_is_named(world):
    with pytest.raises(RoundAbortedError, match="rebuild the seed of site 4") as aborted:
        until_reveals(Round(world, ADDENDS), range(N)).close()
    assert aborted.value.dealers == (DEALER,)


def test_a_lost_seed_proves_nothing_while_c_liars_could_have_lost_it(world):
    """Eight answer: two of them may lie, and six honest shares open nothing."""
    with pytest.raises(RoundAbortedError, match="rebuild the seed of site 4") as aborted:
        until_reveals(Round(world, ADDENDS), range(N), silent=(8,)).close()
    assert aborted.value.dealers == ()


def holes(requests: dict[int, MaskRequest], holders: Collection[int]) -> None:
    for i in holders:
        records = list(requests[i].ciphertexts)
        records[DEALER] = b""
        requests[i] = dataclasses.replace(requests[i], ciphertexts=tuple(records))


@pytest.mark.parametrize(("complaints", "blamed"), [(C, ()), (C + 1, (DEALER,))])
def test_more_than_c_missing_shares_name_their_dealer(world, complaints, blamed):
    attempt = Round(world, ADDENDS)
    masking, requests = attempt.mask_requests()
    holes(requests, range(complaints))
    for i in range(N):
        masking = masking.receive(i, attempt.mask_one(i, requests[i]))
    if blamed:  # six holders: too few for t
        with pytest.raises(RoundAbortedError, match="6 holders of shares of site 4") as aborted:
            masking.close()
        assert aborted.value.dealers == blamed
        return
    agreeing, asked = masking.close()
    for i in range(N):
        attempt.agreed[i], message = attempt.masked[i].agree(asked[i])
        agreeing = agreeing.receive(i, message)
    revealing, last = agreeing.close()
    for i in range(N):
        revealing = revealing.receive(i, attempt.agreed[i].unmask(last[i])[1])
    assert revealing.close()[0].dealers == blamed


def test_a_site_that_is_left_out_is_not_waited_for_nor_taken(world):
    attempt = Round(world, ADDENDS)
    attempt.share()
    server = CollectingShares(world.group, 1, frozenset({DEALER}))
    assert server.waiting == set(range(N)) - {DEALER}
    with pytest.raises(Exception, match="site 4 is left out"):
        server.receive(DEALER, ShareMessage.decode(attempt.wire["share", DEALER]))
    for i in server.waiting:
        server = server.receive(i, ShareMessage.decode(attempt.wire["share", i]))
    _, requests = server.close(QUERY, 0, PUBLIC_INPUT, 6)
    assert set(requests) == set(range(N)) - {DEALER}


def test_the_state_before_step_4_returns_from_its_bytes(world):
    attempt = Round(world, ADDENDS)
    before = dataclasses.replace(until_reveals(attempt), replies={})
    restored = decode_reveals(encode_reveals(before), world.group)
    assert encode_reveals(restored) == encode_reveals(before)
    for i in range(N):
        reply = attempt.agreed[i].unmask(restored.request)[1]
        restored = restored.receive(i, UnmaskReply.decode(reply.encode()))
    assert restored.close()[0].total.tolist() == SUM


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_c_lying_holders_never_have_an_honest_dealer_blamed(data):
    """They report what they like as missing, and release what they like; the rest fall silent."""
    world = World.make(N, os_random, c=C)
    liars = data.draw(st.sets(st.integers(0, N - 1), max_size=C), "liars")
    targets = {i: data.draw(st.sets(st.integers(0, N - 1)), f"targets of {i}") for i in liars}
    silent = data.draw(st.sets(st.integers(0, N - 1), max_size=2), "silent at step 4")
    attempt = Round(world, ADDENDS)
    masking, requests = attempt.mask_requests()
    blamed: tuple[int, ...] = ()
    try:
        for i in range(N):
            message = attempt.mask_one(i, requests[i])
            if i in liars and data.draw(st.booleans(), f"{i} reports"):
                message = dataclasses.replace(message, missing=tuple(sorted(targets[i] - {i})))
            masking = masking.receive(i, message)
        agreeing, asked = masking.close()
        for i in range(N):
            attempt.agreed[i], agreement = attempt.masked[i].agree(asked[i])
            agreeing = agreeing.receive(i, agreement)
        revealing, last = agreeing.close()
        for i in set(range(N)) - silent:
            reply = attempt.agreed[i].unmask(last[i])[1]
            if i in liars:
                shares = [
                    wrong().reveal() if j in targets[i] else share
                    for j, share in enumerate(reply.shares)
                ]
                reply = dataclasses.replace(reply, shares=tuple(shares))
            revealing = revealing.receive(i, reply)
        summed, _ = revealing.close()
        assert summed.total.tolist() == SUM
        blamed = summed.dealers
    except RoundAbortedError as error:
        blamed = error.dealers
    assert blamed == ()
