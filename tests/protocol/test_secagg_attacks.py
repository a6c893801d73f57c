"""What a malicious server or member tries against a site (A7), each refused without a change."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from tests.secagg_world import HEAD, PUBLIC_INPUT, QUERY, Round, World

from fedward_common.errors import MisuseError, OperatorError, PeerError
from fedward_common.keys import encryption_public, new_key, sign
from fedward_common.randomness import os_random
from fedward_common.secagg.context import (
    RoundKey,
    SignedAgreement,
    sign_addend,
    sign_agreement,
    sign_round_key,
    survivors_digest,
)
from fedward_common.secagg.messages import AgreeRequest, MaskRequest, UnmaskRequest
from fedward_common.secagg.parameters import Member
from fedward_common.secagg.site import Masked, Sharing, start
from fedward_common.secagg.site_store import encode_state

N = 6  # t = 5, t_min = 5
ADDENDS = [np.arange(8, dtype=np.uint32) + i for i in range(N)]


@pytest.fixture(scope="module")
def world():
    return World.make(N, os_random)


def _refused(state, call, match=None):
    """``call`` raises a PeerError and leaves ``state`` as it was, to the byte."""
    before = encode_state(state)
    with pytest.raises(PeerError, match=match):
        call()
    assert encode_state(state) == before


def _check(state: Sharing, request: MaskRequest, **changed):
    asked = {"query": QUERY, "round_number": 0, "public_input_digest": PUBLIC_INPUT} | changed
    return state.check(request, **asked)


@pytest.fixture
def at_mask(world):
    attempt = Round(world, ADDENDS)
    attempt.mask_requests()
    return attempt


@pytest.fixture
def at_agree(world):
    attempt = Round(world, ADDENDS, drop={5: 2})
    attempt.agree_requests()
    return attempt


@pytest.fixture
def at_unmask(world):
    attempt = Round(world, ADDENDS, drop={5: 2})
    attempt.unmask_requests()
    return attempt


# A3.2: the request for the masked addend


def test_u1_must_hold_the_site_itself(at_mask):
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    without = MaskRequest(1, request.keys[1:], request.ciphertexts[1:])
    _refused(state, lambda: _check(state, without), "own round key")


def test_u1_must_hold_the_sites_own_key_as_it_was_sent(at_mask, world):
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    again, _ = start(world.group, world.keys[0], 1, HEAD, os_random)
    swapped = dataclasses.replace(request, keys=(again.key, *request.keys[1:]))
    _refused(state, lambda: _check(state, swapped), "own round key")


def test_u1_must_reach_t_min(at_mask):
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    few = MaskRequest(1, request.keys[:4], request.ciphertexts[:4])
    _refused(state, lambda: _check(state, few), "fewer than the plan's t_min 5")


def test_t_sites_are_not_enough_where_the_plan_asks_for_more():
    """The plan's t_min, not t: on it rests the noise of every site (B3)."""
    attempt = Round(World.make(N, os_random, t_min=N, c=1), ADDENDS)
    attempt.agree_requests()
    mask, agree = attempt.mask_asked[0], attempt.agree_asked[0]
    few = MaskRequest(1, mask.keys[:5], mask.ciphertexts[:5])
    _refused(attempt.sharing[0], lambda: _check(attempt.sharing[0], few), "t_min 6")
    less = AgreeRequest(1, agree.hashes[:5])
    _refused(attempt.masked[0], lambda: attempt.masked[0].agree(less), "t_min 6")


@pytest.mark.parametrize("field", ["A", "B", "head", "signature"])
def test_a_swapped_part_of_a_round_key_is_refused(at_mask, world, field):
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    other, _ = start(world.group, world.keys[3], 1, (4, bytes(32)), os_random)
    forged = dataclasses.replace(request.keys[3], **{field: getattr(other.key, field)})
    keys = (*request.keys[:3], forged, *request.keys[4:])
    bad = dataclasses.replace(request, keys=keys)
    _refused(state, lambda: _check(state, bad), "signature of a 'key' message")


def test_an_invented_site_is_not_in_the_roster(at_mask, world):
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    key = sign_round_key(new_key(os_random), world.group.pre(1), N, bytes(32), bytes(32), HEAD)
    bad = MaskRequest(1, (*request.keys, key), (*request.ciphertexts, b""))
    _refused(state, lambda: _check(state, bad), "not in the roster")


def test_a_site_listed_twice_cannot_even_be_asked(at_mask):
    request = at_mask.mask_asked[0]
    with pytest.raises(PeerError, match="distinct"):
        MaskRequest(1, (*request.keys[:5], request.keys[4]), request.ciphertexts)


