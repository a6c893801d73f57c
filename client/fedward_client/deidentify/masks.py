"""Do the masks of a profile meet the images? A mask that meets none leaves pixels as they were.

A mask names a layout: a modality with its rows and columns. A wrong number in it blanks nothing and
refuses nothing, so it is told where a person looks: in the summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedward_client.deidentify.profile import Mask

Layout = tuple[str, int, int]
"""Modality, rows, columns."""

Layouts = Counter[Layout]


def unmatched(masks: Sequence[Mask], layouts: Layouts) -> tuple[str, ...]:
    """Return a sentence for every mask that met no image, and for every layout without a mask.

    ``layouts``: how many images there were of each. Layouts of a modality that no mask names need
    none; without any image nothing is said.
    """
    masked = {(mask.modality, mask.rows, mask.columns) for mask in masks}
    modalities = {modality for modality, _, _ in masked}
    bare = {one: n for one, n in layouts.items() if one[0] in modalities and one not in masked}
    unmet = sorted(masked - layouts.keys()) if layouts else []
    return (
        *(f"the mask for {_named(one)} met no image: check its numbers" for one in unmet),
        *(f"{_named(one)}: {n} images without a mask of theirs" for one, n in sorted(bare.items())),
    )


def _named(layout: Layout) -> str:
    modality, rows, columns = layout
    return f"{modality or 'no modality'} with {rows} rows and {columns} columns"
