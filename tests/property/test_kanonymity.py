"""No table that is shown has a group below k, and its totals give no hidden number away."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedward_client.kanonymity import SUPPRESSED, anonymous_counts, anonymous_groups
from fedward_common.errors import MisuseError

row = st.tuples(st.sampled_from("MFO"), st.sampled_from("abcdefgh"), st.sampled_from("12"))
tables = st.lists(row, max_size=60)
sizes = st.integers(2, 7)


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


@pytest.mark.parametrize("k", [1, 0, -3])
def test_a_group_of_one_is_refused(k):
    with pytest.raises(MisuseError):
        anonymous_groups([("F",)], k)
    with pytest.raises(MisuseError):
        anonymous_counts({"F": 1}, k)


def test_rows_of_different_length_are_refused():
    with pytest.raises(MisuseError):
        anonymous_groups([("F",), ("F", "40Y")])


counts = st.lists(st.integers(0, 9), max_size=4)


@settings(deadline=None, max_examples=400)
@given(counts, st.integers(2, 5))
@example([5, 4, 4], 5)
@example([5, 5, 4], 5)
@example([1, 1, 9], 2)
def test_the_total_gives_no_hidden_count_away(numbers, k):
    """Whoever knows the rule, the total and what is shown cannot tell a hidden count."""
    table = {str(i): number for i, number in enumerate(numbers)}
    shown = anonymous_counts(table, k)
    assert all(count is None or count == 0 or count >= k for count in shown.values())
    hidden = [name for name, count in shown.items() if count is None]
    if not hidden:
        assert dict(shown) == table
        return
    if len(hidden) == len([number for number in numbers if number]):
        return  # all are hidden: only the total is shown
    rest = sum(table[name] for name in hidden)
    assert rest >= k
    fitting = [
        guess
        for guess in product(range(1, rest), repeat=len(hidden))
        if sum(guess) == rest
        and anonymous_counts(table | dict(zip(hidden, guess, strict=True)), k) == shown
    ]
    for position in range(len(hidden)):
        assert len({guess[position] for guess in fitting}) > 1
