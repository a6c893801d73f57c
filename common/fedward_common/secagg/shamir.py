"""Shamir's secret sharing of 128-bit seeds over the prime field of 2^128 + 51.

A field larger than 2^128 holds every seed as one element, so that no seed is special and nothing
is reduced; 2^128 + 51 is the smallest prime above 2^128. Source: Shamir 1979, "How to share a
secret". Coefficients are reduced from 256 bits, which leaves a bias below 2^-126.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import combinations, islice

from fedward_common.errors import MisuseError, PeerError
from fedward_common.randomness import RandomBytes
from fedward_common.secagg.kdf import SEED_BYTES
from fedward_common.secret import SecretBytes

PRIME = 2**128 + 51

SHARE_BYTES = 17
"""Length of one share: a field element, big-endian."""

MAX_SUBSETS = 2_000
"""Sets of shares that are tried before a seed counts as lost."""

_COEFFICIENT_BYTES = 32


def split(
    secret: SecretBytes, threshold: int, holders: int, random: RandomBytes
) -> tuple[SecretBytes, ...]:
    """Share ``secret`` (16 bytes) among ``holders``, any ``threshold`` of whom can rebuild it.

    Returns one share of 17 bytes per holder; that of holder i lies at x = i + 1.
    """
    if len(secret) != SEED_BYTES or not 0 < threshold <= holders:
        raise MisuseError("a secret to share must have 16 bytes, a threshold at most all holders")
    drawn = random(_COEFFICIENT_BYTES * (threshold - 1))
    coefficients = [
        int.from_bytes(drawn[i : i + _COEFFICIENT_BYTES], "big") % PRIME
        for i in range(0, len(drawn), _COEFFICIENT_BYTES)
    ]
    coefficients.append(int.from_bytes(secret.reveal(), "big"))  # the constant term, last
    return tuple(_to_share(_evaluate(coefficients, x)) for x in range(1, holders + 1))


def check_share(share: bytes) -> None:
    """Refuse bytes that are not a share.

    Raises:
        PeerError: the length is not 17, or the value is not below the prime.
    """
    if len(share) != SHARE_BYTES or int.from_bytes(share, "big") >= PRIME:
        raise PeerError(f"a share is not a field element of {SHARE_BYTES} bytes")


def combine(shares: Mapping[int, SecretBytes]) -> SecretBytes | None:
    """Rebuild a secret from exactly the threshold's number of shares, keyed by holder.

    Returns None where the shares' polynomial has no 128-bit value at zero: some share is wrong.
    """
    holders = tuple(sorted(shares))
    weights = _weights(holders)
    values = (int.from_bytes(shares[holder].reveal(), "big") for holder in holders)
    secret = sum(w * v for w, v in zip(weights, values, strict=True)) % PRIME
    if secret.bit_length() > 8 * SEED_BYTES:
        return None
    return SecretBytes(secret.to_bytes(SEED_BYTES, "big"))


def subsets(holders: Sequence[int], threshold: int) -> Iterator[tuple[int, ...]]:
    """Yield at most MAX_SUBSETS distinct sets of ``threshold`` holders to rebuild from.

    All of them where there are few; otherwise a fixed pseudo-random choice, in which wrong shares
    of some holders are avoided soonest. Nothing here needs to be unpredictable: each result is
    checked against its commitment.
    """
    ordered = sorted(holders)
    if math.comb(len(ordered), threshold) <= MAX_SUBSETS:
        yield from combinations(ordered, threshold)
        return
    yield tuple(ordered[:threshold])
    for attempt in range(1, MAX_SUBSETS):
        shuffled = sorted(ordered, key=lambda holder: sha256(b"%d %d" % (attempt, holder)).digest())
        yield tuple(sorted(islice(shuffled, threshold)))


@lru_cache(maxsize=64)
def _weights(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Return the Lagrange coefficients at zero for the points x = holder + 1.

    One set serves every secret that these holders rebuild.
    """
    weights = []
    for i in holders:
        numerator = denominator = 1
        for j in holders:
            if j != i:
                numerator = numerator * (j + 1) % PRIME
                denominator = denominator * (j - i) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in coefficients:  # Horner, from the highest power
        value = (value * x + coefficient) % PRIME
    return value


def _to_share(value: int) -> SecretBytes:
    return SecretBytes(value.to_bytes(SHARE_BYTES, "big"))
