"""Make tests/vectors/secagg.json: `python -m tests.vectors.generate_secagg`.

One whole round of four sites, of whom one drops out after sharing, with every key, seed and nonce
drawn from SHAKE-256 of a label; and messages that are wrong on purpose, named for their defect. A
test makes the file again and compares; another reads the file and checks it against a second
implementation.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from tests.secagg_reference import P25519
from tests.secagg_world import HEAD, PUBLIC_INPUT, QUERY, Round, SeededRandom, World

from fedward_common.codec import encode
from fedward_common.keys import encryption_public, new_key, sign
from fedward_common.secagg import kdf, prg, shamir
from fedward_common.secagg.context import (
    SignedAgreement,
    sign_addend,
    sign_agreement,
    sign_round_key,
    survivors_digest,
)
from fedward_common.secagg.messages import AgreeRequest, MaskRequest, UnmaskRequest
from fedward_common.secagg.records import pack_agreement, pack_hash, pack_key
from fedward_common.secagg.site_store import encode_state
from fedward_common.secret import SecretBytes

PATH = Path(__file__).with_name("secagg.json")

SITES = 4
ATTEMPT = 7
DROPPED = 3
ADDENDS = [[0, 1, 2**32 - 1, 10**9, i] for i in range(SITES)]


def make_round() -> Round:
    """Run the round of the vectors."""
    world = World.make(SITES, SeededRandom("secagg vectors"))
    addends = [np.array(addend, dtype=np.uint32) for addend in ADDENDS]
    return Round(world, addends, e=ATTEMPT, drop={DROPPED: 2})


def vectors() -> dict[str, object]:
    """Return the whole file."""
    attempt = make_round()
    summed = attempt.run()
    return {
        "primitives": _primitives(),
        "round": _round(attempt)
        | {
            "sum": summed.total.tolist(),
            "transcript": summed.transcript.encode().hex(),
        },
        "bad": _bad(attempt),
    }


def _primitives() -> dict[str, object]:
    key, seed, ctx = SecretBytes(bytes(range(32))), SecretBytes(bytes(range(16))), bytes(32)
    shares = shamir.split(seed, 3, 5, SeededRandom("shamir vector"))
    u = int.from_bytes(_public("victim"), "little")
    points = {"equal": u, "top_bit_set": u | 1 << 255, "inverse": pow(u, -1, P25519)}
    own = SecretBytes(SeededRandom("own")(32))
    words = np.zeros(10, dtype=np.uint32)
    prg.apply_masks(words, [prg.Mask(key)])
    return {
        "keystream": {"key": key.reveal().hex(), "first_40": words.tobytes().hex()},
        "commitment": {"b": seed.reveal().hex(), "B": kdf.commitment(seed).hex()},
        "round_private": {
            "a": seed.reveal().hex(),
            "pre": ctx.hex(),
            "index": 2,
            "private": kdf.round_private(seed, ctx, 2).reveal().hex(),
        },
        "self_mask_key": {
            "b": seed.reveal().hex(),
            "ctx": ctx.hex(),
            "index": 2,
            "key": kdf.self_mask_key(seed, ctx, 2).reveal().hex(),
        },
        "shamir": {
            "seed": seed.reveal().hex(),
            "threshold": 3,
            "shares": [share.reveal().hex() for share in shares],
        },
        "equivalent_points": {
            name: {
                "private": own.reveal().hex(),
                "public": (public := value.to_bytes(32, "little")).hex(),
                "as_site_1": kdf.pair_mask_key(own, public, ctx, 0, 1).reveal().hex(),
                "as_site_2": kdf.pair_mask_key(own, public, ctx, 0, 2).reveal().hex(),
            }
            for name, value in points.items()
        },
    }


def _public(label: str) -> bytes:
    return encryption_public(new_key(SeededRandom(label)))


def _round(attempt: Round) -> dict[str, object]:
    group = attempt.world.group
    states = ("sharing", "masked", "agreed", "unmasked")
    return {
        "e": ATTEMPT,
        "query": QUERY,
        "round_number": 0,
        "public_input_digest": PUBLIC_INPUT.hex(),
        "plan_digest": group.plan_digest.hex(),
        "t_min": group.t_min,
        "colluding": group.colluding,
        "dropped_after_sharing": DROPPED,
        "sites": [
            {
                "name": member.name,
                "identity": keys.identity.reveal().hex(),
                "identity_public": member.identity.hex(),
                "encryption": keys.encryption.reveal().hex(),
                "encryption_public": member.encryption.hex(),
                "addend": ADDENDS[keys.index],
            }
            for member, keys in zip(group.members, attempt.world.keys, strict=True)
        ],
        "site_to_server": {
            f"{step} {index}": data.hex() for (step, index), data in attempt.wire.items()
        },
        "server_to_site_0": {
            "mask": attempt.mask_asked[0].encode().hex(),
            "agree": attempt.agree_asked[0].encode().hex(),
            "unmask": attempt.unmask_asked[0].encode().hex(),
        },
        "states_of_site_0": {
            name: encode_state(getattr(attempt, name)[0]).reveal().hex() for name in states
        },
    }


def _bad(attempt: Round) -> list[dict[str, str]]:
    """Return requests that site 0 must refuse, each in the state that would answer a good one."""
    bad = _bad_mask(attempt) | _bad_agree(attempt) | _bad_unmask(attempt)
    return [
        {"name": name, "step": step, "request": data.hex(), "error": error}
        for name, (step, data, error) in bad.items()
    ]


def _long_integer(data: bytes) -> bytes:
    """Write the attempt's number in two bytes, and correct the length of the tuple around it."""
    short, long = bytes.fromhex("690000000107"), bytes.fromhex("69000000020007")
    assert data.count(short) == 1
    body = data[5:].replace(short, long)
    return data[:1] + len(body).to_bytes(4, "big") + body


