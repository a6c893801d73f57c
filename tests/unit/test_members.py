"""Who is verified at a site: by fingerprint, for as long as the operator says so (A1)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_client.database import open_database
from fedward_client.members import Members
from fedward_common.errors import OperatorError
from fedward_common.identity import SiteIdentity
from fedward_common.plan.sections import RosterSite
from fedward_common.randomness import os_random

NAMES = ("east", "north", "south")
PUBLICS = [SiteIdentity.generate(name, os_random).public() for name in (*NAMES, *NAMES)]
"""Two keys of each of three hospitals."""


def seat(public) -> RosterSite:
    return RosterSite(
        name=public.name, identity=public.identity.hex(), transport=public.transport.hex()
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site.db"


def test_what_was_confirmed_is_withdrawn_with_all_keys_of_the_hospital(path):
    members = Members(open_database(path))
    for public in PUBLICS[:5]:
        members.confirm(public)
        members.confirm(public)
    assert members.all() == tuple(
        (PUBLICS[i].name, PUBLICS[i].fingerprint) for i in (0, 3, 1, 4, 2)
    )
    members.withdraw("north")
    kept = Members(open_database(path))  # on the disk
    assert [name for name, _ in kept.all()] == ["east", "east", "south"]
    assert [kept.is_verified(seat(public)) for public in PUBLICS] == [
        True, False, True, True, False, False,
    ]  # fmt: skip
    kept.confirm(PUBLICS[4])
    assert kept.is_verified(seat(PUBLICS[4]))
    assert not kept.is_verified(seat(PUBLICS[1]))


@pytest.mark.parametrize("name", ["south", "", "North", "x\n"])
def test_a_hospital_that_was_not_confirmed_is_one_line(path, name):
    members = Members(open_database(path))
    members.confirm(PUBLICS[1])
    with pytest.raises(OperatorError, match="not confirmed here") as caught:
        members.withdraw(name)
    assert "\n" not in str(caught.value)
    assert members.is_verified(seat(PUBLICS[1]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=12))
def test_verified_is_what_was_confirmed_and_not_withdrawn_since(tmp_path_factory, decisions):
    members = Members(open_database(tmp_path_factory.mktemp("members") / "site.db"))
    expected: set[int] = set()
    for confirms, i in decisions:
        own = {j for j in expected if j % 3 == i % 3}
        if confirms:
            members.confirm(PUBLICS[i])
            expected |= {i}
        elif own:
            members.withdraw(NAMES[i % 3])
            expected -= own
        else:
            with pytest.raises(OperatorError):
                members.withdraw(NAMES[i % 3])
    assert {i for i in range(6) if members.is_verified(seat(PUBLICS[i]))} == expected
    assert len(members.all()) == len(expected)
