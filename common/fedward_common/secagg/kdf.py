"""Every key of a round, each under its own label (A3.1, A3.2, A4)."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedward_common.codec import Value, digest, encode
from fedward_common.keys import KEY_BYTES, exchange
from fedward_common.secret import SecretBytes

SEED_BYTES = 16
"""Length of the seeds a_i and b_i: 128 bits."""


def derive(secret: SecretBytes, *label: Value) -> SecretBytes:
    """Return 32 bytes of HKDF-SHA256 (RFC 5869) under ``label``, without a salt."""
    hkdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=encode(label))
    return SecretBytes(hkdf.derive(secret.reveal()))


def round_private(a: SecretBytes, pre: bytes, index: int) -> SecretBytes:
    """Expand the pair-mask seed a_i into site ``index``'s X25519 private key of the round (A3.1).

    ``pre`` and the index stand in the label so that a search over seeds cannot be amortised over
    rounds and sites.
    """
    return derive(a, "round-key", pre, index)


def commitment(b: SecretBytes) -> bytes:
    """Return B_i = H('commit', b_i) (A3.1)."""
    return digest("commit", b.reveal())


def share_key(dh: SecretBytes, pre: bytes, sender: int, receiver: int, A: bytes) -> SecretBytes:
    """Return the directed, single-use key for one share record (A3.1).

    ``dh`` is the X25519 secret of the two sites' static keys, ``A`` the sender's round key.
    """
    return derive(dh, "share", pre, sender, receiver, A)


def self_mask_key(b: SecretBytes, ctx: bytes, index: int) -> SecretBytes:
    """Return the key of the self mask of site ``index`` (A3.2)."""
    return derive(b, "self", ctx, index)


def pair_mask_key(
    private: SecretBytes, public: bytes, ctx: bytes, index: int, peer: int
) -> SecretBytes:
    """Return the key of the mask that ``index`` and ``peer`` share (A3.2).

    Both indices stand in the label: a member who signs another's round key, or an equivalent
    point, as its own would otherwise make two pairs share one mask.

    Raises:
        PeerError: ``public`` has a low order.
    """
    pair = (min(index, peer), max(index, peer))
    return derive(exchange(private, public), "pair", ctx, *pair)
