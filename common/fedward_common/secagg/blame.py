"""Which member dealt wrong shares, as far as that can be told (A3.5).

A share that its holder calls missing, or that does not fit, is the dealer's fault or the holder's:
nobody else can tell. Of an honest dealer at most c members, the colluding ones, complain. So more
than c complaints prove a dealer wrong, and fewer prove nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from fedward_common.secagg.parameters import Group
from fedward_common.secagg.unmasking import LostSeedError

Complaints = Mapping[int, tuple[int, ...]]
"""By dealer, the members who found its share missing or wrong; only where there is one."""


def missing_shares(dealers: Iterable[int], missing: Mapping[int, Collection[int]]) -> Complaints:
    """Turn what each holder reported in A3.2 into complaints about ``dealers``."""
    told = {j: tuple(sorted(i for i in missing if j in missing[i])) for j in dealers}
    return {j: holders for j, holders in told.items() if holders}


def joined(one: Complaints, other: Complaints) -> Complaints:
    """Return the complaints of both, each holder once."""
    return {j: tuple(sorted({*one.get(j, ()), *other.get(j, ())})) for j in sorted({*one, *other})}


def to_blame(group: Group, complaints: Complaints) -> tuple[int, ...]:
    """Return the dealers of whom more than c members complain."""
    return tuple(j for j, holders in complaints.items() if len(holders) > group.colluding)


def to_blame_for(group: Group, complaints: Complaints, lost: LostSeedError) -> tuple[int, ...]:
    """Return the dealer of a lost seed, if no c lying holders could have lost an honest one's.

    All sets of t shares were tried, and t of the shares come from honest holders: of those who
    did not complain, all but the liars that are left if every complaint was one.
    """
    complaining = complaints.get(lost.dealer, ())
    liars = group.colluding - len(complaining)
    honest = len(lost.holders.difference(complaining)) - liars
    proven = liars < 0 or (lost.exhausted and honest >= group.threshold)
    return (lost.dealer,) if proven else ()
