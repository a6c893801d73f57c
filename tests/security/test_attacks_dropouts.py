"""A hundred sites: as many dropouts as the threshold allows, and one more."""

from __future__ import annotations

import numpy as np
import pytest
from tests.secagg_world import PUBLIC_INPUT, QUERY, Round, World

from fedward_common.errors import PeerError
from fedward_common.randomness import os_random
from fedward_common.secagg.closing import RoundAbortedError
from fedward_common.secagg.context import Attempt, RoundContext
from fedward_common.secagg.messages import UnmaskReply
from fedward_common.secagg.unmasking import rebuild

N, T = 100, 67


@pytest.fixture(scope="module")
def world():
    world = World.make(N, os_random)
    assert (world.group.threshold, world.group.t_min) == (T, T)
    return world


def _spread(silent):
    """Every step loses a quarter of the silent sites, which lie all over the roster."""
    return {(7 * number) % N: 1 + number % 4 for number in range(silent)}


@pytest.mark.slow
def test_a_hundred_sites_of_which_a_third_drop_out_at_all_steps_sum_exactly(world):
    rng = np.random.default_rng(9)
    addends = [rng.integers(0, 2**32, 64, dtype=np.uint32) for _ in range(N)]
    drop = _spread(N - T)
    assert {list(drop.values()).count(step) for step in (1, 2, 3, 4)} == {8, 9}
    summed = Round(world, addends, drop=drop).run()
    survivors = [i for i in range(N) if drop.get(i, 9) > 2]
    assert list(summed.transcript.survivors) == survivors
    exact = sum(addends[i].astype(object) for i in survivors) % 2**32
    assert (summed.total.astype(object) == exact).all()


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_one_dropout_more_than_the_threshold_allows_unmasks_nothing(world, last):
    """The same 33, and one more which falls silent at step ``last``."""
    addends = [np.full(4, i, dtype=np.uint32) for i in range(N)]
    drop = _spread(N - T)
    drop[next(i for i in range(N) if i not in drop)] = last
    attempt = Round(world, addends, drop=drop)
    with pytest.raises(RoundAbortedError, match=r"66 .* and 67 are needed"):
        attempt.run()
    released = {
        i: UnmaskReply.decode(data).shares
        for (step, i), data in attempt.wire.items()
        if step == "unmask"
    }
    assert len(released) < T
    if released:
        reveals = attempt.agreed[min(released)]
        survivors = {item.index for item in reveals.hashes}
        with pytest.raises(PeerError, match="rebuild the seed"):
            rebuild(_attempt(attempt), survivors, released)


def _attempt(attempt: Round) -> Attempt:
    """What the server knows of the round."""
    request = attempt.mask_asked[min(attempt.mask_asked)]
    return Attempt(attempt.world.group, RoundContext(1, QUERY, 0, PUBLIC_INPUT), request.keys)
