"""A7: one site both active and dropped, different stories to different sites, copies, late y."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
from tests.secagg_world import PUBLIC_INPUT, QUERY, Round, World
from tests.security import flower_secaggplus as flower
from tests.security.attack_world import HostileServer, words
from tests.security.flower_secaggplus import FlowerClients

from fedward_common.errors import PeerError
from fedward_common.messages import AgreeOrder
from fedward_common.randomness import os_random
from fedward_common.secagg.context import (
    SignedAgreement,
    sign_agreement,
    sign_round_key,
    survivors_digest,
)
from fedward_common.secagg.kdf import pair_mask_key, round_private, self_mask_key
from fedward_common.secagg.messages import AgreeRequest, MaskRequest, UnmaskRequest
from fedward_common.secagg.prg import Mask, apply_masks
from fedward_common.secagg.site_store import encode_state
from fedward_common.secret import SecretBytes

VICTIM = 3
COLLUDER = 2


@pytest.fixture
def four():
    """Four members, t = t_min = 3, one of whom may collude with the server."""
    return World.make(4, os_random, c=1)


def _addends(n):
    return [np.arange(8, dtype=np.uint32) + 100 * i for i in range(n)]


def _collect(masked, member, group, told):
    """Everything of the victim's that the server gets if it tells member i the set ``told[i]``.

    The colluding member signs every set and gives away both shares that it holds.
    """
    states, signatures = {}, {0: [], 1: []}
    sets = dict(told)
    for i, which in sets.items():
        hashes = group[which]
        states[i], message = masked[i].agree(AgreeRequest(1, hashes))
        signatures[which].append(SignedAgreement(i, message.signature))
    for which, hashes in group.items():
        signed = survivors_digest(hashes)
        ctx = masked[0].ctx
        signatures[which].append(sign_agreement(member.identity, ctx, COLLUDER, signed))
    released = {0: {}, 1: {}}
    for which, found in signatures.items():
        request = UnmaskRequest(1, tuple(sorted(found, key=lambda item: item.index)))
        for i, state in states.items():
            if sets[i] != which:
                continue
            try:
                _, reply = state.unmask(request)
            except PeerError:
                continue
            released[which][i] = reply.shares[VICTIM]
    own = masked[COLLUDER].shares[VICTIM]
    released[0][COLLUDER] = own.b.reveal()
    released[1][COLLUDER] = own.a.reveal()
    return released


def test_no_way_of_telling_two_survivor_sets_gets_both_seeds_of_one_site(four):
    """'server lists one site as both active and dropped', to different members, c of whom collude.

    Every way of telling each honest member either U2 with the victim or U2 without it is tried;
    the server holds b-shares and a-shares of the victim afterwards, but never t of both.
    """
    attempt = Round(four, _addends(4))
    attempt.agree_requests()
    everyone = attempt.agree_asked[0].hashes
    group = {0: everyone, 1: tuple(item for item in everyone if item.index != VICTIM)}
    most = []
    for first, second in product((0, 1), repeat=2):
        told = {0: first, 1: second, VICTIM: 0}
        released = _collect(attempt.masked, four.keys[COLLUDER], group, told)
        t = four.group.threshold
        opened = [len(shares) >= t for shares in released.values()]
        assert opened != [True, True]
        most.append(tuple(opened))
    # The attack does not fail by accident: each of the two stories alone does open its half.
    assert (True, False) in most
    assert (False, True) in most


def test_a_site_that_signed_one_set_serves_no_other(federation, tmp_path):
    """'server lists one site as both active and dropped': A3.4 never-both, one signature per e."""
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        agreeing, requests = server.mask(*server.mask_orders(server.share(1))).close()
        both = requests[0].hashes
        dropped = AgreeRequest(1, tuple(item for item in both if item.index != VICTIM))
        revealing, unmasking = server.agree(agreeing, requests).close()
        for i in range(3):
            assert "different request" in server.refused(i, server.agree_order(dropped)).reason
        server.unmask(revealing, unmasking)
        # After the release neither set brings anything but the stored bytes or a refusal.
        for i in range(3):
            assert server.answered(i, server.agree_order(requests[i]))
            server.refused(i, server.agree_order(dropped))
            fewer = UnmaskRequest(1, unmasking[i].agreements[:3])
            server.refused(i, server.unmask_order(fewer))
            assert server.debits(i) == [1]


def test_flower_works_one_client_active_and_dead_in_one_request():
    """Flower: works. One unmask request lists the victim twice and gets both of its secrets."""
    rng = np.random.default_rng(1)
    clients = FlowerClients({nid: rng.uniform(-1, 1, 16) for nid in (11, 22, 33, 44, 55)})
    keys, masked = clients.until_masked(threshold=3)
    victim = 33
    seeds, privates = [], []
    for nid in (11, 22, 44):
        seed, private = clients.unmask(nid, list(keys), [victim])
        seeds.append(seed[victim])
        privates.append(private[victim])
    own = flower.rebuild(privates)
    pairs = {nid: flower.pair_stream(own, keys[nid][0], 17) for nid in keys if nid != victim}
    alone = flower.strip_pairs(masked[victim], victim, pairs)
    alone = alone - flower.stream(flower.rebuild(seeds), 17)
    assert flower.decode(alone) == pytest.approx(clients.vectors[victim], abs=flower.RESOLUTION)


def test_flower_works_two_survivor_sets_told_to_two_halves():
    """Flower: works. No client is asked for anything odd, and the server chose the threshold."""
    rng = np.random.default_rng(2)
    clients = FlowerClients({nid: rng.uniform(-1, 1, 16) for nid in (1, 2, 3, 4, 5)})
    keys, masked = clients.until_masked(threshold=2)
    victim, rest = 5, [1, 2, 3, 4]
    seeds = [clients.unmask(nid, list(keys), [])[0][victim] for nid in (1, 2)]
    privates = [clients.unmask(nid, rest, [victim])[1][victim] for nid in (3, 4)]
    own = flower.rebuild(privates)
    pairs = {nid: flower.pair_stream(own, keys[nid][0], 17) for nid in rest}
    alone = flower.strip_pairs(masked[victim], victim, pairs)
    alone = alone - flower.stream(flower.rebuild(seeds), 17)
    assert flower.decode(alone) == pytest.approx(clients.vectors[victim], abs=flower.RESOLUTION)


def test_two_round_keys_of_a_colluder_split_the_sites_into_groups_that_never_agree(four):
    """'server shows different survivor sets, U1, keys or models to different sites': ctx."""
    attempt = Round(four, _addends(4))
    _, requests = attempt.mask_requests()
    other = sign_round_key(
        four.keys[COLLUDER].identity,
        four.group.pre(1),
        COLLUDER,
        requests[0].keys[0].A,
        bytes(32),
        (3, bytes(32)),
    )
    swapped = (*requests[0].keys[:COLLUDER], other, *requests[0].keys[COLLUDER + 1 :])
    hashes = []
    for i in range(4):
        request = requests[i]
        if i < 2:
            request = dataclasses.replace(request, keys=swapped)
        if i != COLLUDER:
            attempt.mask_one(i, request)
            hashes.append(attempt.masked[i].signed)
    assert attempt.masked[0].ctx == attempt.masked[1].ctx
    assert attempt.masked[0].ctx != attempt.masked[VICTIM].ctx
    for i in (0, VICTIM):
        with pytest.raises(PeerError, match="'addend'"):
            attempt.masked[i].agree(AgreeRequest(1, tuple(hashes)))


def test_sites_that_were_given_different_models_never_agree(federation, tmp_path):
    """'server shows different ... models to different sites': site 0 is sent a false gradient."""
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        server.adopt(server.run(1))
        server.adopt(server.run(2))
        state, orders = server.mask_orders(server.share(3))
        false = (server.sums[0], (words(server.sums[1]) + np.uint32(1000)).tobytes())
        odd = server.addend(0, server.mask_order(orders[0], sums=false))
        with pytest.raises(PeerError, match="'addend'"):
            state.receive(0, odd)
        for i in (1, 2, 3):
            state = state.receive(i, server.addend(i, server.mask_order(orders[i])))
        _, requests = state.close()
        forged = dataclasses.replace(requests[1].hashes[0], index=0, signature=odd.signature)
        everyone = AgreeRequest(3, (forged, *requests[1].hashes))
        for i in server.everyone:
            server.refused(i, server.agree_order(everyone))


def test_copies_and_inventions_of_agreements_release_nothing(federation, tmp_path):
    """'t copies of one signature': distinct members. At real sites, through bytes."""
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        agreeing, requests = server.mask(*server.mask_orders(server.share(1))).close()
        revealing, unmasking = server.agree(agreeing, requests).close()
        one = unmasking[0].agreements[0]
        copies = tuple(SignedAgreement(i, one.signature) for i in range(3))
        server.refused(0, server.unmask_order(UnmaskRequest(1, copies)))
        packed = unmasking[0].encode()
        second = unmasking[0].agreements[1].signature
        assert second in packed
        twice = packed.replace(second, one.signature)
        server.refused(0, dataclasses.replace(server.unmask_order(unmasking[0]), request=twice))
        # The honest request is still served: nothing above has changed the site's state.
        assert server.unmask(revealing, unmasking).close()


def test_a_site_never_agrees_to_a_round_in_which_it_stands_alone(federation, tmp_path):
    """'server isolates one site, or a set below t_min': t_min in the plan, A3.2, A3.3."""
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        state, orders = server.mask_orders(server.share(1))
        full = orders[VICTIM]
        for kept in ((VICTIM,), (0, VICTIM), (1, VICTIM), (1, 2)):
            chosen = [n for n, key in enumerate(full.keys) if key.index in kept]
            few = MaskRequest(
                1,
                tuple(full.keys[n] for n in chosen),
                tuple(full.ciphertexts[n] for n in chosen),
            )
            server.refused(VICTIM, server.mask_order(few))
        assert server.debits(VICTIM) == []
        agreeing, requests = server.mask(state, orders).close()
        for kept in ((VICTIM,), (0, VICTIM), (0, 1, 2)):
            hashes = tuple(item for item in requests[VICTIM].hashes if item.index in kept)
            server.refused(VICTIM, AgreeOrder(server.study, 1, AgreeRequest(1, hashes).encode()))
        assert agreeing.waiting == frozenset(server.everyone)


def test_flower_works_a_client_in_a_round_of_its_own():
    """Flower: works. The server says how many there are and how many are enough: one."""
    vector = np.linspace(-1, 1, 16)
    clients = FlowerClients({7: vector})
    keys = clients.setup(threshold=1)
    clients.share(7, keys)
    y = clients.mask(7, {})
    seeds, _ = clients.unmask(7, [7], [])
    alone = y - flower.stream(flower.rebuild(seeds.values()), 17)
    assert flower.decode(alone) == pytest.approx(vector, abs=flower.RESOLUTION)


def test_a_late_addend_is_of_no_use_with_all_that_the_server_ever_gets(four):
    """'a late y after its owner was declared dropped': its b-shares are never released.

    The server has the late y, the victim's published pair-mask seed, every released share and the
    colluding member's own state: the self mask still covers the addend.
    """
    addends = _addends(4)
    attempt = Round(four, addends, drop={VICTIM: 2})
    published = attempt.run().transcript
    checked = attempt.sharing[VICTIM].check(attempt.mask_asked[VICTIM], QUERY, 0, PUBLIC_INPUT)
    late = words(attempt.sharing[VICTIM].mask(checked, addends[VICTIM])[1].y).copy()
    ctx, pre = attempt.masked[0].ctx, four.group.pre(1)
    private = round_private(SecretBytes(published.seeds[VICTIM]), pre, VICTIM)
    for key in published.keys:
        if key.index != VICTIM:
            pair = pair_mask_key(private, key.A, ctx, VICTIM, key.index)
            apply_masks(late, [Mask(pair, negative=key.index > VICTIM)])  # undoes sign(i, j)
    assert not np.isin(late, addends[VICTIM]).any()
    # The published seed did take the pair masks off: only the self mask is left, of a seed whose
    # shares the honest members have destroyed. The server has one, and t = 3 are needed.
    b = attempt.sharing[VICTIM].b
    apply_masks(late, [Mask(self_mask_key(b, ctx, VICTIM), negative=True)])
    assert (late == addends[VICTIM]).all()
    left = b"".join(data for (step, _), data in attempt.wire.items() if step == "unmask")
    left += b"".join(encode_state(state).reveal() for state in attempt.unmasked.values())
    for i in (0, 1, COLLUDER):
        pair = attempt.masked[i].shares[VICTIM]
        assert pair.a.reveal() in left
        assert pair.b.reveal() not in left


def test_flower_works_a_late_vector_lies_behind_a_self_mask_of_32_bits():
    """Flower: works. The dead client's key is handed out, and its self-mask seed is found.

    Flower folds the 32 random bytes of the seed to 32 bits. Here the upper 20 are given, so that
    the search takes a moment; the whole one is the same loop 2^20 times.
    """
    rng = np.random.default_rng(3)
    clients = FlowerClients({nid: rng.uniform(-1, 1, 16) for nid in (1, 2, 3, 4)})
    keys, masked = clients.until_masked(threshold=3)
    victim, rest = 2, [1, 3, 4]
    privates = [clients.unmask(nid, rest, [victim])[1][victim] for nid in rest]
    own = flower.rebuild(privates)
    pairs = {nid: flower.pair_stream(own, keys[nid][0], 17) for nid in rest}
    late = flower.strip_pairs(masked[victim], victim, pairs)
    upper = flower.folded(clients.secret(victim, "rd_seed")) >> 12 << 12
    found = flower.search(late, range(upper, upper + (1 << 12)))
    assert len(found) == 1
    assert flower.decode(found[0]) == pytest.approx(clients.vectors[victim], abs=flower.RESOLUTION)
