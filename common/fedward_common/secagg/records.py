"""The signed parts of messages as typed tuples: what sites sign, the server relays (A3)."""

from __future__ import annotations

from fedward_common.codec import Value
from fedward_common.keys import KEY_BYTES, SIGNATURE_BYTES
from fedward_common.secagg.context import Head, RoundKey, SignedAgreement, SignedHash
from fedward_common.secagg.parameters import DIGEST_BYTES, MAX_SITES
from fedward_common.secagg.wire import as_bytes, as_count, as_index, as_tuple


def pack_key(key: RoundKey) -> Value:
    """Return the typed tuple of a round key."""
    return (key.index, key.A, key.B, key.head, key.signature)


def pack_hash(item: SignedHash) -> Value:
    """Return the typed tuple of a signed hash."""
    return (item.index, item.addend_hash, item.signature)


def pack_agreement(item: SignedAgreement) -> Value:
    """Return the typed tuple of a signed agreement."""
    return (item.index, item.signature)


def read_key(value: Value) -> RoundKey:
    """Read what :func:`pack_key` made; anything else is a PeerError."""
    index, A, B, head, signature = as_tuple(value, "a round key", 5, 5)
    return RoundKey(
        as_index(index),
        as_bytes(A, "a round key", KEY_BYTES),
        as_bytes(B, "a commitment", DIGEST_BYTES),
        read_head(head),
        as_bytes(signature, "a signature", SIGNATURE_BYTES),
    )


def read_head(value: Value) -> Head:
    """Read a ledger's head; anything else is a PeerError."""
    count, hashed = as_tuple(value, "a ledger's head", 2, 2)
    return as_count(count, "a ledger's count"), as_bytes(hashed, "a ledger's hash", DIGEST_BYTES)


def read_keys(value: Value) -> tuple[RoundKey, ...]:
    """Read round keys; anything else is a PeerError."""
    return tuple(read_key(item) for item in as_tuple(value, "round keys", MAX_SITES))


def read_hashes(value: Value) -> tuple[SignedHash, ...]:
    """Read signed hashes; anything else is a PeerError."""
    hashes: list[SignedHash] = []
    for item in as_tuple(value, "signed hashes", MAX_SITES):
        index, hashed, signature = as_tuple(item, "a signed hash", 3, 3)
        hashes.append(
            SignedHash(
                as_index(index),
                as_bytes(hashed, "an addend's hash", DIGEST_BYTES),
                as_bytes(signature, "a signature", SIGNATURE_BYTES),
            )
        )
    return tuple(hashes)


def read_agreements(value: Value) -> tuple[SignedAgreement, ...]:
    """Read signed agreements; anything else is a PeerError."""
    agreements: list[SignedAgreement] = []
    for item in as_tuple(value, "agreements", MAX_SITES):
        index, signature = as_tuple(item, "an agreement", 2, 2)
        signed = as_bytes(signature, "a signature", SIGNATURE_BYTES)
        agreements.append(SignedAgreement(as_index(index), signed))
    return tuple(agreements)
