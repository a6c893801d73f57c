from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.secagg_world import SeededRandom

from fedward_common.errors import MisuseError, PlanError
from fedward_common.privacy.keystream import Keystream
from fedward_common.randomness import os_random
from fedward_common.secagg.ring import (
    RingParameters,
    unwrap,
    wrap,
)


def test_rounding_is_to_a_neighbour_and_unbiased():
    ring = RingParameters(scale=10.0, ring_bound=1000, dimension=200_000)
    encoded = ring.encode(np.full(ring.dimension, 0.123), os_random)
    assert set(np.unique(encoded)) == {1, 2}
    # mean 1.23, standard error sqrt(.23 * .77 / 200000) = 9.4e-4; six of them
    assert abs(encoded.mean() - 1.23) < 6e-3


def test_rounding_is_what_a5_says():
    ring = RingParameters(scale=8.0, ring_bound=100, dimension=50)
    x = np.linspace(-20, 20, 50)
    u = Keystream(SeededRandom("u")).unit_floats(50)
    expected = [min(100, max(-100, math.floor(8.0 * v + w))) for v, w in zip(x, u, strict=True)]
    assert ring.encode(x, SeededRandom("u")).tolist() == expected


def test_long_vectors_are_encoded_as_short_ones_are():
    ring = RingParameters(scale=8.0, ring_bound=10**6, dimension=40_000)
    x = np.random.default_rng(0).normal(size=ring.dimension)
    u = Keystream(SeededRandom("u")).unit_floats(ring.dimension)
    assert (ring.encode(x, SeededRandom("u")) == np.floor(8.0 * x + u)).all()


def test_no_input_raises_or_leaves_the_bound():
    ring = RingParameters(scale=1e6, ring_bound=77, dimension=6)
    x = np.array([math.nan, math.inf, -math.inf, 1e308, -1e308, 0.0])
    encoded = ring.encode(x, os_random)
    assert encoded.dtype == np.int64
    assert encoded.tolist() == [0, 0, 0, 77, -77, 0]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20))
def test_the_ring_returns_what_fits(values):
    array = np.array(values, dtype=np.int64)
    assert unwrap(wrap(array)).tolist() == values


@given(
    st.lists(
        st.tuples(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40)),
        min_size=1,
        max_size=20,
    )
)
def test_wrap_is_a_homomorphism(pairs):
    x, y = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    assert ((wrap(x) + wrap(y)) == wrap(x + y)).all()


def test_a_sum_decodes_to_real_units():
    ring = RingParameters(scale=4.0, ring_bound=1000, dimension=3)
    total = wrap(np.array([-6, 0, 9], dtype=np.int64))
    assert ring.decode(total).tolist() == [-1.5, 0.0, 2.25]


def test_wrong_types_and_shapes_are_our_bug():
    ring = RingParameters(1.0, 1, 3)
    for vector in (np.zeros(4), np.zeros((3, 1)), np.zeros(3, dtype=np.float32)):
        with pytest.raises(MisuseError):
            ring.encode(vector, os_random)
    with pytest.raises(MisuseError):
        ring.decode(np.zeros(2, dtype=np.uint32))
    with pytest.raises(MisuseError):
        ring.decode(np.zeros(3, dtype=np.int64))
    with pytest.raises(MisuseError):
        wrap(np.zeros(3))


@pytest.mark.parametrize(
    ("scale", "bound", "dimension", "words"),
    [
        (0.0, 1, 1, "scale"),
        (math.nan, 1, 1, "scale"),
        (math.inf, 1, 1, "scale"),
        (1.0, 0, 1, "ring_bound"),
        (1.0, 2**31, 1, "ring_bound"),
        (1.0, 1, 0, "dimension"),
        (-1.0, -1, 2**27, "scale.*ring_bound.*dimension"),
    ],
)
def test_bad_parameters_cannot_be_constructed(scale, bound, dimension, words):
    with pytest.raises(PlanError, match=words):
        RingParameters(scale, bound, dimension)