@pytest.mark.parametrize("other_e", [0, 2])
def test_a_round_key_of_another_attempt_is_a_replay(at_mask, world, other_e):
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    old, _ = start(world.group, world.keys[3], other_e, HEAD, os_random)
    bad = dataclasses.replace(request, keys=(*request.keys[:3], old.key, *request.keys[4:]))
    _refused(state, lambda: _check(state, bad), "signature of a 'key' message")
    _refused(state, lambda: _check(state, dataclasses.replace(request, e=other_e)), "attempt")


def test_a_round_key_of_another_plan_is_a_replay(at_mask, world):
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    plan = dataclasses.replace(world.group, plan_digest=hashlib.sha256(b"other").digest())
    foreign, _ = start(plan, world.keys[3], 1, HEAD, os_random)
    bad = dataclasses.replace(request, keys=(*request.keys[:3], foreign.key, *request.keys[4:]))
    _refused(state, lambda: _check(state, bad), "signature of a 'key' message")


def test_a_members_low_order_key_is_refused_before_any_debit(at_mask, world):
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    pre = world.group.pre(1)
    key = sign_round_key(world.keys[3].identity, pre, 3, bytes(32), bytes(32), HEAD)
    bad = dataclasses.replace(request, keys=(*request.keys[:3], key, *request.keys[4:]))
    _refused(state, lambda: _check(state, bad), "low order")


def test_an_equal_round_key_of_a_colluding_member_gives_another_mask(at_mask, world):
    """Site 3 signs site 2's round key as its own: the pair masks must differ all the same."""
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    stolen = sign_round_key(
        world.keys[3].identity, world.group.pre(1), 3, request.keys[2].A, bytes(32), HEAD
    )
    accepted = _check(
        state, dataclasses.replace(request, keys=(*request.keys[:3], stolen, *request.keys[4:]))
    )
    streams = [mask.key.reveal() for mask in accepted.masks]
    assert len(set(streams)) == N


@pytest.mark.parametrize("swap", ["reflected", "other receiver", "other sender", "flipped", "lost"])
def test_a_share_that_is_not_for_this_site_is_reported_missing(at_mask, swap):
    state, request = at_mask.sharing[0], at_mask.mask_asked[0]
    record = {
        # site 0's own record for site 3, sent back to it as if it came from site 3
        "reflected": at_mask.mask_asked[3].ciphertexts[0],
        "other receiver": at_mask.mask_asked[1].ciphertexts[3],
        "other sender": request.ciphertexts[2],
        "flipped": request.ciphertexts[3][:-1] + bytes([request.ciphertexts[3][-1] ^ 1]),
        "lost": b"",
    }[swap]
    ciphertexts = (*request.ciphertexts[:3], record, *request.ciphertexts[4:])
    checked = _check(state, dataclasses.replace(request, ciphertexts=ciphertexts))
    assert checked.missing == (3,)
    assert checked.heads == dict.fromkeys(range(N), HEAD)
    _, message = state.mask(checked, ADDENDS[0])
    assert message.missing == (3,)


def test_a_share_of_an_earlier_attempt_does_not_open(world):
    old = Round(world, ADDENDS, e=1)
    old.mask_requests()
    new = Round(world, ADDENDS, e=2)
    new.mask_requests()
    replayed = (*new.mask_asked[0].ciphertexts[:3], *old.mask_asked[0].ciphertexts[3:])
    request = dataclasses.replace(new.mask_asked[0], ciphertexts=replayed)
    assert _check(new.sharing[0], request).missing == (3, 4, 5)


def test_a_request_checked_for_one_state_cannot_feed_another(at_mask, world):
    checked = _check(at_mask.sharing[0], at_mask.mask_asked[0])
    other, _ = start(world.group, world.keys[0], 1, HEAD, os_random)
    with pytest.raises(MisuseError):
        other.mask(checked, ADDENDS[0])


@pytest.mark.parametrize(
    "addend", [np.zeros(0, np.uint32), np.zeros((2, 2), np.uint32), np.zeros(3, np.int64)]
)
def test_an_addend_of_another_kind_is_our_bug(at_mask, addend):
    checked = _check(at_mask.sharing[0], at_mask.mask_asked[0])
    with pytest.raises(MisuseError):
        at_mask.sharing[0].mask(checked, addend)


def test_masking_leaves_the_callers_addend_alone(at_mask):
    addend = np.arange(8, dtype=np.uint32)
    at_mask.sharing[0].mask(_check(at_mask.sharing[0], at_mask.mask_asked[0]), addend)
    assert addend.tolist() == list(range(8))


# A3.3: the agreement


