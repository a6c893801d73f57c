"""A7: swapped and invented keys, invented sites, another member's round key, short seeds."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from tests.secagg_world import HEAD, PUBLIC_INPUT, QUERY, Round, World
from tests.security import flower_secaggplus as flower
from tests.security.attack_world import HostileServer
from tests.security.flower_secaggplus import FlowerClients
from tests.world import COORDINATOR, TARGET, make_sites, roster_entry, table_document

from fedward_client.admission import receive_proposal
from fedward_client.approval import approve_plan
from fedward_client.round import SiteService
from fedward_client.site import open_site
from fedward_common.errors import PolicyRefusalError
from fedward_common.identity import SiteIdentity, approve
from fedward_common.keys import encryption_public, exchange, new_key, signing_public
from fedward_common.messages import Begin, Propose
from fedward_common.plan.signing import sign_plan
from fedward_common.randomness import os_random
from fedward_common.secagg.context import sign_round_key
from fedward_common.secagg.kdf import SEED_BYTES, commitment, round_private, self_mask_key
from fedward_common.secagg.parameters import Member, SiteKeys
from fedward_common.secagg.prg import apply_masks
from fedward_common.secagg.site import start
from fedward_common.secret import SecretBytes
from fedward_server.planning import draft_plan

VICTIM = 0
P25519 = 2**255 - 19


def test_round_keys_that_the_server_made_are_refused_before_any_debit(federation, tmp_path):
    """'server swaps or invents public keys': the server plays all peers of one real site.

    It knows the private half of every key that it shows, and even signs correctly, with keys of
    its own: the pinned roster refuses each of them.
    """
    with federation.copy(tmp_path / "world").sites() as sites:
        server = HostileServer(sites)
        _, orders = server.mask_orders(server.share(1))
        invented = [new_key(os_random) for _ in server.everyone]
        members = tuple(
            member
            if i == VICTIM
            else Member(member.name, signing_public(invented[i]), encryption_public(invented[i]))
            for i, member in enumerate(server.group.members)
        )
        own = dataclasses.replace(server.group, members=members)
        request = orders[VICTIM]
        keys, records = [request.keys[VICTIM]], [b""]
        for i in (1, 2, 3):
            played = SiteKeys(i, invented[i], invented[i])
            state, message = start(own, played, 1, HEAD, os_random)
            assert encryption_public(round_private(state.a, own.pre(1), i)) == message.key.A
            keys.append(message.key)
            records.append(message.ciphertexts[VICTIM])
        forged = dataclasses.replace(request, keys=tuple(keys), ciphertexts=tuple(records))
        assert "signature" in server.refused(VICTIM, server.mask_order(forged)).reason
        one = dataclasses.replace(request, keys=(*request.keys[:3], keys[3]))
        assert "signature" in server.refused(VICTIM, server.mask_order(one)).reason
        assert server.debits(VICTIM) == []
        assert server.addend(VICTIM, server.mask_order(request)).missing == ()


def test_flower_works_a_server_that_shows_its_own_keys():
    """Flower: works. Keys are bytes that the server hands on: it plays every peer of the victim.

    The victim notices nothing, and the server opens its shares and its vector alone.
    """
    rng = np.random.default_rng(4)
    clients = FlowerClients({nid: rng.uniform(-1, 1, 16) for nid in (1, 2, 3, 5)})
    played = FlowerClients({nid: np.zeros(16) for nid in (0, 1, 2, 3)})  # the server's own
    theirs = played.setup(threshold=3)
    keys = {5: clients.setup(threshold=3)[5], **{nid: theirs[nid] for nid in (1, 2, 3)}}
    sealed = {nid: played.share(nid, keys) for nid in (1, 2, 3)}
    sealed[5] = clients.share(5, keys)
    y = clients.mask(5, {nid: sealed[nid][5] for nid in (1, 2, 3)})
    for nid in (1, 2, 3):
        played.mask(nid, {peer: sealed[peer][nid] for peer in keys if peer != nid})
    seeds = [played.unmask(nid, list(keys), [])[0][5] for nid in (1, 2, 3)]
    pairs = {
        nid: flower.pair_stream(played.secret(nid, "sk1"), keys[5][0], 17) for nid in (1, 2, 3)
    }
    alone = flower.strip_pairs(y, 5, pairs) - flower.stream(flower.rebuild(seeds), 17)
    assert flower.decode(alone) == pytest.approx(clients.vectors[5], abs=flower.RESOLUTION)


def test_a_roster_of_invented_hospitals_is_not_approved_and_does_not_begin(tmp_path):
    """'server enrols invented sites': fingerprints verified between hospitals; > c refused."""
    [name] = make_sites(tmp_path, 1)
    invented = [SiteIdentity.generate(f"hospital-{n}", os_random) for n in range(4)]
    with open_site(tmp_path / name) as site:
        roster = [roster_entry(site)] + [
            {"name": p.name, "identity": p.identity.hex(), "transport": p.transport.hex()}
            for p in (identity.public() for identity in invented)
        ]
        queries = [{"kind": "count", "noise_multiplier": 5.0}]
        document = table_document(roster, queries=queries, secagg={"t_min": 4, "colluding": 1})
        plan = draft_plan(document, TARGET, "test")
        signed = sign_plan(plan, COORDINATOR)
        receive_proposal(site, Propose(signed.canonical, signed.signature))
        site.members.confirm(site.identity.public())
        for verified in (0, 1, 2):  # of four invented ones, the operator has confirmed this many
            for identity in invented[:verified]:
                site.members.confirm(identity.public())
            with pytest.raises(PolicyRefusalError, match="unverified"):
                approve_plan(site, plan.digest)
        # Without this site's own approval the others' are worth nothing.
        forged = tuple(
            approve(identity.identity, plan.digest, encryption_public(new_key(os_random))).encode()
            for identity in [invented[0], *invented]
        )
        reply = SiteService(site).handle(Begin(plan.digest, forged).encode())
        assert b"PolicyRefusalError" in reply


def test_flower_works_a_server_that_enrols_its_own_clients():
    """Flower: works. Nobody approves a member: an honest sum with invented ones is the victim's."""
    vector = np.linspace(-1, 1, 16)
    clients = FlowerClients({9: vector, **{nid: np.zeros(16) for nid in (1, 2, 3)}})
    keys, masked = clients.until_masked(threshold=3)
    replies = [clients.unmask(nid, list(keys), [])[0] for nid in keys]
    total = sum(masked.values())
    for nid in keys:
        total = total - flower.stream(flower.rebuild(reply[nid] for reply in replies), 17)
    assert flower.decode(total, contributors=4) == pytest.approx(vector, abs=4 * flower.RESOLUTION)


