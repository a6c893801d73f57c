"""What every verifier of a round checks: a site before it acts, an auditor afterwards (A3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fedward_common.errors import PeerError
from fedward_common.secagg.context import (
    RoundKey,
    SignedAgreement,
    SignedHash,
    survivors_digest,
)
from fedward_common.secagg.parameters import Group


def check_keys(group: Group, e: int, keys: Sequence[RoundKey]) -> None:
    """Check U1, the sites in ``keys`` (distinct by construction of the messages).

    Raises:
        PeerError: a site outside the roster, a bad signature, or fewer than t_min sites.
    """
    if len(keys) < group.t_min:  # A3.2
        raise PeerError(f"U1 lists {len(keys)} sites, fewer than the plan's t_min {group.t_min}")
    for key in keys:  # A3.2: against the pinned roster
        key.verify(group, e)


def check_hashes(
    group: Group, ctx: bytes, u1: Collection[int], hashes: Sequence[SignedHash]
) -> None:
    """Check U2, the sites in ``hashes``, against the sites ``u1``.

    Raises:
        PeerError: U2 is not within U1 or below t_min, or a signature is bad.
    """
    if not {item.index for item in hashes} <= set(u1):  # A3.3
        raise PeerError("U2 lists a site that is not in U1")
    if len(hashes) < group.t_min:  # A3.3
        raise PeerError(f"U2 lists {len(hashes)} sites, fewer than the plan's t_min {group.t_min}")
    for item in hashes:  # A3.3
        item.verify(group, ctx)


def check_agreements(
    group: Group, ctx: bytes, hashes: Sequence[SignedHash], agreements: Sequence[SignedAgreement]
) -> None:
    """Check that t distinct members of U2 signed exactly the survivors in ``hashes``.

    Raises:
        PeerError: too few, a site outside U2, or a bad signature.
    """
    if len(agreements) < group.threshold:  # A3.4
        raise PeerError(f"{len(agreements)} agreements are fewer than the t = {group.threshold}")
    if not {item.index for item in agreements} <= {item.index for item in hashes}:  # A3.4
        raise PeerError("an agreement comes from a site that is not in U2")
    survivors = survivors_digest(hashes)
    for item in agreements:
        item.verify(group, ctx, survivors)
