"""Exact figures on the official test set: outside the federation, possible only in a simulation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from fedward_server.report.model import CalibrationBin, Confusion, Estimate, Metrics
from fedward_simulations.report import RocCurve

CURVE_POINTS = 200
CALIBRATION_BINS = 10

Scores = NDArray[np.float32]
Labels = NDArray[np.int64]


def auc(scores: Scores, labels: Labels) -> float:
    """Area under the ROC curve; one against the rest, macro-averaged, for three classes or more."""
    if scores.shape[1] == 2:
        return float(roc_auc_score(labels, scores[:, 1]))
    return float(roc_auc_score(labels, scores, multi_class="ovr"))


def accuracy(scores: Scores, labels: Labels) -> float:
    """Share of cases decided rightly: threshold 0.5 for two classes, else the largest score."""
    return float(accuracy_score(labels, decisions(scores)))


def decisions(scores: Scores) -> Labels:
    """Decided classes (N,) of scores (N, classes)."""
    if scores.shape[1] == 2:
        return np.asarray(scores[:, 1] >= 0.5, dtype=np.int64)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def exact_metrics(scores: Scores, labels: Labels, classes: tuple[str, ...]) -> Metrics:
    """Every figure of the report, without uncertainty."""
    decided = decisions(scores)
    binary = len(classes) == 2
    present = list(range(len(classes)))
    matrix = confusion_matrix(labels, decided, labels=present)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels,
        decided,
        labels=[1] if binary else present,
        average="macro",
        zero_division=0.0,
    )
    bins = calibration(scores, labels)
    return Metrics(
        auc=Estimate(auc(scores, labels)),
        accuracy=Estimate(accuracy(scores, labels)),
        sensitivity=Estimate(float(recall)),
        specificity=Estimate(_specificity(matrix, [1] if binary else present)),
        precision=Estimate(float(precision)),
        f1=Estimate(float(f1)),
        calibration_error=Estimate(sum(abs(b.predicted - b.observed) * b.share for b in bins)),
        cases=Estimate(float(len(labels))),
        confusion=Confusion(classes, tuple(tuple(float(x) for x in row) for row in matrix)),
        calibration=bins,
    )


def calibration(scores: Scores, labels: Labels) -> tuple[CalibrationBin, ...]:
    """Reliability of the scored classes' probabilities, in ten equal bins."""
    columns = [1] if scores.shape[1] == 2 else list(range(scores.shape[1]))
    predicted = np.concatenate([scores[:, k] for k in columns]).astype(np.float64)
    observed = np.concatenate([labels == k for k in columns]).astype(np.float64)
    place = np.minimum((predicted * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins = []
    for index in range(CALIBRATION_BINS):
        inside = place == index
        if inside.any():
            share = float(inside.mean())
            mean = float(predicted[inside].mean())
            bins.append(CalibrationBin(mean, float(observed[inside].mean()), share))
    return tuple(bins)


def roc(name: str, scores: Scores, labels: Labels, *, ours: bool = False) -> RocCurve | None:
    """A method's ROC curve, thinned for drawing; None for more than two classes."""
    if scores.shape[1] != 2:
        return None
    false_positive, true_positive, _ = roc_curve(labels, scores[:, 1])
    keep = np.unique(np.linspace(0, len(false_positive) - 1, CURVE_POINTS).astype(int))
    return RocCurve(
        name=name,
        false_positive=tuple(float(x) for x in false_positive[keep]),
        true_positive=tuple(float(x) for x in true_positive[keep]),
        auc=auc(scores, labels),
        ours=ours,
    )


def _specificity(matrix: NDArray[np.int64], columns: list[int]) -> float:
    values = []
    for k in columns:
        rest = matrix.sum() - matrix[k].sum()
        wrong = matrix[:, k].sum() - matrix[k, k]
        values.append(float((rest - wrong) / rest) if rest else 0.0)
    return float(np.mean(values))