def _with_hash(request, position, item):
    hashes = list(request.hashes)
    hashes[position] = item
    return AgreeRequest(request.e, tuple(hashes))


def test_u2_must_hold_the_sites_own_addend(at_agree, world):
    state, request = at_agree.masked[0], at_agree.agree_asked[0]
    _refused(state, lambda: state.agree(AgreeRequest(1, request.hashes[1:])), "own addend")
    resigned = sign_addend(world.keys[0].identity, state.ctx, 0, bytes(32))
    _refused(state, lambda: state.agree(_with_hash(request, 0, resigned)), "own addend")


def test_u2_must_reach_t_min(at_agree):
    state, request = at_agree.masked[0], at_agree.agree_asked[0]
    _refused(state, lambda: state.agree(AgreeRequest(1, request.hashes[:4])), "t_min")


def test_u2_must_lie_within_u1(world):
    attempt = Round(world, ADDENDS, drop={5: 1})
    attempt.agree_requests()
    state, request = attempt.masked[0], attempt.agree_asked[0]
    late = sign_addend(world.keys[5].identity, state.ctx, 5, bytes(32))
    bad = AgreeRequest(1, (*request.hashes, late))
    _refused(state, lambda: state.agree(bad), "not in U1")


def test_a_swapped_hash_or_signature_is_refused(at_agree):
    state, request = at_agree.masked[0], at_agree.agree_asked[0]
    for changed in ({"addend_hash": bytes(32)}, {"signature": request.hashes[2].signature}):
        forged = dataclasses.replace(request.hashes[3], **changed)
        _refused(state, lambda f=forged: state.agree(_with_hash(request, 3, f)), "'addend'")


@pytest.mark.parametrize(
    "changed",
    [{"query": "count"}, {"round_number": 1}, {"public_input_digest": bytes(32)}],
    ids=["query", "round", "model"],
)
def test_sites_that_were_shown_different_rounds_never_agree(world, changed):
    """A site that computed on another query, round or model has another ctx (A2)."""
    attempt = Round(world, ADDENDS)
    server, requests = attempt.mask_requests()
    odd = attempt.sharing[5]
    _, message = odd.mask(_check(odd, requests[5], **changed), ADDENDS[5])
    with pytest.raises(PeerError, match="'addend'"):
        server.receive(5, message)
    for i in range(5):
        server = server.receive(i, attempt.mask_one(i, requests[i]))
    _, asked = server.close()
    hashes = (*asked[0].hashes, dataclasses.replace(asked[0].hashes[0], index=5))
    state = attempt.masked[0]
    _refused(state, lambda: state.agree(AgreeRequest(1, hashes)), "'addend'")


def test_sites_that_were_shown_different_u1_never_agree(world):
    attempt = Round(world, ADDENDS)
    _, requests = attempt.mask_requests()
    smaller = MaskRequest(1, requests[0].keys[:5], requests[0].ciphertexts[:5])
    attempt.mask_one(0, smaller)
    hashes = [attempt.masked[0].signed]
    for i in range(1, 6):
        attempt.mask_one(i, requests[i])
        hashes.append(attempt.masked[i].signed)
    state = attempt.masked[1]
    _refused(state, lambda: state.agree(AgreeRequest(1, tuple(hashes))), "'addend'")


def test_a_second_survivor_set_is_never_signed(at_agree):
    """The state that signed one U2 has no way to sign again."""
    request = at_agree.agree_asked[0]
    state, _ = at_agree.masked[0].agree(request)
    assert not hasattr(state, "agree")


# A3.4: the release


def test_both_shares_of_one_peer_are_never_kept_after_agreement(at_unmask):
    """Never both for one peer: of each pair, the half that U2 forbids is gone from the state."""
    masked, agreed = at_unmask.masked[0], at_unmask.agreed[0]
    stored = encode_state(agreed).reveal()
    survivors = {item.index for item in agreed.hashes}
    assert survivors == {0, 1, 2, 3, 4}
    for index, pair in zip(masked.u1, masked.shares, strict=True):
        keep, destroy = (pair.b, pair.a) if index in survivors else (pair.a, pair.b)
        assert keep.reveal() in stored
        assert destroy.reveal() not in stored


def test_seeds_are_gone_once_the_addend_is_masked(at_agree):
    for i, masked in at_agree.masked.items():
        stored = encode_state(masked).reveal()
        assert at_agree.sharing[i].a.reveal() not in stored
        assert at_agree.sharing[i].b.reveal() not in stored


def test_nothing_secret_is_left_after_the_release(at_unmask):
    state, reply = at_unmask.agreed[0].unmask(at_unmask.unmask_asked[0])
    stored = encode_state(state).reveal()
    assert all(share not in stored for share in reply.shares)
    assert not hasattr(state, "unmask")


