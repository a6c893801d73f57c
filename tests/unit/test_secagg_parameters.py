from __future__ import annotations

import dataclasses

import pytest
from tests.secagg_world import World

from fedward_common.errors import OperatorError, PeerError, PlanError
from fedward_common.keys import new_key
from fedward_common.randomness import os_random
from fedward_common.secagg.parameters import Group, Seat, SiteKeys, group_problems, threshold


@pytest.mark.parametrize(
    ("n", "t"), [(3, 3), (4, 3), (5, 4), (8, 6), (10, 7), (100, 67), (200, 134)]
)
def test_the_threshold_is_two_thirds_and_one(n, t):
    assert threshold(n) == t


@pytest.mark.parametrize(
    ("n", "t_min", "c", "words"),
    [
        (2, 2, 0, "roster: has 2 sites"),
        (201, 201, 0, "roster: has 201 sites"),
        (6, 6, -1, "colluding: is -1"),
        (8, 8, 6, "colluding: is 6, and 6 sites can open"),
        (8, 8, 4, "use 3 or fewer"),
        (8, 5, 0, "need at least 6"),
        (8, 9, 0, "more than the 8 sites"),
        (3, 3, 2, "single honest"),
    ],
)
def test_each_rule_of_a1_is_named(n, t_min, c, words):
    assert words in "; ".join(group_problems(n, t_min, c))


def test_a_good_group_has_no_problem():
    for n in range(3, 201):
        assert group_problems(n, n, 0) == []
    assert group_problems(8, 6, 1) == []


def test_all_rules_hold_for_every_group_that_can_be_constructed():
    for n in range(13):
        for t_min in range(15):
            for c in range(-1, 14):
                t = 2 * n // 3 + 1
                bad = n < 3 or 2 * t <= n + c or t_min < max(3, t) or t_min > n
                bad = bad or c < 0 or c >= t or t_min - c < 2
                assert bool(group_problems(n, t_min, c)) == bad, (n, t_min, c)


def test_a_bad_group_cannot_be_constructed_and_names_everything_at_once():
    good = World.make(4, os_random).group
    twin = dataclasses.replace(good.members[0], identity=b"short")
    with pytest.raises(PlanError) as caught:
        Group((good.members[0], twin), 5, -1, b"")
    text = str(caught.value)
    for words in ("2 sites", "t_min", "colluding", "same name", "32 bytes", "plan_digest"):
        assert words in text
    assert isinstance(caught.value, OperatorError)
    for field in ("name", "identity", "encryption"):
        copied = dataclasses.replace(good.members[1], **{field: getattr(good.members[0], field)})
        with pytest.raises(PlanError, match=f"same {field}"):
            Group((good.members[0], copied, *good.members[2:]), 4, 0, good.plan_digest)


def test_the_roster_pins_identities():
    group = World.make(3, os_random).group
    assert group.identity(2) == group.members[2].identity
    for index in (-1, 3, 199):
        with pytest.raises(PeerError):
            group.identity(index)


def test_a_seat_needs_the_rosters_keys():
    world = World.make(3, os_random)
    Seat(world.group, world.keys[1], 1).check()
    wrong = [
        dataclasses.replace(world.keys[1], index=2),
        dataclasses.replace(world.keys[1], index=3),
        dataclasses.replace(world.keys[1], index=-1),
        dataclasses.replace(world.keys[1], encryption=new_key(os_random)),
        SiteKeys(1, new_key(os_random), world.keys[1].encryption),
    ]
    for keys in wrong:
        with pytest.raises(OperatorError, match="roster entry"):
            Seat(world.group, keys, 1).check()


def test_pre_depends_on_plan_and_attempt():
    group = World.make(3, os_random).group
    other = dataclasses.replace(group, plan_digest=bytes(32))
    assert len({group.pre(1), group.pre(2), other.pre(1)}) == 3
