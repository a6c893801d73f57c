"""How the masks come off a sum: seeds rebuilt from shares, streams removed (A3.5)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from fedward_common.errors import PeerError
from fedward_common.keys import encryption_public
from fedward_common.secagg.context import Attempt, RoundKey
from fedward_common.secagg.kdf import commitment, pair_mask_key, round_private, self_mask_key
from fedward_common.secagg.prg import Mask
from fedward_common.secagg.shamir import MAX_SUBSETS, combine, subsets
from fedward_common.secret import SecretBytes


def matches(attempt: Attempt, key: RoundKey, seed: SecretBytes, *, survivor: bool) -> bool:
    """Say whether ``seed`` is what ``key`` announced: b_j of a survivor, else a_j."""
    if survivor:
        return commitment(seed) == key.B
    return encryption_public(round_private(seed, attempt.pre, key.index)) == key.A


class LostSeedError(PeerError):
    """No set of the shares gives the seed that site ``dealer`` committed to.

    ``exhausted`` says that every set of t of the shares of ``holders`` was tried.
    """

    def __init__(self, dealer: int, holders: Collection[int], threshold: int) -> None:
        count = len(holders)
        super().__init__(f"no {threshold} of {count} shares rebuild the seed of site {dealer}")
        self.dealer = dealer
        self.holders = frozenset(holders)
        self.exhausted = math.comb(count, threshold) <= MAX_SUBSETS


@dataclass(frozen=True)
class Rebuilt:
    """The seeds of U1 in roster order, and by dealer the holders whose share was wrong.

    Wrong shares that were in nobody's way are not looked for.
    """

    seeds: tuple[SecretBytes, ...]
    wrong: Mapping[int, tuple[int, ...]]


def rebuild(
    attempt: Attempt, survivors: Collection[int], replies: Mapping[int, Sequence[bytes]]
) -> Rebuilt:
    """Rebuild one seed for each site of U1, in roster order.

    ``replies`` are the shares of A3.4 by holder, each in that order. A set of holders
    that gave a right seed is tried first for the next, so that wrong shares cost one search.

    Raises:
        LostSeedError: no set of shares gives a seed that matches its commitment.
    """
    threshold = attempt.group.threshold
    seeds: list[SecretBytes] = []
    wrong: dict[int, tuple[int, ...]] = {}
    good: tuple[int, ...] = ()
    for position, key in enumerate(attempt.keys):
        shares = {
            holder: SecretBytes(reply[position])
            for holder, reply in replies.items()
            if reply[position]
        }
        first = (good,) if good and set(good) <= set(shares) else ()
        for tried, holders in enumerate(chain(first, subsets(tuple(shares), threshold))):
            seed = combine({holder: shares[holder] for holder in holders})
            survivor = key.index in survivors
            if seed is not None and matches(attempt, key, seed, survivor=survivor):
                seeds.append(seed)
                good = holders
                if tried:
                    wrong[key.index] = _misfits(shares, holders, seed)
                break
        else:
            raise LostSeedError(key.index, shares, threshold)
    return Rebuilt(tuple(seeds), wrong)


def _misfits(
    shares: Mapping[int, SecretBytes], good: Sequence[int], seed: SecretBytes
) -> tuple[int, ...]:
    """The holders whose share does not lie on the polynomial of ``good``, which gives ``seed``."""
    kept = good[1:]
    return tuple(
        holder
        for holder in shares
        if holder not in good and combine({h: shares[h] for h in (*kept, holder)}) != seed
    )


def masks_to_remove(
    attempt: Attempt, survivors: Collection[int], seeds: Sequence[SecretBytes]
) -> Iterator[Mask]:
    """Yield what turns the sum of the survivors' masked addends into the sum of their addends.

    The survivors' self masks, and the pair masks that each survivor shared with each dropped
    site; those between two survivors cancel.
    """
    announced = {key.index: key.A for key in attempt.keys}
    for key, seed in zip(attempt.keys, seeds, strict=True):
        j = key.index
        if j in survivors:
            yield Mask(self_mask_key(seed, attempt.ctx, j), negative=True)
            continue
        private = round_private(seed, attempt.pre, j)
        for i in survivors:  # site i added sign(i, j) times this stream
            pair = pair_mask_key(private, announced[i], attempt.ctx, j, i)
            yield Mask(pair, negative=i < j)