def _equivalents(u: bytes) -> dict[str, bytes]:
    """What X25519 cannot tell from ``u``: equal, top bit set, the point of order two added."""
    number = int.from_bytes(u, "little")
    return {
        "equal": u,
        "top bit": (number | 1 << 255).to_bytes(32, "little"),
        "inverse": pow(number, -1, P25519).to_bytes(32, "little"),
    }


@pytest.mark.parametrize("kind", ["equal", "top bit", "inverse"])
def test_another_members_round_key_gives_no_mask_that_cancels(kind):
    """'a colluding site signs another site's round key, or an equivalent point'.

    Between two peers of whom one adds and one subtracts, equal masks would cancel: the victim in
    the middle would be left with its self mask, whose seed is opened in every honest round.
    """
    world = World.make(4, os_random, c=1)
    attempt = Round(world, [np.full(64, 7, dtype=np.uint32)] * 4)
    attempt.mask_requests()
    victim, peer, colluder = 1, 0, 3  # sign(1, 0) and sign(1, 3) differ
    request, state = attempt.mask_asked[victim], attempt.sharing[victim]
    point = _equivalents(request.keys[peer].A)[kind]
    private = round_private(state.a, world.group.pre(1), victim)
    same = exchange(private, request.keys[peer].A).reveal()
    assert exchange(private, point).reveal() == same  # the attack's premise holds
    stolen = sign_round_key(
        world.keys[colluder].identity, world.group.pre(1), colluder, point, bytes(32), HEAD
    )
    keys = (*request.keys[:colluder], stolen)
    checked = state.check(dataclasses.replace(request, keys=keys), QUERY, 0, PUBLIC_INPUT)
    streams = []
    for mask in checked.masks[1:]:
        stream = np.zeros(64, dtype=np.uint32)
        apply_masks(stream, [mask])
        streams.append(stream)
    to_peer, _, to_colluder = streams
    assert np.count_nonzero(to_peer + to_colluder) > 60
    assert np.count_nonzero(to_peer - to_colluder) > 60


def test_flower_works_a_colluder_with_another_clients_key_cancels_the_pair_masks():
    """Flower: works. It compares public keys as bytes: another encoding of the same key passes.

    Of three clients the one in the middle adds one pair mask and subtracts the same again. What is
    left is its self mask, whose seed every honest round opens.
    """
    vector = np.linspace(-1, 1, 16)
    clients = FlowerClients({1: np.ones(16), 2: vector, 3: np.ones(16)})
    keys = clients.setup(threshold=2)
    copied = load_pem_public_key(keys[1][0])
    assert isinstance(copied, EllipticCurvePublicKey)
    compressed = copied.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    pem = _pem(compressed)
    assert pem != keys[1][0]
    shown = {**keys, 3: (pem, keys[3][1])}
    sealed = {nid: clients.share(nid, keys if nid == 3 else shown) for nid in keys}
    y = clients.mask(2, {src: sealed[src][2] for src in (1, 3)})
    for nid, others in ((1, (2, 3)), (3, (1, 2))):
        clients.mask(nid, {src: sealed[src][nid] for src in others})
    seeds = [clients.unmask(nid, [1, 2, 3], [])[0][2] for nid in (1, 2, 3)]
    alone = y - flower.stream(flower.rebuild(seeds), 17)
    assert flower.decode(alone) == pytest.approx(vector, abs=flower.RESOLUTION)


