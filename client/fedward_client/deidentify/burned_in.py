"""Clean Pixel Data (PS3.15 E.3.1): what is written into the pixels themselves.

Nets, none of which trusts BurnedInAnnotation: ultrasound keeps only its declared regions; the
profile's masks blank what a known device writes at known places; a text finder looks at every
frame; and a trained detector, if it is installed, at every file. An image in which none of them
finds anything keeps every bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward_client.deidentify import allowlist, ocr
from fedward_client.deidentify.container import Elements
from fedward_client.deidentify.outcome import Action, Reason, RefusalError
from fedward_client.deidentify.pixels import Pixels
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.rules import tag_of
from fedward_client.deidentify.text_lines import Box
from fedward_client.deidentify.textfinder import find_small_text, find_text

MAX_PASSES = 3
"""Text is searched for again after blanking; what is still found after this is quarantined."""
MOST_BOXES = 2000
"""Different boxes of all frames of a file. What has more is a recording of pages, not an image."""

Find = Callable[[NDArray[Any]], list[Box]]

_REGIONS = tag_of("SequenceOfUltrasoundRegions")


def clean_pixels(
    pixels: Pixels, header: Elements, sop_class: str, modality: str, profile: Profile
) -> tuple[Pixels, list[Action]]:
    """Return the pixels without burned-in text, and what was done.

    Raises:
        RefusalError: the profile refuses such an image, its text cannot be blanked, or there is so
            much of it that it is a page and no image.
    """
    done: list[Action] = []
    kept = np.ones(pixels.values.shape[1:3], dtype=bool)
    if sop_class in allowlist.ULTRASOUND_CLASSES or modality == "US":
        kept = _regions(kept, header, profile)
    rectangles = _masks(pixels, modality, profile)
    if rectangles:
        done.append(Action.MASKED)
    for x0, y0, x1, y1 in rectangles:
        kept[y0:y1, x0:x1] = False
    # Text is searched for before the rest is blanked: a blank's own edges are as crisp as paint.
    pixels = _without_text(pixels, kept, profile, done)
    return _only(pixels, kept, done), done


def _regions(kept: NDArray[np.bool_], header: Elements, profile: Profile) -> NDArray[np.bool_]:
    """Return where the declared ultrasound regions are (PS3.3 C.8.5.5)."""
    _, items = header.get(_REGIONS, ("SQ", []))
    if isinstance(items, bytes) or not items:
        if profile.pixels.ultrasound_without_regions == "quarantine":
            raise RefusalError(Reason.NO_ULTRASOUND_REGIONS)
        return kept
    inside = np.zeros_like(kept)
    for item in items:
        x0, y0, x1, y1 = (
            _location(item, f"RegionLocation{end}") for end in ("MinX0", "MinY0", "MaxX1", "MaxY1")
        )
        inside[y0 : y1 + 1, x0 : x1 + 1] = True
    if not inside.any():
        raise RefusalError(Reason.NO_ULTRASOUND_REGIONS)
    return inside


def _only(pixels: Pixels, kept: NDArray[np.bool_], done: list[Action]) -> Pixels:
    """Blank everything outside the regions and inside the masks; nothing, if it is blank."""
    blank = np.broadcast_to(~kept[None, :, :, None], pixels.values.shape)
    dark = _darkest(pixels)
    if bool((pixels.values[blank] == dark).all()):
        return pixels
    if Action.MASKED not in done:
        done.append(Action.REGIONS)
    return replace(pixels, values=np.where(blank, dark, pixels.values))


def _location(item: Elements, keyword: str) -> int:
    vr, value = item.get(tag_of(keyword), ("", b""))
    if vr != "UL" or not isinstance(value, bytes):
        raise RefusalError(Reason.NO_ULTRASOUND_REGIONS)
    return int.from_bytes(value[:4], "little")


def _masks(pixels: Pixels, modality: str, profile: Profile) -> list[Box]:
    layout = (modality, *pixels.values.shape[1:3])
    return [
        rectangle
        for mask in profile.mask
        if (mask.modality, mask.rows, mask.columns) == layout
        for rectangle in mask.rectangles
    ]


def _without_text(
    pixels: Pixels, kept: NDArray[np.bool_], profile: Profile, done: list[Action]
) -> Pixels:
    """Blank text that reaches into what is kept, and search again; small text at the end.

    Small text is sought once: flow and grain look like it again and again.
    """
    if profile.pixels.text == "off":
        return pixels

    def blank(boxes: list[Box]) -> Pixels | None:
        """The pixels without what reaches into what is kept; None if nothing does."""
        found = [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes if kept[y0:y1, x0:x1].any()]
        if found and profile.pixels.text == "quarantine":
            raise RefusalError(Reason.BURNED_IN_TEXT)
        if found:
            done.append(Action.TEXT)
        return _blanked(pixels, found) if found else None

    boxes = [*_text_boxes(pixels, find_text), *_model_boxes(pixels, profile)]
    for _ in range(MAX_PASSES):
        cleaner = blank(boxes)
        if cleaner is None:
            return blank(_text_boxes(pixels, find_small_text)) or pixels
        pixels = cleaner
        boxes = _text_boxes(pixels, find_text)
    raise RefusalError(Reason.BURNED_IN_TEXT)


def _text_boxes(pixels: Pixels, find: Find) -> list[Box]:
    """Text of any frame: an overlay stays in place, so its box is blanked in all of them."""
    boxes: dict[Box, None] = {}
    for frame in pixels.values:
        for plane in _planes(frame):
            for window in _windows(plane):
                boxes.update(dict.fromkeys(find(window)))
                if len(boxes) > MOST_BOXES:
                    raise RefusalError(Reason.PAGE)
    return list(boxes)


def _planes(frame: NDArray[Any]) -> list[NDArray[Any]]:
    """The samples of a frame, each alone; one of them if it is grey."""
    planes = [frame[..., sample] for sample in range(frame.shape[-1])]
    if all(np.array_equal(plane, planes[0]) for plane in planes[1:]):
        return planes[:1]
    return planes


def _windows(plane: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The plane, and where a few extreme values leave text no contrast, its middle by itself.

    A hot pixel, a marker or padding may lie as far from the rest as 16 bits allow.
    """
    yield plane
    low, high = (float(q) for q in np.percentile(plane, (5, 95)))
    margin = 3 * max(high - low, 1.0)
    low, high = low - margin, high + margin
    if float(plane.max()) - float(plane.min()) > max(3 * (high - low), 1024.0):
        yield np.clip(plane.astype(np.float32), low, high)


def _model_boxes(pixels: Pixels, profile: Profile) -> list[Box]:
    """Text that the trained detector sees: once a file, where the brightest of all frames shows it.

    A file is judged by itself alone, never by the layout of others: their texts differ, and what
    becomes of a file must not depend on which files came before it.
    """
    wanted = profile.pixels.ocr
    if wanted == "off" or (wanted == "auto" and not ocr.is_installed()):
        return []
    return ocr.find_text_by_model(pixels.values.max(axis=(0, 3)))


def _blanked(pixels: Pixels, boxes: list[Box]) -> Pixels:
    """Fill every box, in all frames, with what the text stood on.

    That is the box's median, per sample, as strokes fill less than half of it; it leaves no bright
    or dark slab in the image.
    """
    values = pixels.values.copy()
    for x0, y0, x1, y1 in boxes:
        inside = values[:, y0:y1, x0:x1]
        inside[...] = np.median(inside, axis=(0, 1, 2)).astype(values.dtype)
    return replace(pixels, values=values)


def _darkest(pixels: Pixels) -> NDArray[Any]:
    inverted = pixels.photometric == "MONOCHROME1"
    return np.asarray(pixels.values.max() if inverted else pixels.values.min())
