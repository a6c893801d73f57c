"""The site's machine: every transition, what survives a crash, what a repeat gets (A3, A6)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.secagg_world import PUBLIC_INPUT, QUERY, Round, World

from fedward_common.codec import decode, encode
from fedward_common.errors import IntegrityError, PeerError
from fedward_common.randomness import os_random
from fedward_common.secagg.site import Agreed, Masked, Sharing, Unmasked
from fedward_common.secagg.site_store import decode_state, encode_state
from fedward_common.secret import SecretBytes

ADDENDS = [np.arange(8, dtype=np.uint32) + i for i in range(4)]
KINDS = ("sharing", "masked", "agreed", "unmasked")


@pytest.fixture(scope="module")
def world():
    return World.make(4, os_random)


@pytest.fixture(scope="module")
def attempt(world):
    attempt = Round(world, ADDENDS, drop={3: 2})
    attempt.run()
    return attempt


def _states(attempt, i=0):
    return {kind: getattr(attempt, kind)[i] for kind in KINDS}


def _requests(attempt, i=0):
    return {
        "mask": attempt.mask_asked[i],
        "agree": attempt.agree_asked[i],
        "unmask": attempt.unmask_asked[i],
    }


@pytest.mark.parametrize("event", ["check", "agree", "unmask"])
def test_a_request_of_another_attempt_changes_nothing(attempt, event):
    kind, asked = {
        "check": ("sharing", "mask"),
        "agree": ("masked", "agree"),
        "unmask": ("agreed", "unmask"),
    }[event]
    state = _states(attempt)[kind]
    before = encode_state(state)
    request = dataclasses.replace(_requests(attempt)[asked], e=2)
    about = (QUERY, 0, PUBLIC_INPUT) if event == "check" else ()
    with pytest.raises(PeerError, match="attempt 2"):
        getattr(state, event)(request, *about)
    assert encode_state(state) == before


def test_each_state_offers_its_own_transition_only():
    offered = {
        kind: {name for name in ("check", "mask", "agree", "unmask") if hasattr(kind, name)}
        for kind in (Sharing, Masked, Agreed, Unmasked)
    }
    assert offered == {
        Sharing: {"check", "mask"},
        Masked: {"agree"},
        Agreed: {"unmask"},
        Unmasked: set(),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("i", [0, 1, 2])
def test_a_state_returns_from_its_bytes(world, attempt, kind, i):
    state = _states(attempt, i)[kind]
    data = encode_state(state)
    restored = decode_state(data, world.group, world.keys[i])
    assert restored == state
    assert encode_state(restored) == data


def test_a_restart_at_any_step_sends_the_same_bytes(world, attempt):
    def crash(state):
        return decode_state(encode_state(state), world.group, world.keys[0])

    sharing = crash(attempt.sharing[0])
    checked = sharing.check(attempt.mask_asked[0], QUERY, 0, PUBLIC_INPUT)
    masked, addend = sharing.mask(checked, ADDENDS[0])
    assert addend.encode() == attempt.wire["addend", 0]
    agreed, agreement = crash(masked).agree(attempt.agree_asked[0])
    assert agreement.encode() == attempt.wire["agree", 0]
    unmasked, reply = crash(agreed).unmask(attempt.unmask_asked[0])
    assert reply.encode() == attempt.wire["unmask", 0]
    assert crash(unmasked) == unmasked


def test_another_addend_in_the_same_attempt_gets_the_same_masks(world, attempt):
    """Why y is stored and resent: two addends under one set of masks would reveal their
    difference. The state after masking has no way to mask again."""
    sharing = attempt.sharing[0]
    checked = sharing.check(attempt.mask_asked[0], QUERY, 0, PUBLIC_INPUT)
    one = np.frombuffer(sharing.mask(checked, ADDENDS[0])[1].y, "<u4")
    two = np.frombuffer(sharing.mask(checked, ADDENDS[1])[1].y, "<u4")
    assert np.array_equal(two - one, ADDENDS[1] - ADDENDS[0])
    assert not hasattr(attempt.masked[0], "mask")


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_opens_for_its_plan_site_and_attempt_only(world, attempt, kind):
    data = encode_state(_states(attempt)[kind])
    other_plan = dataclasses.replace(world.group, plan_digest=bytes(32))
    fields = list(decode(data.reveal(), max_bytes=1 << 16))
    fields[2] = 2
    for group, keys, stored in [
        (other_plan, world.keys[0], data),
        (world.group, world.keys[1], data),
        (world.group, world.keys[0], SecretBytes(encode(tuple(fields)))),
    ]:
        with pytest.raises(IntegrityError, match="another plan, attempt or site"):
            decode_state(stored, group, keys)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_state_is_an_integrity_error(world, attempt, kind):
    data = encode_state(_states(attempt)[kind]).reveal()
    fields = decode(data, max_bytes=1 << 16)
    name = fields[1]
    renamed = encode((fields[0], "Masked" if name != "Masked" else "Sharing", *fields[2:]))
    for damaged in (b"", data[:-1], data + b"\0", renamed, encode((*fields[:-1], (0,) * 5))):
        with pytest.raises(IntegrityError, match="wait for the next"):
            decode_state(SecretBytes(damaged), world.group, world.keys[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_state_holds_no_long_lived_key(world, attempt, kind):
    data = encode_state(_states(attempt)[kind]).reveal()
    assert world.keys[0].identity.reveal() not in data
    assert world.keys[0].encryption.reveal() not in data
