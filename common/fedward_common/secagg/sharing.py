"""Share records: one site's shares of a peer's two seeds, sealed for that one peer (A3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedward_common.codec import encode
from fedward_common.errors import PeerError
from fedward_common.keys import exchange
from fedward_common.randomness import RandomBytes
from fedward_common.secagg.context import RoundKey
from fedward_common.secagg.kdf import share_key
from fedward_common.secagg.parameters import Seat
from fedward_common.secagg.shamir import SHARE_BYTES, check_share
from fedward_common.secret import SecretBytes

NONCE_BYTES = 12
"""Length of the random AEAD nonce."""

CIPHERTEXT_BYTES = NONCE_BYTES + 2 * SHARE_BYTES + 16
"""Length of a sealed share record: nonce, two shares, AES-GCM tag."""


@dataclass(frozen=True)
class SharePair:
    """Shares of a peer's pair-mask seed ``a`` and self-mask seed ``b``, 17 bytes each.

    Both are empty where the record did not arrive or did not open.
    """

    a: SecretBytes
    b: SecretBytes

    @property
    def missing(self) -> bool:
        """True where there is no share to release."""
        return not len(self.a)


MISSING = SharePair(SecretBytes(b""), SecretBytes(b""))
"""A share record that did not arrive or did not open."""


def deal(
    seat: Seat, key: RoundKey, pairs: Sequence[SharePair], random: RandomBytes
) -> tuple[SharePair, tuple[bytes, ...]]:
    """Seal ``pairs``, one per member in roster order, for the member that each is for (A3.1).

    Returns the site's own pair, which stays, and the records, of which its own is empty.

    Raises:
        PeerError: a member's encryption key is unusable.
    """
    records: list[bytes] = []
    for j, pair in enumerate(pairs):
        if j == seat.index:
            records.append(b"")
            continue
        sealing, ad = _directed(seat, key, sender=seat.index, receiver=j)
        records.append(_seal(sealing, random(NONCE_BYTES), pair, ad))
    return pairs[seat.index], tuple(records)


def receive(seat: Seat, key: RoundKey, ciphertext: bytes) -> SharePair:
    """Open the record that the site of round key ``key`` sealed for this site.

    Returns MISSING where it does not open: a missing or undecryptable share is reported, not an
    abort (A3.1), because one hostile member must not be able to stop a round.
    """
    opening, ad = _directed(seat, key, sender=key.index, receiver=seat.index)
    return _unseal(opening, ciphertext, ad)


def _directed(
    seat: Seat, key: RoundKey, *, sender: int, receiver: int
) -> tuple[SecretBytes, bytes]:
    """Return the key of one record and what its AEAD binds it to: (pre, i, j, A_i, B_i)."""
    peer = receiver if sender == seat.index else sender
    dh = exchange(seat.keys.encryption, seat.group.members[peer].encryption)
    ad = encode((seat.pre, sender, receiver, key.A, key.B))
    return share_key(dh, seat.pre, sender, receiver, key.A), ad


def _seal(key: SecretBytes, nonce: bytes, pair: SharePair, ad: bytes) -> bytes:
    record = pair.a.reveal() + pair.b.reveal()
    return nonce + AESGCM(key.reveal()).encrypt(nonce, record, ad)


def _unseal(key: SecretBytes, ciphertext: bytes, ad: bytes) -> SharePair:
    nonce, sealed = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
    if len(ciphertext) != CIPHERTEXT_BYTES:
        return MISSING
    try:
        record = AESGCM(key.reveal()).decrypt(nonce, sealed, ad)
        a, b = record[:SHARE_BYTES], record[SHARE_BYTES:]
        check_share(a)
        check_share(b)
    except (InvalidTag, PeerError):
        return MISSING
    return SharePair(SecretBytes(a), SecretBytes(b))
