"""Foreground of an image: the body by Otsu's threshold, or the lung field of a chest image.

Both are classical: no model, deterministic. Where nothing is found, everything is foreground.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from fedward_client.preprocess.spec import PreprocessSpec

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_LEAST_SHARE = 0.01
_CLOSING_SHARE = 0.04
_MARGIN_SHARE = 0.02


def keep_foreground(image: Image, spec: PreprocessSpec) -> Image:
    """Blank (0), or crop away, what is not foreground of an image (rows, columns, channels)."""
    if spec.foreground == "off":
        return image
    grey = image.mean(axis=-1)
    mask = body(grey) if spec.foreground == "otsu" else lung_field(grey)
    if spec.foreground_use == "mask":
        blanked: Image = np.where(mask[..., None], image, np.float32(0))
        return blanked
    rows, columns = _extent(mask, axis=1), _extent(mask, axis=0)
    return image[rows, columns]


def body(grey: Image) -> Mask:
    """The largest region brighter than Otsu's threshold (Otsu 1979), closed and filled.

    Closing by a disc of 4 % of the side joins a bright rim, so that the organs within are filled.
    """
    closed = _closed(grey > _threshold(grey))
    return _or_everything(_largest(ndimage.binary_fill_holes(closed), 1))


def lung_field(grey: Image) -> Mask:
    """The two largest dark regions of at least 1 % of the image that do not touch its border.

    Closed and filled likewise, so that vessels and ribs belong to the field.
    """
    dark = grey <= _threshold(grey)
    parts = _largest(ndimage.binary_opening(dark & ~_touching_border(dark)), 2)
    return _or_everything(ndimage.binary_fill_holes(_closed(parts)))


def _closed(mask: Mask) -> Mask:
    radius = max(1, round(_CLOSING_SHARE * min(mask.shape)))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = x * x + y * y <= radius * radius
    closed: Mask = ndimage.binary_closing(np.pad(mask, radius), disc)
    return closed[radius:-radius, radius:-radius]


def _threshold(grey: Image) -> float:
    flat = bool(grey.min() == grey.max())
    return float(grey.flat[0]) if flat else float(threshold_otsu(grey))  # type: ignore[no-untyped-call]


def _touching_border(mask: Mask) -> Mask:
    labels, _ = ndimage.label(mask)
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    touching: Mask = np.isin(labels, edges[edges > 0])
    return touching


def _largest(mask: Mask, count: int) -> Mask:
    labels, found = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=found + 1)[1:]
    order = np.argsort(-sizes, kind="stable")[:count]
    chosen = [int(part) + 1 for part in order if sizes[part] >= _LEAST_SHARE * mask.size]
    largest: Mask = np.isin(labels, chosen)
    return largest


def _or_everything(mask: NDArray[Any]) -> Mask:
    chosen: Mask = mask.astype(bool)
    return chosen if chosen.any() else np.ones_like(chosen)


def _extent(mask: Mask, axis: int) -> slice:
    """The rows (axis 1) or columns (axis 0) that a mask spans, with a margin of 2 % of the side."""
    used = np.flatnonzero(mask.any(axis=axis))
    side = mask.shape[1 - axis]
    margin = round(_MARGIN_SHARE * side)
    return slice(max(0, int(used[0]) - margin), min(side, int(used[-1]) + 1 + margin))
