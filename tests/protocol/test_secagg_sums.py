"""What the server decodes is the sum of the addends, and all that it sees looks uniform."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import secagg_reference as reference
from tests.secagg_world import PUBLIC_INPUT, QUERY, Round, World

from fedward_common.randomness import os_random
from fedward_common.secagg import messages
from fedward_common.secagg.closing import RoundAbortedError
from fedward_common.secagg.context import RoundContext
from fedward_common.secagg.parameters import threshold
from fedward_common.secagg.ring import RingParameters, wrap
from fedward_common.secagg.sharing import NONCE_BYTES
from fedward_common.secagg.site_store import decode_state, encode_state
from fedward_common.secagg.transcript import Transcript, verify_transcript

quick = settings(deadline=None, suppress_health_check=list(HealthCheck))


def _exact(addends, survivors):
    """The sum modulo 2^32 with Python's integers."""
    return sum(addends[i].astype(object) for i in survivors) % 2**32


@settings(quick, max_examples=60)
@given(st.data())
def test_the_sum_is_exact_whoever_drops_out_and_too_few_abort(data):
    n = data.draw(st.integers(3, 9), "n")
    t_min = data.draw(st.integers(max(3, threshold(n)), n), "t_min")
    world = World.make(n, os_random, t_min=t_min)
    size = data.draw(st.integers(1, 40), "dimension")
    words = st.lists(st.integers(0, 2**32 - 1), min_size=size, max_size=size)
    addends = [np.array(data.draw(words), dtype=np.uint32) for _ in range(n)]
    drop = data.draw(st.dictionaries(st.integers(0, n - 1), st.integers(1, 4)), "drop")
    left = [n - sum(at <= step for at in drop.values()) for step in (1, 2, 3, 4)]
    group = world.group
    enough = [group.t_min, group.t_min, group.threshold, group.threshold]
    attempt = Round(world, addends, drop=drop)
    if any(count < needed for count, needed in zip(left, enough, strict=True)):
        with pytest.raises(RoundAbortedError):
            attempt.run()
        return
    summed = attempt.run()
    survivors = [i for i in range(n) if drop.get(i, 9) > 2]
    assert list(summed.transcript.survivors) == survivors
    assert (summed.total.astype(object) == _exact(addends, survivors)).all()
    published = Transcript.decode(summed.transcript.encode())
    context = RoundContext(1, QUERY, 0, PUBLIC_INPUT)
    ys = {i: attempt.ys[i] for i in survivors}
    assert (verify_transcript(group, context, published, ys) == summed.total).all()


@settings(quick, max_examples=25)
@given(
    n=st.integers(3, 6),
    vectors=st.lists(
        st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4), min_size=6, max_size=6
    ),
)
def test_real_vectors_return_as_their_encoded_sum(n, vectors):
    ring = RingParameters(scale=2.0**10, ring_bound=2**27, dimension=4)
    encoded = [ring.encode(np.array(vector), os_random) for vector in vectors[:n]]
    summed = Round(World.make(n, os_random), [wrap(e) for e in encoded]).run()
    exact = np.sum(encoded, axis=0) / ring.scale
    assert (ring.decode(summed.total) == exact).all()
    true = np.sum(vectors[:n], axis=0)
    assert (np.abs(ring.decode(summed.total) - true) <= n / ring.scale).all()


def test_every_dropout_pattern_of_a_small_group():
    n = 6  # t = 5
    world = World.make(n, os_random)
    addends = [np.full(3, i + 1, dtype=np.uint32) for i in range(n)]
    patterns = [{}]
    patterns += [{i: step} for i in range(n) for step in (1, 2, 3, 4)]
    for e, drop in enumerate(patterns, start=1):
        summed = Round(world, addends, e=e, drop=drop).run()
        survivors = [i for i in range(n) if drop.get(i, 9) > 2]
        assert summed.total.tolist() == [sum(i + 1 for i in survivors)] * 3
    for e, pair in enumerate(combinations(range(n), 2), start=100):
        for step in (1, 2, 3, 4):
            with pytest.raises(RoundAbortedError, match="are needed"):
                Round(world, addends, e=e, drop=dict.fromkeys(pair, step)).run()


