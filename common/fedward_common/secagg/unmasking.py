"""How the masks come off a sum: seeds rebuilt from shares, streams removed (A3.5)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain

from fedward_common.errors import PeerError
from fedward_common.keys import encryption_public
from fedward_common.secagg.context import Attempt, RoundKey
from fedward_common.secagg.kdf import commitment, pair_mask_key, round_private, self_mask_key
from fedward_common.secagg.prg import Mask
from fedward_common.secagg.shamir import combine, subsets
from fedward_common.secret import SecretBytes


def matches(attempt: Attempt, key: RoundKey, seed: SecretBytes, *, survivor: bool) -> bool:
    """Say whether ``seed`` is what ``key`` announced: b_j of a survivor, else a_j."""
    if survivor:
        return commitment(seed) == key.B
    return encryption_public(round_private(seed, attempt.pre, key.index)) == key.A


def rebuild(
    attempt: Attempt, survivors: Collection[int], replies: Mapping[int, Sequence[bytes]]
) -> tuple[SecretBytes, ...]:
    """Rebuild one seed for each site of U1, in roster order.

    ``replies`` are the shares of A3.4 by holder, each in that order. A set of holders
    that gave a right seed is tried first for the next, so that wrong shares cost one search.

    Raises:
        PeerError: no set of shares gives a seed that matches its commitment.
    """
    threshold = attempt.group.threshold
    seeds: list[SecretBytes] = []
    good: tuple[int, ...] = ()
    for position, key in enumerate(attempt.keys):
        shares = {
            holder: SecretBytes(reply[position])
            for holder, reply in replies.items()
            if reply[position]
        }
        first = (good,) if good and set(good) <= set(shares) else ()
        for holders in chain(first, subsets(tuple(shares), threshold)):
            seed = combine({holder: shares[holder] for holder in holders})
            survivor = key.index in survivors
            if seed is not None and matches(attempt, key, seed, survivor=survivor):
                seeds.append(seed)
                good = holders
                break
        else:
            raise PeerError(
                f"no {threshold} of {len(shares)} shares rebuild the seed of site {key.index}"
            )
    return tuple(seeds)


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