def test_fewer_than_t_agreements_release_nothing(at_unmask):
    state, request = at_unmask.agreed[0], at_unmask.unmask_asked[0]
    few = UnmaskRequest(1, request.agreements[:4])
    _refused(state, lambda: state.unmask(few), "fewer than the t = 5")


def test_t_copies_of_one_signature_are_one(at_unmask):
    state, request = at_unmask.agreed[0], at_unmask.unmask_asked[0]
    with pytest.raises(PeerError, match="distinct"):
        UnmaskRequest(1, (request.agreements[0],) * 5)
    renamed = tuple(SignedAgreement(i, request.agreements[0].signature) for i in range(5))
    _refused(state, lambda: state.unmask(UnmaskRequest(1, renamed)), "'agree'")


def test_an_agreement_from_outside_u2_does_not_count(at_unmask, world):
    state, request = at_unmask.agreed[0], at_unmask.unmask_asked[0]
    outside = sign_agreement(world.keys[5].identity, state.ctx, 5, survivors_digest(state.hashes))
    bad = UnmaskRequest(1, (*request.agreements[:4], outside))
    _refused(state, lambda: state.unmask(bad), "not in U2")


def test_signatures_on_another_survivor_set_or_round_do_not_count(at_unmask, world):
    state, request = at_unmask.agreed[0], at_unmask.unmask_asked[0]
    identity = world.keys[4].identity
    others = [
        sign_agreement(identity, state.ctx, 4, survivors_digest(state.hashes[:-1])),
        sign_agreement(identity, bytes(32), 4, survivors_digest(state.hashes)),
        sign_agreement(identity, state.ctx, 3, survivors_digest(state.hashes)),
        sign_agreement(new_key(os_random), state.ctx, 4, survivors_digest(state.hashes)),
        SignedAgreement(4, sign(identity, "addend", state.ctx, 4, bytes(32))),
    ]
    for other in others:
        forged = (*request.agreements[:4], dataclasses.replace(other, index=4))
        _refused(state, lambda f=forged: state.unmask(UnmaskRequest(1, f)), "'agree'")


def test_a_late_addend_stays_masked(at_unmask):
    """Site 5 was declared dropped: what the others may release holds no share of its b."""
    late = {i: state.releases[5].reveal() for i, state in at_unmask.agreed.items()}
    for i, state in at_unmask.masked.items():
        if i in late:
            assert late[i] == state.shares[5].a.reveal()
            assert late[i] != state.shares[5].b.reveal()


# The roster


def test_a_site_whose_keys_are_not_in_the_roster_does_not_start(world):
    keys = dataclasses.replace(world.keys[0], identity=new_key(os_random))
    with pytest.raises(OperatorError, match="roster entry 0"):
        start(world.group, keys, 1, HEAD, os_random)


def test_a_roster_with_a_low_order_key_does_not_start(world):
    members = (*world.group.members[:5], Member("bad", world.group.members[5].identity, bytes(32)))
    group = dataclasses.replace(world.group, members=members)
    with pytest.raises(PeerError, match="low order"):
        start(group, world.keys[0], 1, HEAD, os_random)


def test_a_swapped_encryption_key_cannot_open_shares(world):
    """The server swaps site 5's key in one site's roster: that is another plan digest anyway, and
    the true site 5 cannot open what was sealed for the other key."""
    impostor = encryption_public(new_key(os_random))
    members = (
        *world.group.members[:5],
        dataclasses.replace(world.group.members[5], encryption=impostor),
    )
    fooled = dataclasses.replace(world.group, members=members)
    attempt = Round(world, ADDENDS)
    attempt.mask_requests()
    _, message = start(fooled, world.keys[0], 1, HEAD, os_random)
    request = attempt.mask_asked[5]
    records = (message.ciphertexts[5], *request.ciphertexts[1:])
    keys = (message.key, *request.keys[1:])
    bad = MaskRequest(1, keys, records)
    assert _check(attempt.sharing[5], bad).missing == (0,)


def test_states_and_keys_do_not_print_secrets(at_mask, world):
    shown = repr(at_mask.sharing[0]) + repr(world.keys) + repr(at_mask.sharing[0].seat)
    for secret in (at_mask.sharing[0].a, at_mask.sharing[0].b, world.keys[0].identity):
        assert repr(secret.reveal()) not in shown
        assert secret.reveal().hex() not in shown
    assert isinstance(at_mask.sharing[0], Sharing)
    assert not isinstance(at_mask.sharing[0], Masked)
    assert isinstance(at_mask.sharing[0].key, RoundKey)
