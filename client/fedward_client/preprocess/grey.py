"""How stored values of each modality become grey values in [0, 1].

Every function takes float32 frames (frames, rows, columns) and the instance's header, and returns
float32 of the same shape in [0, 1], brighter meaning what a viewer shows brighter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from fedward_client.preprocess.spec import PreprocessSpec

Frames = NDArray[np.float32]
Scaling = Callable[[Frames, Dataset, PreprocessSpec], Frames]

SUV_MAX = 10.0
"""Standardised uptake shown as white: clinical displays use 7 to 10 g/ml."""


def ct(frames: Frames, header: Dataset, spec: PreprocessSpec) -> Frames:
    """Rescale to Hounsfield units, then the plan's window (PS3.3 C.11.2.1.2)."""
    low = spec.ct_center - spec.ct_width / 2
    return _between(_rescaled(frames, header), low, low + spec.ct_width)


def mr(frames: Frames, _: Dataset, spec: PreprocessSpec) -> Frames:
    """Scale between two percentiles of the instance's own non-zero values (MR has no unit)."""
    return _percentiles(frames, spec.mr_low_percentile, spec.mr_high_percentile)


def pet(frames: Frames, header: Dataset, spec: PreprocessSpec) -> Frames:
    """Standardised uptake value by body weight, 0 to 10; percentiles where dose or weight lack.

    SUV = activity * weight / injected dose, decay-corrected to the scan when the series was not
    (QIBA FDG-PET profile; PS3.3 C.8.9.1).
    """
    activity = _rescaled(frames, header)
    factor = _suv_factor(header)
    if factor is None:
        return _percentiles(activity, spec.mr_low_percentile, spec.mr_high_percentile)
    return _between(activity * np.float32(factor), 0.0, SUV_MAX)


def counts(frames: Frames, _: Dataset, __: PreprocessSpec) -> Frames:
    """Nuclear medicine counts: from none to the largest of the instance."""
    return _between(frames, 0.0, float(frames.max(initial=1)))


def presentation(frames: Frames, header: Dataset, _: PreprocessSpec) -> Frames:
    """Radiographs and the rest: the file's own window, else its bit depth; MONOCHROME1 inverted."""
    window = _window(header)
    scaled = (
        _linear_window(_rescaled(frames, header), *window)
        if window is not None
        else _by_bits(frames, header)
    )
    inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
    return clipped(1 - scaled) if inverted else scaled


def clipped(values: NDArray[Any]) -> Frames:
    """Return values clamped to [0, 1], as float32."""
    result: Frames = np.clip(values, 0, 1).astype(np.float32)
    return result


def scaling_for(header: Dataset) -> Scaling:
    """Return the function for the instance's modality."""
    return _BY_MODALITY.get(str(header.get("Modality", "")), presentation)


_BY_MODALITY: dict[str, Scaling] = {"CT": ct, "MR": mr, "PT": pet, "NM": counts}


def _rescaled(frames: Frames, header: Dataset) -> Frames:
    slope = _number(header, "RescaleSlope", 1.0)
    intercept = _number(header, "RescaleIntercept", 0.0)
    return frames * np.float32(slope or 1.0) + np.float32(intercept)


def _between(values: Frames, low: float, high: float) -> Frames:
    span = np.float32(max(high - low, 1e-6))
    return clipped((values - np.float32(low)) / span)


def _percentiles(frames: Frames, low: float, high: float) -> Frames:
    body = frames[frames > frames.min()] if frames.size else frames
    if not body.size:
        return np.zeros_like(frames)
    bottom, top = np.percentile(body, [low, high])
    return _between(frames, float(bottom), float(top))


def _window(header: Dataset) -> tuple[float, float] | None:
    width = _number(header, "WindowWidth", 0.0)
    return (_number(header, "WindowCenter", 0.0), width) if width > 1 else None


def _linear_window(values: Frames, center: float, width: float) -> Frames:
    """PS3.3 C.11.2.1.2.1: f(x) = (x - (c - 0.5)) / (w - 1) + 0.5, clamped to [0, 1]."""
    low = center - 0.5 - (width - 1) / 2
    return _between(values, low, low + width - 1)


def _by_bits(frames: Frames, header: Dataset) -> Frames:
    bits = int(header.BitsStored)
    low = -(1 << (bits - 1)) if header.PixelRepresentation == 1 else 0
    return _between(frames, low, low + (1 << bits) - 1)


def _suv_factor(header: Dataset) -> float | None:
    weight_kg = _number(header, "PatientWeight", 0.0)
    items = header.get("RadiopharmaceuticalInformationSequence") or []
    if header.get("Units") != "BQML" or not weight_kg or not items:
        return None
    dose = _number(items[0], "RadionuclideTotalDose", 0.0)
    half_life = _number(items[0], "RadionuclideHalfLife", 0.0)
    if not dose or not half_life:
        return None
    if header.get("DecayCorrection") == "START":
        elapsed = _seconds(header, "SeriesTime") - _seconds(
            items[0], "RadiopharmaceuticalStartTime"
        )
        dose *= 2.0 ** (-(elapsed % 86_400) / half_life)
    return 1000 * weight_kg / dose


def _seconds(header: Dataset, keyword: str) -> float:
    text = str(header.get(keyword) or "000000")
    return int(text[:2]) * 3600 + int(text[2:4] or 0) * 60 + float(text[4:] or 0)


def _number(header: Dataset, keyword: str, default: float) -> float:
    value = header.get(keyword)
    if value is None or value == "":
        return default
    if isinstance(value, str | int | float):
        return float(value)
    return float(value[0]) if len(value) else default
