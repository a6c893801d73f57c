"""The server's machine: what it refuses, what it survives, and what its transcript proves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.secagg_world import HEAD, PUBLIC_INPUT, QUERY, Round, World

from fedward_common.errors import PeerError
from fedward_common.randomness import os_random
from fedward_common.secagg import shamir
from fedward_common.secagg.closing import RoundAbortedError
from fedward_common.secagg.context import RoundContext, sign_round_key
from fedward_common.secagg.messages import (
    Agreement,
    MaskedAddend,
    MaskRequest,
    ShareMessage,
    UnmaskReply,
)
from fedward_common.secagg.server import CollectingShares
from fedward_common.secagg.sharing import CIPHERTEXT_BYTES
from fedward_common.secagg.site import start
from fedward_common.secagg.transcript import verify_transcript

N = 6  # t = 5, t_min = 5
ADDENDS = [np.arange(8, dtype=np.uint32) + i for i in range(N)]
CONTEXT = RoundContext(1, QUERY, 0, PUBLIC_INPUT)


@pytest.fixture(scope="module")
def world():
    return World.make(N, os_random)


def _refused(call, match):
    with pytest.raises(PeerError, match=match):
        call()


def test_step_1_refuses_what_is_not_the_senders_own_fresh_message(world):
    server = CollectingShares(world.group, 1)
    _, message = start(world.group, world.keys[2], 1, HEAD, os_random)
    _, again = start(world.group, world.keys[2], 1, HEAD, os_random)
    _, late = start(world.group, world.keys[2], 2, HEAD, os_random)
    _refused(lambda: server.receive(3, message), "in the name of site 2")
    _refused(lambda: server.receive(2, late), "attempt 2 during attempt 1")
    forged = dataclasses.replace(message.key, A=again.key.A)
    _refused(lambda: server.receive(2, dataclasses.replace(message, key=forged)), "'key'")
    outside = dataclasses.replace(message, key=dataclasses.replace(message.key, index=N))
    _refused(lambda: server.receive(N, outside), "not in the roster")
    for records in (
        message.ciphertexts[:-1],
        (b"", *message.ciphertexts[1:]),
        (*message.ciphertexts[:2], bytes(CIPHERTEXT_BYTES), *message.ciphertexts[3:]),
    ):
        bad = dataclasses.replace(message, ciphertexts=records)
        _refused(lambda b=bad: server.receive(2, b), "one share record for each peer")
    after = server.receive(2, message)
    assert after.receive(2, message) is after
    _refused(lambda: after.receive(2, again), "differs from its first")
    assert server.waiting == frozenset(range(N))
    assert after.waiting == frozenset(range(N)) - {2}


def test_a_low_order_round_key_stops_its_sender_only(world):
    pre = world.group.pre(1)
    key = sign_round_key(world.keys[2].identity, pre, 2, bytes(32), bytes(32), HEAD)
    records = tuple(b"" if j == 2 else bytes(CIPHERTEXT_BYTES) for j in range(N))
    server = CollectingShares(world.group, 1)
    _refused(lambda: server.receive(2, ShareMessage(1, key, records)), "low order")


def test_step_2_refuses_what_is_not_the_senders_own_addend(world):
    attempt = Round(world, ADDENDS, drop={5: 1})
    server, requests = attempt.mask_requests()
    message = attempt.mask_one(0, requests[0])
    _refused(lambda: server.receive(1, message), "in the name of site 0")
    _refused(lambda: server.receive(0, dataclasses.replace(message, e=2)), "attempt 2")
    _refused(lambda: server.receive(5, dataclasses.replace(message, index=5)), "not in U1")
    flipped = bytes([message.y[0] ^ 1]) + message.y[1:]
    _refused(lambda: server.receive(0, dataclasses.replace(message, y=flipped)), "'addend'")
    short = dataclasses.replace(message, y=message.y[:-4])
    _refused(lambda: server.receive(0, short), "does not have 8 elements")
    after = server.receive(0, message)
    assert after.receive(0, message) is after
    _refused(lambda: after.receive(0, dataclasses.replace(message, y=flipped)), "differs")
    assert not server.total.any()
    assert after.waiting == {1, 2, 3, 4}
    assert MaskedAddend.decode(message.encode(), 8) == message


def test_step_3_refuses_what_is_not_the_senders_own_agreement(world):
    attempt = Round(world, ADDENDS, drop={5: 2})
    server, requests = attempt.agree_requests()
    messages = {i: attempt.masked[i].agree(requests[i])[1] for i in requests}
    _refused(lambda: server.receive(1, messages[0]), "in the name of site 0")
    _refused(lambda: server.receive(0, dataclasses.replace(messages[0], e=9)), "attempt 9")
    stolen = dataclasses.replace(messages[0], signature=messages[1].signature)
    _refused(lambda: server.receive(0, stolen), "'agree'")
    _refused(lambda: server.receive(5, Agreement(1, 5, messages[0].signature)), "not in U2")
    after = server.receive(0, messages[0])
    assert after.receive(0, messages[0]) is after
    _refused(lambda: after.receive(0, stolen), "differs")


def test_step_4_refuses_what_was_not_asked(world):
    attempt = Round(world, ADDENDS, drop={5: 3})
    server, requests = attempt.unmask_requests()
    reply = attempt.agreed[0].unmask(requests[0])[1]
    _refused(lambda: server.receive(1, reply), "in the name of site 0")
    _refused(lambda: server.receive(0, dataclasses.replace(reply, e=2)), "attempt 2")
    _refused(lambda: server.receive(5, dataclasses.replace(reply, index=5)), "was not asked")
    short = UnmaskReply(1, 0, reply.shares[:-1])
    _refused(lambda: server.receive(0, short), "one share for each site")
    after = server.receive(0, reply)
    assert after.receive(0, reply) is after
    other = UnmaskReply(1, 0, (b"", *reply.shares[1:]))
    _refused(lambda: after.receive(0, other), "differs")


def _corrupt(reply: UnmaskReply) -> UnmaskReply:
    shares = [
        ((int.from_bytes(share, "big") + 1) % shamir.PRIME).to_bytes(17, "big")
        for share in reply.shares
    ]
    return UnmaskReply(reply.e, reply.index, tuple(shares))


@pytest.mark.parametrize(
    ("n", "liars", "opens"), [(6, 1, True), (6, 2, False), (9, 2, True), (9, 3, False)]
)
@pytest.mark.parametrize("drop", [{}, {1: 2}])
def test_wrong_shares_are_routed_around_while_t_are_right(n, liars, opens, drop):
    world = World.make(n, os_random)
    addends = [np.arange(5, dtype=np.uint32) * i for i in range(n)]
    attempt = Round(world, addends, drop=drop)
    server, requests = attempt.unmask_requests()
    honest = world.group.threshold
    for position, i in enumerate(requests):
        reply = attempt.agreed[i].unmask(requests[i])[1]
        server = server.receive(i, _corrupt(reply) if position < liars else reply)
    if len(requests) - liars < honest:
        with pytest.raises(RoundAbortedError, match="rebuild the seed of site 0"):
            server.close()
        return
    assert opens
    summed, _ = server.close()
    survivors = [i for i in range(n) if i not in drop]
    assert summed.total.tolist() == [v * sum(survivors) for v in range(5)]


def test_a_dealer_of_junk_shares_is_named_before_anything_is_revealed(world):
    attempt = Round(world, ADDENDS)
    server = attempt.share()
    junk = tuple(b"" if j == 4 else bytes(CIPHERTEXT_BYTES) for j in range(N))
    message = dataclasses.replace(server.messages[4], ciphertexts=junk)
    server = CollectingShares(world.group, 1)
    for i in range(N):
        own = ShareMessage.decode(attempt.wire["share", i])
        server = server.receive(i, message if i == 4 else own)
    following, requests = server.close(QUERY, 0, PUBLIC_INPUT, 8)
    for i in range(N):
        following = following.receive(i, attempt.mask_one(i, requests[i]))
    with pytest.raises(RoundAbortedError, match="1 holders of shares of site 4"):
        following.close()


def test_a_few_missing_shares_do_not_stop_a_round(world):
    attempt = Round(world, ADDENDS)
    server, requests = attempt.mask_requests()
    holes = (b"", *requests[3].ciphertexts[1:])
    requests[3] = MaskRequest(1, requests[3].keys, holes)
    for i in range(N):
        server = server.receive(i, attempt.mask_one(i, requests[i]))
    following, asked = server.close()
    for i in range(N):
        attempt.agreed[i], message = attempt.masked[i].agree(asked[i])
        following = following.receive(i, message)
    revealing, asked_last = following.close()
    for i in range(N):
        reply = attempt.agreed[i].unmask(asked_last[i])[1]
        assert (reply.shares[0] == b"") == (i == 3)
        revealing = revealing.receive(i, UnmaskReply.decode(reply.encode()))
    summed, _ = revealing.close()
    assert summed.total.tolist() == [6 * k + 15 for k in range(8)]


def test_a_state_can_be_used_again_because_nothing_changes_in_place(world):
    attempt = Round(world, ADDENDS)
    server = attempt.reveals()
    one, two = server.close()[0], server.close()[0]
    assert np.array_equal(one.total, two.total)
    assert one.transcript == two.transcript


@pytest.fixture(scope="module")
def finished(world):
    attempt = Round(world, ADDENDS, drop={5: 2})
    return attempt, attempt.run()


def test_a_member_verifies_and_recomputes_the_sum(world, finished):
    attempt, summed = finished
    total = verify_transcript(world.group, CONTEXT, summed.transcript, attempt.ys)
    assert np.array_equal(total, summed.total)
    assert summed.transcript.verify(world.group, CONTEXT).u1 == set(range(N))


def test_every_part_of_a_transcript_is_checked(world, finished):
    attempt, summed = finished
    good = summed.transcript
    other = Round(world, ADDENDS, drop={5: 2}).run().transcript
    swapped = {
        "keys": (*good.keys[:2], other.keys[2], *good.keys[3:]),
        "hashes": (*good.hashes[:2], other.hashes[2], *good.hashes[3:]),
        "agreements": (*good.agreements[:2], other.agreements[2], *good.agreements[3:]),
        "seeds": (*good.seeds[:2], other.seeds[2], *good.seeds[3:]),
    }
    for field, value in swapped.items():
        forged = dataclasses.replace(good, **{field: value})
        with pytest.raises(PeerError):
            verify_transcript(world.group, CONTEXT, forged, attempt.ys)
    dropped_seed = dataclasses.replace(good, seeds=(*good.seeds[:5], other.seeds[5]))
    _refused(lambda: dropped_seed.verify(world.group, CONTEXT), "seed of site 5")
    few = dataclasses.replace(good, agreements=good.agreements[:4])
    _refused(lambda: few.verify(world.group, CONTEXT), "fewer than the t")
    small = dataclasses.replace(good, hashes=good.hashes[:4])
    _refused(lambda: small.verify(world.group, CONTEXT), "t_min")
    fewer = dataclasses.replace(good, keys=good.keys[:4], seeds=good.seeds[:4])
    _refused(lambda: fewer.verify(world.group, CONTEXT), "t_min")


@pytest.mark.parametrize(
    "changed",
    [{"e": 2}, {"query": "x"}, {"round_number": 1}, {"public_input_digest": bytes(32)}],
    ids=["attempt", "query", "round", "model"],
)
def test_a_transcript_of_another_round_is_refused(world, finished, changed):
    context = dataclasses.replace(CONTEXT, **changed)
    _refused(lambda: finished[1].transcript.verify(world.group, context), "another attempt")
    relabelled = dataclasses.replace(finished[1].transcript, context=context)
    with pytest.raises(PeerError, match="signature"):
        relabelled.verify(world.group, context)


def test_served_addends_must_be_those_that_were_signed(world, finished):
    attempt, summed = finished
    ys = attempt.ys
    for served, words in [
        ({i: y for i, y in ys.items() if i}, "for each site of U2"),
        ({**ys, 5: ys[0]}, "for each site of U2"),
        ({**ys, 0: ys[0] + bytes(4)}, "equal length"),
        ({**ys, 0: ys[1]}, "not the one it signed"),
        ({i: y + b"\0" for i, y in ys.items()}, "whole ring elements"),
    ]:
        with pytest.raises(PeerError, match=words):
            verify_transcript(world.group, CONTEXT, summed.transcript, served)


def test_another_group_does_not_verify_the_transcript(world, finished):
    stranger = World.make(N, os_random).group
    stranger = dataclasses.replace(stranger, plan_digest=world.group.plan_digest)
    _refused(lambda: finished[1].transcript.verify(stranger, CONTEXT), "'key'")