def _pem(compressed: bytes) -> bytes:
    """The same P-384 key with its point in compressed form: another PEM text."""
    algorithm = bytes.fromhex("301006072a8648ce3d020106052b81040022")
    bits = b"\x03" + bytes([len(compressed) + 1]) + b"\0" + compressed
    der = b"\x30" + bytes([len(algorithm) + len(bits)]) + algorithm + bits
    body = base64.encodebytes(der).decode("ascii")
    return f"-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n".encode()


def _window(secret: bytes, bits: int):
    """The ``2**bits`` values that agree with ``secret`` in all but the last bits."""
    number = int.from_bytes(secret, "big")
    first = number >> bits << bits
    return (n.to_bytes(len(secret), "big") for n in range(first, first + (1 << bits)))


def test_a_mask_seed_has_128_bits_and_every_one_of_them_counts():
    """'brute force of a mask seed': full-length keys (contrast: a 28-bit seed, below).

    A search does have something to compare with, the published commitment, and finds a seed of
    which all but 12 bits are known: what stops it is the length alone. So no bit may be lost on
    the way from the operating system to the key of the stream.
    """
    world = World.make(3, os_random)
    attempt = Round(world, [np.zeros(8, dtype=np.uint32)] * 3)
    attempt.mask_requests()
    seed, announced = attempt.sharing[0].b, attempt.sharing[0].key.B
    found = [s for s in _window(seed.reveal(), 12) if commitment(SecretBytes(s)) == announced]
    assert found == [seed.reveal()]
    assert len(seed) == SEED_BYTES == 16
    ctx = bytes(32)
    flipped = set()
    for bit in range(128):
        changed = int.from_bytes(seed.reveal(), "big") ^ (1 << bit)
        other = SecretBytes(changed.to_bytes(16, "big"))
        assert commitment(other) != announced
        flipped.add(self_mask_key(other, ctx, 0).reveal())
        flipped.add(round_private(other, ctx, 0).reveal())
    assert len(flipped) == 256


def test_no_bit_of_a_mask_key_is_fixed():
    """Full-length keys: over many masks each of a key's 256 bits takes both values."""
    world = World.make(9, os_random)
    attempt = Round(world, [np.zeros(8, dtype=np.uint32)] * 9)
    attempt.mask_requests()
    keys = []
    for i, request in attempt.mask_asked.items():
        checked = attempt.sharing[i].check(request, QUERY, 0, PUBLIC_INPUT)
        keys += [mask.key.reveal() for mask in checked.masks]
    assert len(keys) == 81
    assert len(set(keys)) == 9 + 36  # each pair mask is known at both ends
    bits = np.unpackbits(
        np.frombuffer(b"".join(sorted(set(keys))), np.uint8).reshape(45, 32), axis=1
    )
    assert (bits.any(axis=0) & ~bits.all(axis=0)).all()  # a fair bit fails with 2^-44


def test_flower_works_the_pair_mask_is_found_by_search():
    """Flower: works. Its pair key is base64 text folded to 32 bits, of which four are always zero.

    Nothing is asked for that an honest round does not give: the sum is opened, one client colludes,
    and one pair mask of 28 bits is left on the victim's vector. Here the upper 16 are given, so
    that the search takes a moment; the whole one is the same loop 2^16 times, some hours on a core.
    """
    vector = np.linspace(-1, 1, 16)
    clients = FlowerClients({1: vector, 2: np.ones(16), 3: np.ones(16)})
    keys, masked = clients.until_masked(threshold=2)
    victim, honest, colluder = 1, 2, 3
    seeds = [clients.unmask(nid, list(keys), [])[0][victim] for nid in keys]
    known = flower.pair_stream(clients.secret(colluder, "sk1"), keys[victim][0], 17)
    left = masked[victim] - flower.stream(flower.rebuild(seeds), 17)
    left = flower.strip_pairs(left, victim, {colluder: known})
    true = flower.folded(flower.pair_key(clients.secret(victim, "sk1"), keys[honest][0]))
    assert true & 0x80808080 == 0  # 28 bits
    upper = true & 0x7F7F0000
    window = (upper | high << 8 | low for high in range(128) for low in range(128))
    found = flower.search(left, window, negative=True)  # 1 < 2: the mask was subtracted
    assert len(found) == 1
    assert flower.decode(found[0]) == pytest.approx(vector, abs=flower.RESOLUTION)
