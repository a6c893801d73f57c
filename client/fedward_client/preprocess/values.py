"""From stored values to physical ones and to what a viewer shows: tables, slopes, windows (PS3.3).

An enhanced multi-frame instance states them per frame, or once for all frames, in its functional
groups (C.7.6.16); they come before the instance's own attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Grey:
    """Chosen grey frames of an instance: float32 (n, rows, columns), and their numbers in it."""

    frames: Frames
    header: Dataset
    numbers: tuple[int, ...]


def clipped(values: NDArray[Any]) -> Frames:
    """Return values clamped to [0, 1], as float32."""
    result: Frames = np.clip(values, 0, 1).astype(np.float32)
    return result


def between(values: Frames, low: Any, high: Any) -> Frames:
    """Map [low, high] (numbers, or one per frame) to [0, 1], clamped."""
    span = np.maximum(np.asarray(high, np.float32) - np.asarray(low, np.float32), np.float32(1e-6))
    return clipped((values - np.asarray(low, np.float32)) / span)


def physical(grey: Grey) -> Frames:
    """Apply the modality table, or the rescale slope and intercept (C.11.1)."""
    tables = grey.header.get("ModalityLUTSequence")
    if tables:
        return _looked_up(grey.frames, tables[0])
    slope = _per_frame(grey, "PixelValueTransformationSequence", "RescaleSlope", 1.0)
    intercept = _per_frame(grey, "PixelValueTransformationSequence", "RescaleIntercept", 0.0)
    slope[slope == 0] = 1.0
    return grey.frames * slope + intercept


def shown(grey: Grey) -> Frames:
    """Apply the VOI table or window (C.11.2), else map all that the bit depth holds to [0, 1]."""
    tables = grey.header.get("VOILUTSequence")
    if tables:
        table = tables[0]
        return clipped(_looked_up(physical(grey), table) / ((1 << int(table.LUTDescriptor[2])) - 1))
    width = _per_frame(grey, "FrameVOILUTSequence", "WindowWidth", 0.0)
    if not (width > 0).all():
        return _by_bits(grey)
    center = _per_frame(grey, "FrameVOILUTSequence", "WindowCenter", 0.0)
    return _windowed(physical(grey), center, width, _function(grey))


def number(header: Dataset, keyword: str, default: float) -> float:
    """Return a number of the header; the first of several, ``default`` if there is none."""
    value = header.get(keyword)
    if value is None or value == "":
        return default
    if isinstance(value, str | int | float):
        return float(value)
    return float(value[0]) if len(value) else default


def _windowed(values: Frames, center: Frames, width: Frames, function: str) -> Frames:
    """PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT)."""
    if function == "SIGMOID":
        return clipped(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -80, 80))))
    if function == "LINEAR_EXACT" or not (width > 1).all():
        return between(values, center - width / 2, center + width / 2)
    low = center - 0.5 - (width - 1) / 2
    return between(values, low, low + width - 1)


def _function(grey: Grey) -> str:
    groups = (_group(grey.header, n, "FrameVOILUTSequence") for n in grey.numbers[:1])
    own = next((str(group.get("VOILUTFunction") or "") for group in groups if group), "")
    return own or str(grey.header.get("VOILUTFunction") or "LINEAR")


def _by_bits(grey: Grey) -> Frames:
    bits = int(grey.header.BitsStored)
    low = -(1 << (bits - 1)) if grey.header.PixelRepresentation == 1 else 0
    return between(grey.frames, low, low + (1 << bits) - 1)


def _looked_up(values: Frames, table: Dataset) -> Frames:
    """Apply a lookup table (C.11.1.1): values outside its range take its first or last entry."""
    entries, first = int(table.LUTDescriptor[0]), int(table.LUTDescriptor[1])
    data = table.LUTData
    if isinstance(data, bytes):
        wide = len(data) >= 2 * (entries or 65_536)
        data = np.frombuffer(data, "<u2" if wide else "u1")
    lut = np.asarray(data, dtype=np.float32)[: entries or 65_536]
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, lut.size - 1)
    return lut[index]


def _per_frame(grey: Grey, sequence: str, keyword: str, default: float) -> Frames:
    """Return an attribute of every chosen frame, shape (n, 1, 1)."""
    own = number(grey.header, keyword, default)
    values = [number(_group(grey.header, n, sequence), keyword, own) for n in grey.numbers]
    return np.array(values, dtype=np.float32)[:, None, None]


def _group(header: Dataset, frame: int, sequence: str) -> Dataset:
    """Return a functional group of a frame: its own, else the shared one, else an empty one."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for item in (*per_frame[frame : frame + 1], *shared[:1]):
        for group in item.get(sequence) or []:
            return cast("Dataset", group)
    return Dataset()
