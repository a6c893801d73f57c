"""What the server publishes of a finished round, and how any member verifies it (A3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward_common.codec import encode
from fedward_common.errors import PeerError
from fedward_common.secagg.checks import check_agreements, check_hashes, check_keys
from fedward_common.secagg.context import (
    Attempt,
    RoundContext,
    RoundKey,
    SignedAgreement,
    SignedHash,
    addend_hash,
)
from fedward_common.secagg.kdf import SEED_BYTES
from fedward_common.secagg.parameters import DIGEST_BYTES, MAX_SITES, Group
from fedward_common.secagg.prg import U32, apply_masks
from fedward_common.secagg.records import (
    pack_agreement,
    pack_hash,
    pack_key,
    read_agreements,
    read_hashes,
    read_keys,
)
from fedward_common.secagg.unmasking import masks_to_remove, matches
from fedward_common.secagg.wire import (
    as_bytes,
    as_count,
    as_text,
    as_tuple,
    check_ascending,
    unpack,
)
from fedward_common.secret import SecretBytes

MAX_BYTES = 1 << 17
"""Length of a transcript: 200 sites fit."""

MAX_QUERY = 128
"""Characters in a query's name."""


@dataclass(frozen=True)
class Transcript:
    """The public record of one private sum.

    ``keys`` are the signed round keys of U1, ``hashes`` the signed hashes of U2, ``agreements``
    the signatures on U2. ``seeds`` holds, in the order of ``keys``, the b_j of a survivor and the
    a_j of a site that dropped out, 16 bytes each.
    """

    context: RoundContext
    keys: tuple[RoundKey, ...]
    hashes: tuple[SignedHash, ...]
    agreements: tuple[SignedAgreement, ...]
    seeds: tuple[bytes, ...]

    def __post_init__(self) -> None:
        check_ascending([key.index for key in self.keys], "round keys")
        check_ascending([item.index for item in self.hashes], "signed hashes")
        check_ascending([item.index for item in self.agreements], "agreements")
        as_tuple(self.seeds, "seeds", MAX_SITES, len(self.keys))

    @property
    def survivors(self) -> tuple[int, ...]:
        """U2, in roster order."""
        return tuple(item.index for item in self.hashes)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        about = self.context
        return encode(
            (
                "transcript",
                about.e,
                about.query,
                about.round_number,
                about.public_input_digest,
                tuple(pack_key(key) for key in self.keys),
                tuple(pack_hash(item) for item in self.hashes),
                tuple(pack_agreement(item) for item in self.agreements),
                self.seeds,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Transcript:
        """Read a transcript; anything malformed is a PeerError. It is not yet verified."""
        fields = unpack(data, "transcript", 8, MAX_BYTES)
        e, query, round_number, public_input, keys, hashes, agreements, seeds = fields
        context = RoundContext(
            as_count(e, "e"),
            as_text(query, "the query", MAX_QUERY),
            as_count(round_number, "the round"),
            as_bytes(public_input, "the public input's digest", DIGEST_BYTES),
        )
        return cls(
            context,
            read_keys(keys),
            read_hashes(hashes),
            read_agreements(agreements),
            tuple(as_bytes(seed, "a seed", SEED_BYTES) for seed in as_tuple(seeds, "seeds", 200)),
        )

    def verify(self, group: Group, context: RoundContext) -> Attempt:
        """Check every signature, set and seed, and return the attempt.

        ``context`` is the member's own idea of the round.

        Raises:
            PeerError: the transcript is of another round, or anything in it does not check.
        """
        if self.context != context:
            raise PeerError("the transcript is about another attempt, query, round or public input")
        check_keys(group, context.e, self.keys)
        attempt = Attempt(group, context, self.keys)
        check_hashes(group, attempt.ctx, attempt.u1, self.hashes)
        check_agreements(group, attempt.ctx, self.hashes, self.agreements)
        for key, seed in zip(self.keys, self.seeds, strict=True):
            survivor = key.index in self.survivors
            if not matches(attempt, key, SecretBytes(seed), survivor=survivor):
                raise PeerError(f"the published seed of site {key.index} is not what it announced")
        return attempt


class Recount:
    """A round's sum computed again, one served addend after another: one vector in memory (A3.5).

    ``context`` and ``dimension`` d are the member's own idea of the round.

    Raises:
        PeerError: the transcript does not verify.
    """

    def __init__(
        self, group: Group, context: RoundContext, transcript: Transcript, dimension: int
    ) -> None:
        self._attempt = transcript.verify(group, context)
        self._transcript = transcript
        self._total = np.zeros(dimension, dtype=U32)
        self._counted = 0

    @property
    def awaited(self) -> int | None:
        """The site of U2 whose addend comes next, in roster order; None after the last."""
        survivors = self._transcript.survivors
        return survivors[self._counted] if self._counted < len(survivors) else None

    @property
    def complete(self) -> bool:
        """Whether every addend of U2 was counted."""
        return self.awaited is None

    def add(self, index: int, y: bytes) -> None:
        """Count the addend of site ``index``, little-endian uint32 of shape (d,).

        Raises:
            PeerError: it is not the one awaited, of another length, or not what its site signed.
        """
        if index != self.awaited:
            raise PeerError(f"an addend of site {index} was served, not that of {self.awaited}")
        if len(y) != self._total.nbytes:
            raise PeerError(f"the served addend of site {index} has a wrong length")
        if addend_hash(y) != self._transcript.hashes[self._counted].addend_hash:
            raise PeerError(f"the served addend of site {index} is not the one it signed")
        self._total += np.frombuffer(y, dtype=U32)
        self._counted += 1

    def total(self) -> npt.NDArray[np.uint32]:
        """Return the sum of the addends of U2 without their masks, uint32 of shape (d,).

        Raises:
            PeerError: an addend of U2 was not served.
        """
        if self.awaited is not None:
            raise PeerError(f"the addend of site {self.awaited} was not served")
        total = self._total.copy()
        seeds = [SecretBytes(seed) for seed in self._transcript.seeds]
        apply_masks(total, masks_to_remove(self._attempt, self._transcript.survivors, seeds))
        return total


def verify_transcript(
    group: Group, context: RoundContext, transcript: Transcript, ys: Mapping[int, bytes]
) -> npt.NDArray[np.uint32]:
    """Verify a round from what the server published, and return its sum, uint32 of shape (d,).

    ``ys`` are the masked addends of U2 by index, as the server serves them.

    Raises:
        PeerError: the transcript does not verify, or the addends are not those that were signed.
    """
    if set(ys) != set(transcript.survivors) or len({len(y) for y in ys.values()}) != 1:
        raise PeerError("the served addends are not one of equal length for each site of U2")
    if len(next(iter(ys.values()))) % U32.itemsize:
        raise PeerError("the served addends are not whole ring elements")
    recount = Recount(group, context, transcript, len(next(iter(ys.values()))) // U32.itemsize)
    for index in transcript.survivors:
        recount.add(index, ys[index])
    return recount.total()