def test_the_wire_equals_the_textbook():
    n, e = 4, 7
    world = World.make(n, os_random)
    addends = [np.arange(9, dtype=np.uint32) * np.uint32(10**8 + i) for i in range(n)]
    attempt = Round(world, addends, e=e, drop={2: 2})
    summed = attempt.run()
    a = {i: state.a.reveal() for i, state in attempt.sharing.items()}
    b = {i: state.b.reveal() for i, state in attempt.sharing.items()}
    keys = [attempt.sharing[i].key for i in range(n)]
    plan = world.group.plan_digest
    announced = tuple((key.index, key.A, key.B, key.head) for key in keys)
    ctx = reference.H("ctx", plan, e, QUERY, 0, tuple(range(n)), PUBLIC_INPUT, announced)
    for i in range(n):
        private = reference.round_private(a[i], plan, e, i)
        assert reference.base_point_times(private) == keys[i].A
        assert reference.H("commit", b[i]) == keys[i].B
    for i in (0, 1, 3):
        expected = reference.masked(i, addends[i].tolist(), a, b, ctx, plan, e)
        assert np.frombuffer(attempt.ys[i], dtype="<u4").tolist() == expected
    assert [seed.hex() for seed in summed.transcript.seeds] == [
        (a if i == 2 else b)[i].hex() for i in range(n)
    ]


@pytest.mark.parametrize("fill", [0, 2**32 - 1])
def test_one_sites_wire_bytes_look_uniform(fill):
    size = 250_000
    world = World.make(3, os_random)
    attempt = Round(world, [np.full(size, fill, dtype=np.uint32)] * 3)
    attempt.run()
    for y in attempt.ys.values():
        for offset in range(4):  # each byte of the word: 255 degrees of freedom
            counts = np.bincount(np.frombuffer(y, dtype=np.uint8)[offset::4], minlength=256)
            chi_square = ((counts - size / 256) ** 2 / (size / 256)).sum()
            assert chi_square < 395  # beyond this with probability 2e-8
        words = np.frombuffer(y, dtype="<u4")
        pairs = np.bincount((words[:-1] & 15) * 16 + (words[1:] & 15), minlength=256)
        expected = (size - 1) / 256
        assert ((pairs - expected) ** 2 / expected).sum() < 395
        ones = np.unpackbits(np.frombuffer(y, dtype=np.uint8)).mean()
        assert abs(ones - 0.5) < 6 * 0.5 / np.sqrt(32 * size)


def test_nothing_secret_repeats_between_two_attempts():
    world = World.make(4, os_random)
    addends = [np.zeros(64, dtype=np.uint32)] * 4
    seen: list[bytes] = []
    for e in (1, 2, 2):  # the same e twice: a site that lost its state still has fresh seeds
        attempt = Round(world, addends, e=e)
        summed = attempt.run()
        assert not summed.total.any()
        for i, state in attempt.sharing.items():
            seen += [state.a.reveal(), state.b.reveal(), state.key.A, state.key.B]
            released = [share.reveal() for share in attempt.agreed[i].releases]
            seen += [state.own.a.reveal(), *released, attempt.ys[i]]
            records = messages.ShareMessage.decode(attempt.wire["share", i]).ciphertexts
            seen += [record for record in records if record]
            seen += [record[:NONCE_BYTES] for record in records if record]
    assert len(seen) == 3 * 4 * (4 + 1 + 4 + 1 + 2 * 3)
    assert len(seen) == len(set(seen))


@pytest.mark.slow
def test_the_largest_group_sums():
    n = 200
    world = World.make(n, os_random)
    addends = [np.full(10, i, dtype=np.uint32) for i in range(n)]
    drop = {i: 1 + i % 4 for i in range(66)}
    attempt = Round(world, addends, drop=drop)
    summed = attempt.run()
    survivors = [i for i in range(n) if drop.get(i, 9) > 2]
    assert summed.total.tolist() == [sum(survivors)] * 10
    assert Transcript.decode(summed.transcript.encode()) == summed.transcript
    for state in (attempt.sharing[199], attempt.masked[199], attempt.agreed[199]):
        assert decode_state(encode_state(state), world.group, world.keys[199]) == state
