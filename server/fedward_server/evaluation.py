"""AUC, accuracy, F1 and calibration from one noised score histogram: post-processing, free.

Uncertainty is the privacy noise's alone: the noise of the sum is public in distribution, so it is
drawn again around the published histogram and each figure's spread is reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward_common.queries.histogram import Layout
from fedward_server.report.model import CalibrationBin, Confusion, Estimate, Metrics

Vector = NDArray[np.float64]
DRAWS = 200
SMALLEST = 1e-9
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Rates:
    """Macro averages over the scored classes."""

    auc: float
    accuracy: float
    sensitivity: float
    specificity: float
    precision: float
    f1: float
    calibration_error: float
    cases: float


def metrics(
    layout: Layout, total: Vector, noise_deviation: float, classes: tuple[str, ...]
) -> Metrics:
    """Figures with their uncertainty from a decoded sum ``(layout.dimension,)``.

    ``noise_deviation`` is the standard deviation of the sum's noise per coordinate, in patients.
    """
    point = rates(layout, total)
    draws = np.random.default_rng(0)  # public post-processing: no secret depends on it
    spread = [
        rates(layout, total + draws.normal(0.0, noise_deviation, total.shape)) for _ in range(DRAWS)
    ]

    def estimate(pick: Callable[[Rates], float]) -> Estimate:
        deviation = float(np.std([pick(sample) for sample in spread]))
        return Estimate(pick(point), deviation)

    confusion = tuple(tuple(float(x) for x in row) for row in layout.confusion(total))
    return Metrics(
        auc=estimate(lambda r: r.auc),
        accuracy=estimate(lambda r: r.accuracy),
        sensitivity=estimate(lambda r: r.sensitivity),
        specificity=estimate(lambda r: r.specificity),
        precision=estimate(lambda r: r.precision),
        f1=estimate(lambda r: r.f1),
        calibration_error=estimate(lambda r: r.calibration_error),
        cases=estimate(lambda r: r.cases),
        confusion=Confusion(classes, confusion),
        calibration=calibration(layout, total),
    )


def rates(layout: Layout, total: Vector) -> Rates:
    """Point figures. Negative noised counts stay as they are: clipping them would bias sums."""
    histograms = layout.histograms(total)
    confusion = layout.confusion(total)
    cases = max(float(histograms[0].sum()), 1.0)
    aucs = [_auc(absent, present) for absent, present in histograms]
    per_class = [_one_against_rest(confusion, k) for k in _scored_classes(layout)]
    sensitivity, specificity, precision, f1 = (
        float(np.mean(x)) for x in zip(*per_class, strict=True)
    )
    bins = calibration(layout, total)
    error = sum(abs(b.predicted - b.observed) * b.share for b in bins)
    return Rates(
        auc=float(np.mean(aucs)),
        accuracy=_share(float(np.trace(confusion)), float(confusion.sum())),
        sensitivity=sensitivity,
        specificity=specificity,
        precision=precision,
        f1=f1,
        calibration_error=error,
        cases=cases,
    )


def calibration(layout: Layout, total: Vector) -> tuple[CalibrationBin, ...]:
    """Predicted probability against observed frequency, pooled over the scored classes."""
    absent, present = layout.histograms(total).sum(axis=0)
    edges = np.linspace(0, layout.bins, min(CALIBRATION_BINS, layout.bins) + 1).astype(int)
    centres = (np.arange(layout.bins) + 0.5) / layout.bins
    everything = max(float(absent.sum() + present.sum()), 1.0)
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = np.maximum(absent[low:high] + present[low:high], 0.0)
        if inside.sum() < 1.0:
            continue
        predicted = float((centres[low:high] * inside).sum() / inside.sum())
        observed = _share(float(present[low:high].sum()), float(inside.sum()))
        bins.append(CalibrationBin(predicted, observed, float(inside.sum()) / everything))
    return tuple(bins)


def _auc(absent: Vector, present: Vector) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative) + ties / 2."""
    below = np.cumsum(absent) - absent
    wins = float((present * (below + absent / 2.0)).sum())
    return _share(wins, float(absent.sum() * present.sum()))


def _scored_classes(layout: Layout) -> list[int]:
    return [1] if layout.classes == 2 else list(range(layout.classes))


def _one_against_rest(confusion: Vector, cls: int) -> tuple[float, float, float, float]:
    hit = float(confusion[cls, cls])
    actual = float(confusion[cls].sum())
    decided = float(confusion[:, cls].sum())
    rest = float(confusion.sum()) - actual
    sensitivity = _share(hit, actual)
    specificity = _share(rest - (decided - hit), rest)
    precision = _share(hit, decided)
    return sensitivity, specificity, precision, _share(2 * hit, actual + decided)


def _share(part: float, whole: float) -> float:
    return min(max(part / whole, 0.0), 1.0) if whole > SMALLEST else 0.0
