"""Figures from a score histogram equal scikit-learn's when there is no noise and fine bins."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from fedward_common.queries.histogram import Layout
from fedward_server.evaluation import calibration, metrics, rates

FINE = 1000
CASES = 800


def scored(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that rest on the centres of the bins, so that binning loses nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=CASES)
    logits = rng.normal(size=(CASES, classes)) + 1.2 * np.eye(classes)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return ((np.floor(scores * FINE) + 0.5) / FINE).astype(np.float32), labels


def summed(layout: Layout, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.sum([layout.vector(s, int(y)) for s, y in zip(scores, labels, strict=True)], axis=0)


def specificity(matrix: np.ndarray, chosen: list[int]) -> float:
    values = []
    for k in chosen:
        negatives = matrix.sum() - matrix[k].sum()
        values.append((negatives - (matrix[:, k].sum() - matrix[k, k])) / negatives)
    return float(np.mean(values))


@pytest.mark.parametrize("classes", [2, 4])
def test_exact_histograms_give_scikit_learns_figures(classes):
    scores, labels = scored(classes)
    layout = Layout(classes, FINE)
    found = rates(layout, summed(layout, scores, labels))
    binary = classes == 2
    decided = (scores[:, 1] >= 0.5).astype(int) if binary else scores.argmax(axis=1)
    if binary:
        area = roc_auc_score(labels, scores[:, 1])
        chosen = [1]
    else:
        # Macro average of one against the rest; sklearn wants rows that sum to one, so by class.
        area = np.mean([roc_auc_score(labels == k, scores[:, k]) for k in range(classes)])
        chosen = list(range(classes))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, decided, labels=chosen, average="macro"
    )
    matrix = confusion_matrix(labels, decided)
    assert found.auc == pytest.approx(area, abs=1e-9)
    assert found.accuracy == pytest.approx(accuracy_score(labels, decided))
    assert found.sensitivity == pytest.approx(recall)
    assert found.precision == pytest.approx(precision)
    assert found.f1 == pytest.approx(f1)
    assert found.specificity == pytest.approx(specificity(matrix, chosen))
    assert found.cases == CASES
    assert np.array_equal(layout.confusion(summed(layout, scores, labels)), matrix)


@pytest.mark.parametrize("classes", [2, 4])
def test_calibration_is_the_share_of_positives_by_predicted_probability(classes):
    scores, labels = scored(classes, 1)
    layout = Layout(classes, FINE)
    columns = [1] if classes == 2 else range(classes)
    predicted = np.concatenate([scores[:, k] for k in columns]).astype(np.float64)
    observed = np.concatenate([labels == k for k in columns])
    bins = calibration(layout, summed(layout, scores, labels))
    place = np.minimum((predicted * 10).astype(int), 9)
    filled = [i for i in range(10) if (place == i).any()]
    assert len(bins) == len(filled)
    for found, index in zip(bins, filled, strict=True):
        inside = place == index
        assert found.predicted == pytest.approx(predicted[inside].mean(), abs=1e-6)
        assert found.observed == pytest.approx(observed[inside].mean())
        assert found.share == pytest.approx(inside.mean())
    error = sum(abs(b.predicted - b.observed) * b.share for b in bins)
    found_error = rates(layout, summed(layout, scores, labels)).calibration_error
    assert found_error == pytest.approx(error)


def test_ties_count_half():
    layout = Layout(2, 2)
    same = np.tile(np.array([0.7, 0.3], dtype=np.float32), (10, 1))
    labels = np.array([0] * 5 + [1] * 5)
    assert rates(layout, summed(layout, same, labels)).auc == pytest.approx(0.5)


@pytest.mark.parametrize("classes", [2, 4])
def test_coarse_bins_stay_close(classes):
    scores, labels = scored(classes, 2)
    fine, coarse = Layout(classes, FINE), Layout(classes, 20)
    precise = rates(fine, summed(fine, scores, labels))
    rough = rates(coarse, summed(coarse, scores, labels))
    assert rough.auc == pytest.approx(precise.auc, abs=0.01)
    assert rough.accuracy == precise.accuracy


def test_uncertainty_is_the_spread_that_the_noise_makes():
    scores, labels = scored(2)
    layout = Layout(2, 20)
    total = summed(layout, scores, labels)
    rng = np.random.default_rng(5)
    deviation = 6.0
    seen = [rates(layout, total + rng.normal(0, deviation, total.shape)).auc for _ in range(300)]
    told = metrics(layout, total, deviation, ("no", "yes")).auc
    assert told.uncertainty == pytest.approx(np.std(seen), rel=0.25)
    assert told.value == rates(layout, total).auc
    exact = metrics(layout, total, 0.0, ("no", "yes"))
    assert exact.auc.uncertainty == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("fill", [0.0, -3.0, 1e12])
def test_totals_that_noise_ruined_still_give_figures(classes, fill):
    layout = Layout(classes, 10)
    found = metrics(layout, np.full(layout.dimension, fill), 2.0, tuple("abcd"[:classes]))
    for estimate in (found.auc, found.accuracy, found.f1, found.precision, found.specificity):
        assert 0.0 <= estimate.value <= 1.0
        assert estimate.uncertainty is not None
        assert np.isfinite(estimate.uncertainty)
