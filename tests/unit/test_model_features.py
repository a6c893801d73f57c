"""Properties of the fixed feature maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_common.models.features import feature_map
from fedward_common.models.scattering import MARGIN, PATHS, SCALES, scatter
from fedward_common.models.spec import ModelSpec


def texture(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Images in [0, 1] with natural, 1/f spectra: float32 (count, side, side)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    spectrum = np.fft.fft2(rng.normal(size=(count, side, side))) / np.maximum(frequency, 1 / side)
    plain = np.fft.ifft2(spectrum).real
    low, high = plain.min(axis=(1, 2), keepdims=True), plain.max(axis=(1, 2), keepdims=True)
    return ((plain - low) / (high - low)).astype(np.float32)


@pytest.mark.parametrize("side", [28, 37, 55])
def test_scattering_has_the_paths_and_grid_of_the_definition(side):
    result = scatter(torch.from_numpy(texture(2, side)))
    assert result.shape == (2, PATHS, -(-side // 2**SCALES), -(-side // 2**SCALES))
    assert torch.isfinite(result).all()


def test_a_constant_image_has_only_order_zero():
    result = scatter(torch.full((1, 28, 28), 0.7))
    assert torch.allclose(result[:, 0], torch.tensor(0.7), atol=1e-5)
    assert result[:, 1:].abs().max() < 1e-5


def test_orders_are_homogeneous_and_nonnegative():
    images = torch.from_numpy(texture(2, 28))
    assert torch.allclose(scatter(3 * images), 3 * scatter(images), rtol=1e-4, atol=1e-6)
    assert (scatter(images)[:, 1:] > -1e-7).all()


@given(st.integers(0, 2**32), st.floats(0.01, 1.0))
@settings(max_examples=15, deadline=None)
def test_scattering_is_non_expansive(seed, distance):
    """Subsampling by 4 in each axis leaves at most the padded images' energy (Mallat 2012)."""
    rng = np.random.default_rng(seed)
    first = torch.from_numpy(texture(1, 28, seed))
    second = first + distance * torch.from_numpy(rng.normal(size=(1, 28, 28)).astype(np.float32))
    pad = torch.nn.ReflectionPad2d(MARGIN)
    energy = float((pad(first[None]) - pad(second[None])).square().sum())
    assert float((scatter(first) - scatter(second)).square().sum()) <= energy


def test_scattering_moves_less_than_the_image_under_a_shift():
    images = texture(8, 40)
    here, there = (torch.from_numpy(images[:, 6:34, start : start + 28]) for start in (6, 7))
    moved = (here - there).square().sum() / (here - here.mean()).square().sum()
    vectors = [scatter(part)[:, 1:] for part in (here, there)]
    feature_move = (vectors[0] - vectors[1]).square().sum() / vectors[0].square().sum()
    assert feature_move < 0.5 * moved


def test_an_oriented_wave_excites_its_own_angle():
    rows = torch.arange(28.0)
    wave = torch.cos(0.75 * torch.pi * rows)[None, :].expand(28, 28)[None]
    first_order = scatter(wave)[0, 1:9].mean(dim=(1, 2))
    assert int(first_order.argmax()) == 0
    assert first_order[0] > 5 * first_order[4]
    turned = scatter(wave.transpose(1, 2))[0, 1:9].mean(dim=(1, 2))
    assert int(turned.argmax()) == 4


@pytest.mark.parametrize("features", ["scattering", "hog"])
@pytest.mark.parametrize("side", [28, 64, 128, 224])
def test_feature_vectors_are_bounded_by_public_constants(features, side):
    spec = ModelSpec(kind="svm", features=features, input_shape=(1, side, side))
    vectors = feature_map(spec)(texture(4, side)[:, None])
    norms = np.linalg.norm(vectors, axis=1)
    assert (norms > 0.05).all()
    assert (norms < 2).all()


@pytest.mark.parametrize("features", ["scattering", "hog"])
def test_a_vector_does_not_depend_on_its_neighbours_and_channels_stay_apart(features):
    gray = ModelSpec(kind="svm", features=features, input_shape=(1, 28, 28))
    colour = ModelSpec(kind="svm", features=features, input_shape=(3, 28, 28))
    images = texture(9, 28).reshape(3, 3, 28, 28)
    together = feature_map(colour)(images)
    alone = feature_map(colour)(images[1:2])
    assert np.allclose(together[1], alone[0], atol=1e-6)
    planes = feature_map(gray)(images[1][:, None]).ravel() / np.sqrt(3)
    assert np.allclose(alone[0], planes, atol=1e-6)


def test_columns_and_networks_pass_unchanged():
    rows = np.random.default_rng(0).random((5, 7), dtype=np.float32)
    spec = ModelSpec(kind="svm", features="columns", input_shape=(7,))
    assert np.array_equal(feature_map(spec)(rows), rows)
    images = texture(2, 28)[:, None]
    network = ModelSpec(kind="cnn", input_shape=(1, 28, 28))
    assert np.array_equal(feature_map(network)(images), images)
