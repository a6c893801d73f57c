"""How stored values of each modality become grey values in [0, 1].

Every function takes chosen frames with their header and returns float32 of the same shape in
[0, 1], brighter meaning what a viewer shows brighter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydicom.dataset import Dataset

from fedward_client.deidentify.dates import seconds_of_day
from fedward_client.preprocess.spec import PreprocessSpec
from fedward_client.preprocess.values import Frames, Grey, between, clipped, number, physical, shown

_SHORTEST_HALF_LIFE = 60.0
"""Seconds; of the tracers in use rubidium-82 has the shortest, 75 s."""
_SMALLEST_DOSE = 1.0  # Bq, at the scan

Scaling = Callable[[Grey, PreprocessSpec], Frames]


def ct(grey: Grey, spec: PreprocessSpec) -> Frames:
    """Rescale to Hounsfield units, then the plan's window, as LINEAR_EXACT (PS3.3 C.11.2.1.3.2)."""
    low = spec.ct_center - spec.ct_width / 2
    return between(physical(grey), low, low + spec.ct_width)


def mr(grey: Grey, spec: PreprocessSpec) -> Frames:
    """Scale by the instance's own values above its minimum, the background: MR has no unit.

    Between two percentiles, or from -limit to +limit standard deviations around the mean.
    """
    if spec.mr_normalisation == "percentile":
        return _percentiles(grey.frames, spec.mr_low_percentile, spec.mr_high_percentile)
    body = _body(grey.frames)
    mean, deviation = (float(body.mean()), float(body.std())) if body.size else (0.0, 0.0)
    reach = spec.mr_zscore_limit * deviation
    return between(grey.frames, mean - reach, mean + reach)


def pet(grey: Grey, spec: PreprocessSpec) -> Frames:
    """Standardised uptake value by body weight, up to the plan's; percentiles where it is unknown.

    SUV = activity * weight / injected dose, decay-corrected to the scan when the series was not
    (QIBA FDG-PET profile; PS3.3 C.8.9.1).
    """
    activity = physical(grey)
    factor = _suv_factor(grey.header)
    if factor is None:
        return _percentiles(activity, spec.mr_low_percentile, spec.mr_high_percentile)
    return between(activity * np.float32(factor), 0.0, spec.pet_suv_max)


def counts(grey: Grey, spec: PreprocessSpec) -> Frames:
    """Nuclear medicine counts: from none to the plan's percentile of the instance's counts."""
    body = grey.frames[grey.frames > 0]
    top = float(np.percentile(body, spec.nm_high_percentile)) if body.size else 1.0
    return between(grey.frames, 0.0, top)


def presentation(grey: Grey, _: PreprocessSpec) -> Frames:
    """Radiographs and the rest: the file's own table or window, else its bit depth; the right way.

    MONOCHROME1 and an inverse presentation table both say that low values are shown bright.
    """
    header = grey.header
    inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
    inverted |= header.get("PresentationLUTShape") == "INVERSE"
    return clipped(1 - shown(grey)) if inverted else shown(grey)


def scaling_for(header: Dataset) -> Scaling:
    """Return the function for the instance's modality."""
    return _BY_MODALITY.get(str(header.get("Modality", "")), presentation)


_BY_MODALITY: dict[str, Scaling] = {"CT": ct, "MR": mr, "PT": pet, "NM": counts}


def _body(frames: Frames) -> Frames:
    return frames[frames > frames.min()] if frames.size else frames


def _percentiles(frames: Frames, low: float, high: float) -> Frames:
    body = _body(frames)
    if not body.size:
        return np.zeros_like(frames)
    bottom, top = np.percentile(body, [low, high])
    return between(frames, float(bottom), float(top))


def _suv_factor(header: Dataset) -> float | None:
    weight_kg = number(header, "PatientWeight", 0.0)
    items = header.get("RadiopharmaceuticalInformationSequence") or []
    correction = header.get("DecayCorrection")
    if header.get("Units") != "BQML" or not weight_kg or not items or correction == "NONE":
        return None
    dose = number(items[0], "RadionuclideTotalDose", 0.0)
    half_life = number(items[0], "RadionuclideHalfLife", 0.0)
    if half_life < _SHORTEST_HALF_LIFE:
        return None
    if correction == "START":
        scan = seconds_of_day(str(header.get("SeriesTime", "")))
        injection = seconds_of_day(str(items[0].get("RadiopharmaceuticalStartTime", "")))
        if scan is None or injection is None:
            return None
        dose *= 2.0 ** (-((scan - injection) % 86_400) / half_life)
    return 1000 * weight_kg / dose if dose >= _SMALLEST_DOSE else None
