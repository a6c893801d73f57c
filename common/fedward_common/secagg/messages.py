"""The seven messages of a private sum, as bytes (A3).

Each is a frozen value with ``encode`` and a ``decode`` that refuses every deviation in type,
length, number or order with a :class:`PeerError`. What needs the roster or the state is checked
by the state machines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedward_common.codec import Value, encode
from fedward_common.keys import SIGNATURE_BYTES
from fedward_common.secagg.context import RoundKey, SignedAgreement, SignedHash
from fedward_common.secagg.parameters import MAX_SITES
from fedward_common.secagg.records import (
    pack_agreement,
    pack_hash,
    pack_key,
    read_agreements,
    read_hashes,
    read_key,
    read_keys,
)
from fedward_common.secagg.shamir import SHARE_BYTES, check_share
from fedward_common.secagg.sharing import CIPHERTEXT_BYTES
from fedward_common.secagg.wire import (
    as_bytes,
    as_count,
    as_index,
    as_tuple,
    check_ascending,
    unpack,
)

MAX_BYTES = 1 << 16
"""Length of any message but a masked addend: 200 sites fit."""

ADDEND_OVERHEAD = 4096
"""What a masked-addend message may add to its 4 bytes a coordinate."""


@dataclass(frozen=True)
class ShareMessage:
    """A3.1, site to server: the signed round key and one share record per peer.

    ``ciphertexts`` has one entry per roster member, empty for the sender itself.
    """

    e: int
    key: RoundKey
    ciphertexts: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return encode(("shares", self.e, pack_key(self.key), self.ciphertexts))

    @classmethod
    def decode(cls, data: bytes) -> ShareMessage:
        """Read the message; anything malformed is a PeerError."""
        e, key, records = unpack(data, "shares", 3, MAX_BYTES)
        return cls(as_count(e, "e"), read_key(key), _ciphertexts(records))


@dataclass(frozen=True)
class MaskRequest:
    """A3.2, server to one site: the signed round keys of U1, and the records addressed to the site.

    ``ciphertexts`` stand in the order of ``keys``; empty for the site's own and for a lost one.
    """

    e: int
    keys: tuple[RoundKey, ...]
    ciphertexts: tuple[bytes, ...]

    def __post_init__(self) -> None:
        check_ascending([key.index for key in self.keys], "round keys")
        as_tuple(self.ciphertexts, "share records", MAX_SITES, len(self.keys))

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        keys = tuple(pack_key(key) for key in self.keys)
        return encode(("mask", self.e, keys, self.ciphertexts))

    @classmethod
    def decode(cls, data: bytes) -> MaskRequest:
        """Read the message; anything malformed is a PeerError."""
        e, packed, records = unpack(data, "mask", 3, MAX_BYTES)
        return cls(as_count(e, "e"), read_keys(packed), _ciphertexts(records))


@dataclass(frozen=True)
class MaskedAddend:
    """A3.2, site to server: ``y`` as little-endian uint32 and the signature over its hash.

    ``missing`` reports the members of U1 whose share did not arrive or did not open. It informs
    the server, which could suppress shares anyway, and is not signed.
    """

    e: int
    index: int
    y: bytes = field(repr=False)
    signature: bytes
    missing: tuple[int, ...]

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return encode(("addend", self.e, self.index, self.y, self.signature, self.missing))

    @classmethod
    def decode(cls, data: bytes, dimension: int) -> MaskedAddend:
        """Read the message of ``dimension`` coordinates; anything malformed is a PeerError."""
        limit = 4 * dimension + ADDEND_OVERHEAD
        e, index, y, signature, missing = unpack(data, "addend", 5, limit)
        return cls(
            as_count(e, "e"),
            as_index(index),
            as_bytes(y, "the addend", 4 * dimension),
            as_bytes(signature, "a signature", SIGNATURE_BYTES),
            _indices(missing),
        )


@dataclass(frozen=True)
class AgreeRequest:
    """A3.3, server to site: U2 with every signed H(y_j)."""

    e: int
    hashes: tuple[SignedHash, ...]

    def __post_init__(self) -> None:
        check_ascending([item.index for item in self.hashes], "signed hashes")

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return encode(("agree", self.e, tuple(pack_hash(item) for item in self.hashes)))

    @classmethod
    def decode(cls, data: bytes) -> AgreeRequest:
        """Read the message; anything malformed is a PeerError."""
        e, hashes = unpack(data, "agree", 2, MAX_BYTES)
        return cls(as_count(e, "e"), read_hashes(hashes))


@dataclass(frozen=True)
class Agreement:
    """A3.3, site to server: the signature over U2 and its hashes."""

    e: int
    index: int
    signature: bytes

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return encode(("agreed", self.e, self.index, self.signature))

    @classmethod
    def decode(cls, data: bytes) -> Agreement:
        """Read the message; anything malformed is a PeerError."""
        e, index, signature = unpack(data, "agreed", 3, MAX_BYTES)
        return cls(
            as_count(e, "e"),
            as_index(index),
            as_bytes(signature, "a signature", SIGNATURE_BYTES),
        )


@dataclass(frozen=True)
class UnmaskRequest:
    """A3.4, server to site: the agreement's signatures, of distinct sites in roster order."""

    e: int
    agreements: tuple[SignedAgreement, ...]

    def __post_init__(self) -> None:
        check_ascending([item.index for item in self.agreements], "agreements")

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return encode(("unmask", self.e, tuple(pack_agreement(a) for a in self.agreements)))

    @classmethod
    def decode(cls, data: bytes) -> UnmaskRequest:
        """Read the message; anything malformed is a PeerError."""
        e, agreements = unpack(data, "unmask", 2, MAX_BYTES)
        return cls(as_count(e, "e"), read_agreements(agreements))


@dataclass(frozen=True)
class UnmaskReply:
    """A3.4, site to server: one share per member of U1, in roster order.

    That of the self mask for a member of U2, of the pair masks for one who dropped out; empty
    where the site has none.
    """

    e: int
    index: int
    shares: tuple[bytes, ...] = field(repr=False)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return encode(("unmasked", self.e, self.index, self.shares))

    @classmethod
    def decode(cls, data: bytes) -> UnmaskReply:
        """Read the message; anything malformed is a PeerError."""
        e, index, packed = unpack(data, "unmasked", 3, MAX_BYTES)
        items = as_tuple(packed, "shares", MAX_SITES)
        shares = tuple(as_bytes(item, "a share", 0, SHARE_BYTES) for item in items)
        for share in filter(None, shares):
            check_share(share)
        return cls(as_count(e, "e"), as_index(index), shares)


def _ciphertexts(value: Value) -> tuple[bytes, ...]:
    items = as_tuple(value, "share records", MAX_SITES)
    return tuple(as_bytes(item, "a share record", 0, CIPHERTEXT_BYTES) for item in items)


def _indices(value: Value) -> tuple[int, ...]:
    indices = [as_index(item) for item in as_tuple(value, "missing shares", MAX_SITES)]
    check_ascending(indices, "missing shares")
    return tuple(indices)
