"""A patient's score must not depend on who else is scored: it falls into a bin (B2, B3)."""

from __future__ import annotations

import numpy as np
import pytest

from fedward_common.models.features import model_input_shape
from fedward_common.models.parameters import initial_parameters
from fedward_common.models.prediction import CHUNK, scores
from fedward_common.models.spec import ModelSpec

SPECS = {
    "cnn": ModelSpec(kind="cnn", input_shape=(1, 28, 28)),
    "svm": ModelSpec(kind="svm", features="scattering", input_shape=(1, 28, 28)),
    "three classes": ModelSpec(kind="cnn", input_shape=(1, 28, 28), classes=3),
}


@pytest.mark.parametrize("name", SPECS)
def test_scores_are_the_same_bits_in_any_company(name):
    spec = SPECS[name]
    draws = np.random.default_rng(0)
    inputs = draws.random((2 * CHUNK + 5, *model_input_shape(spec)), dtype=np.float32)
    parameters = initial_parameters(spec, 1)
    if not parameters.any():
        parameters = draws.normal(size=parameters.shape)
    together = scores(spec, parameters, inputs)
    for count in (1, 7, 8, CHUNK - 1, CHUNK, CHUNK + 1):
        assert np.array_equal(scores(spec, parameters, inputs[:count]), together[:count])
    order = draws.permutation(len(inputs))
    assert np.array_equal(scores(spec, parameters, inputs[order]), together[order])
