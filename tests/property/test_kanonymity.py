"""No table that is shown has a group below k, and its total gives no hidden number away."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_client.kanonymity import SUPPRESSED, K, anonymous_groups
from fedward_common.errors import MisuseError

row = st.tuples(st.sampled_from("MFO"), st.sampled_from("abcdefgh"), st.sampled_from("12"))
tables = st.lists(row, max_size=60)
sizes = st.integers(K, 9)


def covers(key, one):
    return all(cell in (SUPPRESSED, value) for cell, value in zip(key, one, strict=True))


@given(tables, sizes)
def test_every_shown_group_has_k_members_and_no_row_is_lost(rows, k):
    groups = anonymous_groups(rows, k)
    assert all(size >= k for _, size in groups.shown)
    if len(rows) < k:
        assert not groups.shown
        assert groups.hidden is None or not rows
        return
    assert groups.hidden == 0 or groups.hidden >= k
    assert sum(size for _, size in groups.shown) + groups.hidden == len(rows)
    for key, size in groups.shown:
        assert sum(covers(key, one) for one in rows) >= size


@given(tables, sizes)
def test_groups_that_are_large_enough_are_not_touched(rows, k):
    large = {key: count for key, count in Counter(rows).items() if count >= k}
    shown = dict(anonymous_groups(rows, k).shown)
    taken = [key for key in large if key not in shown]
    for key in taken:  # only to complement a small remainder, the smallest first
        assert all(large[key] <= size for other, size in shown.items() if other in large)
    if not any(count < k for count in Counter(rows).values()):
        assert shown == large


@given(tables, sizes, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows, k, order):
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert anonymous_groups(rows, k) == anonymous_groups(shuffled, k)


def test_the_most_distinguishing_column_goes_first():
    rows = [("F", f"{age}Y") for age in range(30, 36)] + [("M", "40Y")] * 5
    assert anonymous_groups(rows).shown == ((("F", "*"), 6), (("M", "40Y"), 5))


def test_a_small_remainder_takes_a_group_with_it():
    rows = [("F",)] * 9 + [("M",)] * 6 + [("O",)] * 2
    assert anonymous_groups(rows) == type(anonymous_groups([]))(((("F",), 9),), 8)


def test_fewer_than_k_rows_show_nothing_not_even_how_many():
    assert anonymous_groups([("F",)] * 4).hidden is None
    assert anonymous_groups([]).hidden == 0


@pytest.mark.parametrize("k", [4, 1, 0, -3])
def test_nothing_lowers_the_size_of_a_group(k):
    with pytest.raises(MisuseError):
        anonymous_groups([("F",)] * 9, k)


def test_rows_of_different_length_are_refused():
    with pytest.raises(MisuseError):
        anonymous_groups([("F",), ("F", "40Y")])
