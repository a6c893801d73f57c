"""The drawn radiographs: form, repeatability, and that there is something to learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fedward_common.errors import OperatorError
from fedward_simulations.phantom import phantom_arrays


@pytest.mark.parametrize(("size", "classes"), [(16, 2), (28, 4), (64, 3), (150, 2)])
def test_form(size: int, classes: int) -> None:
    arrays = phantom_arrays(24, size, classes)
    assert arrays.train_images.shape == (24, size, size)
    assert arrays.train_images.dtype == np.uint8
    assert len(arrays.val_labels) == max(classes, 3)
    assert len(arrays.test_labels) == 8
    for labels in (arrays.train_labels, arrays.val_labels, arrays.test_labels):
        counts = np.bincount(labels, minlength=classes)
        assert len(counts) == classes
        assert counts.max() - counts.min() <= 1
    # A dark surround and bright bone: the whole range is used, no image is flat.
    assert arrays.train_images.min() < 40
    assert arrays.train_images.max() > 200
    assert arrays.train_images.std(axis=(1, 2)).min() > 20


def test_a_function_of_the_seed_without_repeats() -> None:
    arrays = phantom_arrays(40, 28, 2, 5)
    assert phantom_arrays(40, 28, 2, 5).digest() == arrays.digest()
    assert phantom_arrays(40, 28, 2, 6).digest() != arrays.digest()
    everything = np.concatenate([arrays.train_images, arrays.val_images, arrays.test_images])
    assert len({image.tobytes() for image in everything}) == len(everything)


def test_the_finding_can_be_learned_but_is_not_given_away() -> None:
    arrays = phantom_arrays(600, 28)
    train = arrays.train_images.reshape(600, -1) / 255.0
    test = arrays.test_images.reshape(len(arrays.test_images), -1) / 255.0
    model = LogisticRegression(C=0.02, max_iter=500).fit(train, arrays.train_labels)
    linear = roc_auc_score(arrays.test_labels, model.decision_function(test))
    assert linear > 0.75
    best_pixel = max(roc_auc_score(arrays.test_labels, column) for column in test.T[::7])
    assert best_pixel < linear
    brightness = roc_auc_score(arrays.test_labels, test.mean(axis=1))
    assert brightness < 0.75


@pytest.mark.parametrize(
    ("patients", "size", "classes", "seed"),
    [(9, 28, 2, 0), (100, 8, 2, 0), (100, 1024, 2, 0), (100, 28, 1, 0), (100, 28, 5, 0),
     (100, 28, 2, -1)],
)  # fmt: skip
def test_refuses_arguments_out_of_range(patients: int, size: int, classes: int, seed: int) -> None:
    with pytest.raises(OperatorError, match="needs"):
        phantom_arrays(patients, size, classes, seed)
