"""Shapes, parameters, losses and scores of the models."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from fedward_common.errors import MisuseError, OperatorError
from fedward_common.models.features import feature_map, model_input_shape
from fedward_common.models.gabor import GRID, gabor_filters
from fedward_common.models.losses import per_image_loss
from fedward_common.models.networks import build
from fedward_common.models.parameters import (
    from_tensors,
    initial_parameters,
    layout,
    load_flat,
    parameter_count,
    to_tensors,
)
from fedward_common.models.prediction import Standardisation, outputs, scores
from fedward_common.models.spec import ModelSpec

VECTORS = Path(__file__).parents[1] / "vectors" / "initial_parameters.json"
SIDES = (28, 64, 128, 224)


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("channels", "classes"), list(itertools.product((1, 3), (2, 5))))
@pytest.mark.parametrize("kind", ["cnn", "cnn-classic"])
def test_networks_score_every_size(kind, side, channels, classes):
    spec = ModelSpec(kind=kind, input_shape=(channels, side, side), classes=classes)
    parameters = initial_parameters(spec, 1)
    assert parameters.shape == (parameter_count(spec),)
    result = scores(spec, parameters, images(2, channels, side, side))
    assert result.shape == (2, classes)
    assert result.dtype == np.float32
    assert np.allclose(result.sum(axis=1), 1, atol=1e-6)
    assert not np.array_equal(result[0], result[1])


@pytest.mark.parametrize("features", ["scattering", "hog"])
@pytest.mark.parametrize(("side", "channels", "classes"), [(28, 1, 2), (64, 3, 5), (224, 1, 5)])
def test_svms_score_every_size(features, side, channels, classes):
    spec = ModelSpec(
        kind="svm", features=features, input_shape=(channels, side, side), classes=classes
    )
    vectors = feature_map(spec)(images(3, channels, side, side))
    assert vectors.shape == (3, *model_input_shape(spec))
    assert vectors.dtype == np.float32
    parameters = np.random.default_rng(0).normal(size=parameter_count(spec))
    assert scores(spec, parameters, vectors).shape == (3, classes)


@pytest.mark.parametrize(
    ("side", "channels", "classes", "grid"), [(28, 1, 2, 7), (55, 1, 2, 14), (224, 3, 5, 7)]
)
def test_a_cnn_on_scattering_scores_every_size(side, channels, classes, grid):
    spec = ModelSpec(
        kind="cnn",
        features="scattering",
        width=4,
        input_shape=(channels, side, side),
        classes=classes,
    )
    maps = feature_map(spec)(images(3, channels, side, side))
    assert maps.shape == (3, 81 * channels, grid, grid) == (3, *model_input_shape(spec))
    assert maps.dtype == np.float32
    result = scores(spec, initial_parameters(spec, 1), maps)
    assert result.shape == (3, classes)
    assert not np.array_equal(result[0], result[1])


def test_maps_average_to_the_vector_that_an_svm_sees():
    shape = (1, 28, 28)
    shown = images(2, *shape)
    maps = feature_map(ModelSpec(kind="cnn", features="scattering", input_shape=shape))(shown)
    vectors = feature_map(ModelSpec(kind="svm", features="scattering", input_shape=shape))(shown)
    averaged = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps), 4).flatten(1)
    assert np.allclose(averaged / np.sqrt(averaged.shape[1]), vectors, atol=1e-6)


def test_small_network_stays_small_at_any_size():
    counts = [parameter_count(ModelSpec(kind="cnn", input_shape=(1, s, s))) for s in SIDES]
    assert counts == [5665, 14977, 24289, 33601]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"kind": "resnet"}, ["model.kind"]),
        ({"classes": 1, "width": 6}, ["model.classes", "model.width"]),
        ({"input_shape": (1, 27, 27)}, ["model.input_shape"]),
        ({"input_shape": (1, 28, 32)}, ["model.input_shape"]),
        ({"input_shape": (2, 28, 28)}, ["model.input_shape"]),
        ({"input_shape": (30,)}, ["model.input_shape"]),
        ({"features": "hog"}, ["model.features"]),
        ({"kind": "cnn-classic", "features": "scattering"}, ["model.features"]),
        ({"kind": "svm"}, ["model.features"]),
        ({"kind": "svm", "features": "columns"}, ["model.input_shape"]),
        ({"multiclass": "dag"}, ["model.multiclass"]),
    ],
)
def test_a_bad_spec_names_every_field(changes, names):
    fields = {"kind": "cnn", "input_shape": (1, 28, 28)} | changes
    with pytest.raises(OperatorError) as caught:
        ModelSpec(**fields)
    assert all(name in str(caught.value) for name in names)


def vector_specs() -> dict[str, ModelSpec]:
    return {
        "cnn-28": ModelSpec(kind="cnn", input_shape=(1, 28, 28)),
        "cnn-224-colour-5": ModelSpec(kind="cnn", input_shape=(3, 224, 224), classes=5),
        "cnn-scattering-28": ModelSpec(
            kind="cnn", input_shape=(1, 28, 28), features="scattering", width=4
        ),
        "cnn-classic-28": ModelSpec(kind="cnn-classic", input_shape=(1, 28, 28)),
        "svm-columns-3": ModelSpec(kind="svm", input_shape=(4,), features="columns", classes=3),
    }


def test_initial_parameters_match_the_vectors():
    """Regenerate with: python tests/unit/test_models.py > tests/vectors/initial_parameters.json."""
    assert json.loads(VECTORS.read_text()) == vectors()


def vectors() -> list[dict[str, object]]:
    cases: list[dict[str, object]] = []
    for (name, spec), seed in itertools.product(vector_specs().items(), (0, 2**63 + 5)):
        values = initial_parameters(spec, seed)
        picked = [0, 1, len(values) // 2, len(values) - 2]
        cases.append(
            {
                "model": name,
                "seed": seed,
                "length": len(values),
                "at": {str(index): float(values[index]).hex() for index in picked},
            }
        )
    return cases


def test_initial_parameters_depend_on_the_seed_and_refuse_bad_ones():
    spec = ModelSpec(kind="cnn", input_shape=(1, 28, 28))
    assert not np.array_equal(initial_parameters(spec, 0), initial_parameters(spec, 1))
    with pytest.raises(OperatorError):
        initial_parameters(spec, -1)


@pytest.mark.parametrize(("width", "channels", "side"), [(4, 1, 28), (16, 1, 28), (64, 3, 224)])
def test_a_cnn_starts_from_gabor_filters_whatever_the_seed(width, channels, side):
    spec = ModelSpec(kind="cnn", input_shape=(channels, side, side), width=width)
    first, second = (
        to_tensors(spec, initial_parameters(spec, seed))["conv0.weight"] for seed in (0, 1)
    )
    assert np.array_equal(first, second)
    assert np.allclose(first.sum(axis=(2, 3)), 0, atol=1e-5)
    assert np.allclose((first**2).sum(axis=(1, 2, 3)), 1, atol=1e-5)
    even, odd = np.split(first, 2)
    turned = first[:, :, ::-1, ::-1]  # by half a turn
    assert np.allclose(np.split(turned, 2)[0], even, atol=1e-6)
    assert np.allclose(np.split(turned, 2)[1], -odd, atol=1e-6)
    # Every filter differs from every other: orientations and phases, not copies.
    flat = first.reshape(width, -1)
    overlap = np.abs(flat @ flat.T) - np.eye(width)
    assert overlap.max() < 0.999


def test_gabor_filters_see_their_own_orientation():
    filters = gabor_filters(16, 1, 5)[:, 0]
    columns = np.arange(5) - 2.0
    stripes = np.tile(np.cos(2 * np.pi * columns / 5), (5, 1))  # upright: angle 0
    answers = np.abs((filters * stripes).sum(axis=(1, 2)))
    assert answers.argmax() == 0
    assert answers[4] < answers[0] / 4  # a quarter turn
    assert answers[8] < 1e-6  # odd against even


def test_gabor_filters_do_not_depend_on_last_bits():
    """All values lie on a grid far coarser than what libraries of mathematics differ by."""
    filters = gabor_filters(16, 3, 5)
    assert np.array_equal(filters / GRID, np.round(filters / GRID))


def test_flat_order_is_the_modules_own():
    spec = ModelSpec(kind="cnn", input_shape=(1, 28, 28), classes=3)
    module = build(spec)
    load_flat(module, np.arange(parameter_count(spec), dtype=np.float64))
    start = 0
    for name, shape in layout(spec):
        value = dict(module.named_parameters())[name].detach().numpy()
        assert value.shape == shape
        assert value.ravel().tolist() == list(range(start, start + value.size))
        start += value.size
    with pytest.raises(MisuseError):
        load_flat(module, np.zeros(3))


@pytest.mark.parametrize("name", vector_specs())
def test_prediction_survives_a_safetensors_round_trip(name):
    spec = vector_specs()[name]
    count = parameter_count(spec)
    parameters = initial_parameters(spec, 7) + np.random.default_rng(2).normal(size=count)
    restored = from_tensors(spec, load(save(to_tensors(spec, parameters))))
    assert np.array_equal(restored, parameters)
    inputs = images(3, *model_input_shape(spec))
    assert np.array_equal(scores(spec, parameters, inputs), scores(spec, restored, inputs))


def test_another_models_tensors_are_refused():
    spec = ModelSpec(kind="cnn", input_shape=(1, 28, 28))
    tensors = to_tensors(spec, initial_parameters(spec, 0))
    other = ModelSpec(kind="cnn", input_shape=(1, 28, 28), classes=4)
    with pytest.raises(OperatorError, match=r"head\.weight"):
        from_tensors(other, tensors)
    with pytest.raises(OperatorError, match="missing"):
        from_tensors(spec, {k: v for k, v in tensors.items() if k != "conv0.bias"})
    with pytest.raises(OperatorError, match=r"conv0\.bias"):
        from_tensors(spec, tensors | {"conv0.bias": np.full(16, np.nan)})


@given(st.integers(0, 2**32), st.sampled_from(["ovr", "crammer-singer"]))
@settings(max_examples=25, deadline=None)
def test_hinges_equal_their_definitions(seed, multiclass):
    rng = np.random.default_rng(seed)
    margins, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    spec = ModelSpec(
        kind="svm", input_shape=(4,), features="columns", classes=4, multiclass=multiclass
    )
    got = per_image_loss(spec)(torch.from_numpy(margins), torch.from_numpy(labels)).numpy()
    for row, label, value in zip(margins, labels, got, strict=True):
        rest = [m for index, m in enumerate(row) if index != label]
        if multiclass == "ovr":
            expected = max(0, 1 - row[label]) + sum(max(0, 1 + m) for m in rest)
        else:
            expected = max(0, 1 + max(rest) - row[label])
        assert value == pytest.approx(expected)


def test_two_classes_share_one_margin():
    spec = ModelSpec(kind="svm", input_shape=(2,), features="columns")
    parameters = np.array([1.0, -1.0, 0.5])  # margin = x0 - x1 + 0.5
    inputs = np.array([[0.0, 0.5], [3.0, 0.0], [0.0, 3.0]], dtype=np.float32)
    got = scores(spec, parameters, inputs)
    assert got[0].tolist() == [0.5, 0.5]
    assert got[1, 1] > 0.99
    assert got[2, 1] < 0.01
    loss = per_image_loss(spec)(torch.tensor([[0.0], [0.3]]), torch.tensor([1, 0]))
    assert loss.tolist() == pytest.approx([1.0, 1.3])


def test_standardisation_is_applied_per_channel_before_the_model():
    spec = ModelSpec(kind="cnn", input_shape=(3, 28, 28))
    parameters, inputs = initial_parameters(spec, 0), images(2, 3, 28, 28)
    constants = Standardisation(np.array([0.1, 0.2, 0.3]), np.array([0.5, 1.0, 2.0]))
    by_hand = (inputs - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 1, 2])[
        :, None, None
    ]
    expected = scores(spec, parameters, by_hand.astype(np.float32))
    assert np.allclose(scores(spec, parameters, inputs, constants), expected, atol=1e-5)
    assert not np.allclose(scores(spec, parameters, inputs), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("mean", "scale"), [([0.0], [0.0]), ([0.0, 1.0], [1.0]), ([np.nan], [1.0]), ([0.0], [np.inf])]
)
def test_a_bad_standardisation_is_misuse(mean, scale):
    with pytest.raises(MisuseError):
        Standardisation(np.array(mean), np.array(scale))


def test_scores_of_no_inputs_and_of_many_chunks():
    spec = ModelSpec(kind="svm", input_shape=(3,), features="columns", classes=3)
    parameters = np.random.default_rng(0).normal(size=parameter_count(spec))
    inputs = images(600, 3)
    whole = scores(spec, parameters, inputs)
    one_by_one = np.concatenate([scores(spec, parameters, row[None]) for row in inputs[::97]])
    assert np.allclose(whole[::97], one_by_one, atol=1e-6)
    assert scores(spec, parameters, inputs[:0]).shape == (0, 3)
    raw = outputs(spec, parameters, inputs[:5], Standardisation(np.zeros(1), np.ones(1)))
    assert np.array_equal(raw.argmax(axis=1), whole[:5].argmax(axis=1))


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