def _raw_mask(keys, ciphertexts) -> bytes:
    return encode(("mask", ATTEMPT, tuple(map(pack_key, keys)), tuple(ciphertexts)))


def _bad_mask(attempt: Round) -> dict[str, tuple[str, bytes, str]]:
    good, world = attempt.mask_asked[0], attempt.world
    keys, records, data = good.keys, good.ciphertexts, good.encode()
    pre, third = world.group.pre(ATTEMPT), world.keys[3].identity
    replay = sign_round_key(third, world.group.pre(6), 3, keys[3].A, keys[3].B, HEAD)
    low = sign_round_key(third, pre, 3, bytes(32), keys[3].B, HEAD)
    stranger = sign_round_key(new_key(SeededRandom("stranger")), pre, 4, keys[3].A, bytes(32), HEAD)
    forged = dataclasses.replace(keys[3], A=keys[2].A)
    return {
        "mask_trailing_byte": ("mask", data + b"\0", "follow the message"),
        "mask_truncated": ("mask", data[:-1], "truncated"),
        "mask_integer_not_shortest": ("mask", _long_integer(data), "shortest form"),
        "mask_other_attempt": ("mask", dataclasses.replace(good, e=8).encode(), "attempt 8"),
        "mask_site_twice": (
            "mask",
            _raw_mask((*keys[:3], keys[2]), records),
            "distinct sites in roster order",
        ),
        "mask_not_in_roster_order": ("mask", _raw_mask(keys[::-1], records), "roster order"),
        "mask_without_self": ("mask", _raw_mask(keys[1:], records[1:]), "own round key"),
        "mask_below_t_min": ("mask", _raw_mask(keys[:2], records[:2]), "t_min"),
        "mask_swapped_key": ("mask", _raw_mask((*keys[:3], forged), records), "'key'"),
        "mask_key_of_other_attempt": ("mask", _raw_mask((*keys[:3], replay), records), "'key'"),
        "mask_low_order_key": ("mask", _raw_mask((*keys[:3], low), records), "low order"),
        "mask_site_outside_roster": (
            "mask",
            MaskRequest(ATTEMPT, (*keys, stranger), (*records, b"")).encode(),
            "not in the roster",
        ),
        "mask_record_one_byte_short": (
            "mask",
            _raw_mask(keys, (*records[:3], records[3][:-1])),
            "share record",
        ),
    }


def _bad_agree(attempt: Round) -> dict[str, tuple[str, bytes, str]]:
    hashes, state, world = attempt.agree_asked[0].hashes, attempt.masked[0], attempt.world
    late = sign_addend(world.keys[3].identity, bytes(32), 3, bytes(32))
    other = dataclasses.replace(hashes[1], addend_hash=bytes(32))
    own = sign_addend(world.keys[0].identity, state.ctx, 0, bytes(32))
    twice = ("agree", ATTEMPT, tuple(map(pack_hash, (*hashes, hashes[2]))))
    return {
        "agree_site_twice": ("agree", encode(twice), "distinct"),
        "agree_without_self": ("agree", AgreeRequest(ATTEMPT, hashes[1:]).encode(), "own addend"),
        "agree_other_own_hash": (
            "agree",
            AgreeRequest(ATTEMPT, (own, *hashes[1:])).encode(),
            "own addend",
        ),
        "agree_below_t_min": ("agree", AgreeRequest(ATTEMPT, hashes[:2]).encode(), "t_min"),
        "agree_swapped_hash": (
            "agree",
            AgreeRequest(ATTEMPT, (hashes[0], other, hashes[2])).encode(),
            "'addend'",
        ),
        "agree_hash_of_other_context": (
            "agree",
            AgreeRequest(ATTEMPT, (*hashes, late)).encode(),
            "'addend'",
        ),
    }


def _bad_unmask(attempt: Round) -> dict[str, tuple[str, bytes, str]]:
    agreements, state = attempt.unmask_asked[0].agreements, attempt.agreed[0]
    world, survivors = attempt.world, survivors_digest(attempt.agreed[0].hashes)
    copies = ("unmask", ATTEMPT, (pack_agreement(agreements[0]),) * 3)
    renamed = tuple(SignedAgreement(i, agreements[0].signature) for i in range(3))
    outside = sign_agreement(world.keys[3].identity, state.ctx, 3, survivors)
    identity = world.keys[2].identity
    addend = SignedAgreement(2, sign(identity, "addend", state.ctx, 2, survivors))
    smaller = sign_agreement(identity, state.ctx, 2, survivors_digest(state.hashes[:2]))
    requests = {
        "unmask_renamed_copies": (renamed, "'agree'"),
        "unmask_below_t": (agreements[:2], "fewer than the t = 3"),
        "unmask_from_outside_u2": ((*agreements[:2], outside), "not in U2"),
        "unmask_signature_of_other_type": ((*agreements[:2], addend), "'agree'"),
        "unmask_other_survivor_set": ((*agreements[:2], smaller), "'agree'"),
    }
    return {"unmask_copies_of_one_signature": ("unmask", encode(copies), "distinct")} | {
        name: ("unmask", UnmaskRequest(ATTEMPT, items).encode(), error)
        for name, (items, error) in requests.items()
    }


def text() -> str:
    """Return the file's text."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
