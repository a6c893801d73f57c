"""A contact sheet of what was blanked in the pixels: before and after, side by side, by layout.

It is made by comparing files with what became of them, not from what the cleaner says it did. It
shows original pixels: it is for the operator's own eyes, mode 0600, and never inside the output.
Memory is bounded: of each layout a few examples are kept, small, and the rest is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from fedward_client.deidentify.decoding import PIXEL_DATA
from fedward_client.deidentify.outcome import Action, Cleaned, RefusalError
from fedward_client.deidentify.parsing import parse, silence
from fedward_client.deidentify.pixels import original_pixels

SIDE = 220
"""Longest side of a thumbnail, in pixels."""
PER_LAYOUT = 4
MAX_LAYOUTS = 24

_BLANKING = frozenset((Action.TEXT, Action.MASKED, Action.REGIONS))
_MARGIN, _LINE = 12, 22
_PAPER, _INK, _OUTLINE = (250, 250, 250), (30, 30, 30), (230, 30, 30)

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Thumbnail:
    """One file: ``before`` and ``after`` are RGB uint8 (h, w, 3), at most ``SIDE`` wide or high."""

    modality: str
    rows: int
    columns: int
    share: float
    before: Picture
    after: Picture


@dataclass
class _Layout:
    files: int = 0
    share: float = 0.0
    examples: list[Thumbnail] = field(default_factory=list)

    def add(self, thumbnail: Thumbnail) -> None:
        self.files += 1
        self.share += thumbnail.share
        if len(self.examples) < PER_LAYOUT:
            self.examples.append(thumbnail)


def thumbnail(source: bytes, cleaned: Cleaned) -> Thumbnail | None:
    """Compare a file with its clean version; None if no pixel was blanked.

    The frame in which most was blanked is shown; outlines are drawn around what was blanked.
    """
    if not any(tag == PIXEL_DATA and action in _BLANKING for tag, action in cleaned.log):
        return None
    try:
        with silence():
            before = original_pixels(parse(source)).values
            after = original_pixels(parse(cleaned.data)).values
    except RefusalError:
        return None
    if before.shape != after.shape:
        return None
    blanked = (before != after).any(axis=-1)
    frame = int(np.argmax(blanked.sum(axis=(1, 2))))
    low, high = float(before[frame].min()), float(before[frame].max())
    step = max(1, -(-max(before.shape[1:3]) // SIDE))
    return Thumbnail(
        modality=cleaned.modality or "unknown",
        rows=before.shape[1],
        columns=before.shape[2],
        share=float(blanked.mean()),
        before=_outlined(_shown(before[frame], low, high, step), blanked[frame], step),
        after=_shown(after[frame], low, high, step),
    )


def contact_sheet(items: Iterable[Thumbnail | None]) -> bytes:
    """Return a PNG of the files with blanked pixels, one row of examples a layout, with counts.

    A layout is a modality with its rows and columns. ``items`` is consumed one by one.
    """
    layouts: dict[tuple[str, int, int], _Layout] = {}
    beyond = 0
    for item in items:
        if item is None:
            continue
        key = (item.modality, item.rows, item.columns)
        if key not in layouts and len(layouts) == MAX_LAYOUTS:
            beyond += 1
            continue
        layouts.setdefault(key, _Layout()).add(item)
    return _drawn(layouts, beyond)


def _drawn(layouts: dict[tuple[str, int, int], _Layout], beyond: int) -> bytes:
    titles = [
        f"{modality} {rows} x {columns}: {_count(layout.files)} with blanked pixels, "
        f"{100 * layout.share / layout.files:.1f} % of the pixels on average"
        for (modality, rows, columns), layout in layouts.items()
    ] or ["No pixel was blanked."]
    heights = [
        _LINE + max(t.before.shape[0] for t in layout.examples) + _MARGIN
        for layout in layouts.values()
    ] or [_LINE]
    width = 2 * _MARGIN + PER_LAYOUT * (2 * SIDE + 4 + _MARGIN)
    height = 2 * _MARGIN + 2 * _LINE + sum(heights)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    heading = "Blanked pixels, before | after. Shows original pixels: for the operator only."
    if beyond:
        heading += f" {_count(beyond)} of further layouts not shown."
    draw.text((_MARGIN, _MARGIN), heading, fill=_OUTLINE, font=font)
    top = _MARGIN + 2 * _LINE
    for title, layout, high in zip(titles, [*layouts.values(), None], heights, strict=False):
        draw.text((_MARGIN, top), title, fill=_INK, font=font)
        for index, example in enumerate(layout.examples if layout else ()):
            left = _MARGIN + index * (2 * SIDE + 4 + _MARGIN)
            sheet.paste(Image.fromarray(example.before), (left, top + _LINE))
            beside = left + example.before.shape[1] + 4
            sheet.paste(Image.fromarray(example.after), (beside, top + _LINE))
        top += high
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _count(files: int) -> str:
    return "1 file" if files == 1 else f"{files} files"


def _shown(frame: NDArray[Any], low: float, high: float, step: int) -> Picture:
    """A frame (rows, columns, samples) as RGB, every pixel the mean of a block of ``step``."""
    grey = (frame.astype(np.float32) - low) * (255 / max(high - low, 1e-9))
    rows, columns = (-(-side // step) * step for side in grey.shape[:2])
    padded = np.pad(
        grey, ((0, rows - grey.shape[0]), (0, columns - grey.shape[1]), (0, 0)), mode="edge"
    )
    blocks = padded.reshape(rows // step, step, columns // step, step, -1).mean(axis=(1, 3))
    picture: Picture = np.broadcast_to(blocks, (*blocks.shape[:2], 3)).clip(0, 255).astype(np.uint8)
    return picture


def _outlined(picture: Picture, blanked: NDArray[np.bool_], step: int) -> Picture:
    """Draw a rectangle around each connected blanked area of the full-size frame."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    closed = ndimage.binary_dilation(blanked, iterations=max(2, step))
    labels, _ = ndimage.label(closed)
    for rows, columns in ndimage.find_objects(labels):
        box = (columns.start // step, rows.start // step, columns.stop // step, rows.stop // step)
        draw.rectangle(box, outline=_OUTLINE)
    return np.asarray(image)
