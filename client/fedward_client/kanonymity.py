"""k-anonymity of what is shown of a table (Sweeney 2002): no shown group has fewer than k members.

Cells are suppressed first, then rows. Suppression is complementary: what is hidden is never a
single small number that the total would give away. This guards tables of metadata that leave the
operator's own screen; what leaves the hospital is a private sum, and no table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedward_common.errors import MisuseError

K = 5
"""The smallest group that may be shown. Nothing lowers it."""

SUPPRESSED = "*"
"""Stands for a suppressed cell."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Groups:
    """Groups of equal rows with their sizes, none below k; ``hidden`` rows are in none of them.

    ``hidden`` is 0 or at least k; it is None if the whole table has fewer than k rows.
    """

    shown: tuple[tuple[Key, int], ...]
    hidden: int | None


def anonymous_groups(rows: Iterable[Sequence[str]], k: int = K) -> Groups:
    """Group rows of quasi-identifiers, one row a person, so that every shown group has k members.

    The rows of small groups lose their most distinguishing column, then the next, until they are
    enough; those that never are, are hidden.

    Raises:
        MisuseError: k is below K, or the rows differ in length.
    """
    if k < K:
        raise MisuseError(f"a group of {k} is too small to be shown: k is at least {K}")
    counts = Counter(tuple(row) for row in rows)
    widths = {len(key) for key in counts}
    if len(widths) > 1:
        raise MisuseError("rows of one table have equally many columns")
    total = counts.total()
    if total < k:
        return Groups((), None if total else 0)
    order = _most_distinguishing_first(counts, max(widths, default=0))
    for column in order:
        counts = _without(counts, column, k)
    hidden = counts.pop((SUPPRESSED,) * len(order), 0) if order else 0
    sizes = dict(counts)
    while 0 < hidden < k:  # a small remainder would show as the total less the groups
        hidden += sizes.pop(min(sizes, key=lambda key: (sizes[key], key)))
    return Groups(tuple(sorted(sizes.items())), hidden)


def _most_distinguishing_first(counts: Counter[Key], width: int) -> list[int]:
    values = [len({key[column] for key in counts}) for column in range(width)]
    return sorted(range(width), key=lambda column: -values[column])


def _without(counts: Counter[Key], column: int, k: int) -> Counter[Key]:
    """Suppress one column in the rows of all groups that are too small."""
    merged: Counter[Key] = Counter()
    for key, count in counts.items():
        is_small = count < k
        merged[(*key[:column], SUPPRESSED, *key[column + 1 :]) if is_small else key] += count
    return merged
