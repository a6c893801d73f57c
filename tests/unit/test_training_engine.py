"""The book-keeping engine: equal to Opacus and to float64, whatever the layers and the batch."""

from __future__ import annotations

import copy
import gc
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fedward_client.training.augmentation import DRAWS, Augmentation, draw, views
from fedward_client.training.blocks import Dense, Gradients, Outer
from fedward_client.training.bookkeeping import BookKeeping, knows
from fedward_client.training.engines import engine_for, open_engine
from fedward_client.training.gradients import Patient, clipped_sum
from fedward_client.training.per_sample import PerSample
from fedward_client.training.runtime import RuntimeOptions
from fedward_common.errors import MisuseError, OperatorError
from fedward_common.models.features import model_input_shape
from fedward_common.models.losses import per_image_loss
from fedward_common.models.networks import build
from fedward_common.models.parameters import initial_parameters, load_flat, parameter_count
from fedward_common.models.prediction import identity_standardisation
from fedward_common.models.spec import ModelSpec

G = 2.0**-18
SPECS = {
    "cnn": ModelSpec(kind="cnn", input_shape=(1, 28, 28)),
    "cnn-64": ModelSpec(kind="cnn", input_shape=(3, 64, 64), classes=3, width=8),
    "cnn-classic": ModelSpec(kind="cnn-classic", input_shape=(1, 28, 28), classes=3),
    "cnn-maps": ModelSpec(kind="cnn", features="scattering", width=8, input_shape=(1, 28, 28)),
    "svm": ModelSpec(kind="svm", input_shape=(6,), features="columns", classes=4),
}
MOVED = Augmentation(copies=3, shift=0.1, rotation=15, zoom=0.2, flip=True, intensity=0.3)
STILL = Augmentation()


def bytes_from(seed: int):
    rng = np.random.default_rng(seed)
    return rng.bytes


def squares(outputs, labels):
    """A loss of each row alone, for networks of any output."""
    return (outputs - labels[:, None]).square().sum(dim=1)


class Residual(nn.Module):
    """A block that is no chain, to show that books do not depend on one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return inputs + self.inner(inputs)


@st.composite
def networks(draw):
    """A network on (N, 2, 9, 9) of some depth, kernels, strides, norms, pools and biases.

    In float64, so that another order of operations shows as nothing.
    """
    torch.manual_seed(draw(st.integers(0, 2**31)))

    def pick(*options):
        return draw(st.sampled_from(options))

    def perhaps():
        return draw(st.booleans())

    channels, side, layers = 2, 9, []
    for _ in range(draw(st.integers(1, 3))):
        out, kernel, stride, padding = pick(2, 4), pick(1, 3), pick(1, 2), pick(0, 1)
        if side + 2 * padding < kernel:
            break
        bias = perhaps()
        layers.append(nn.Conv2d(channels, out, kernel, stride, padding, bias=bias))
        channels, side = out, (side + 2 * padding - kernel) // stride + 1
        if side > 1 and perhaps():
            layers.append(nn.GroupNorm(pick(1, 2), channels))
        layers.append(pick(nn.Tanh(), nn.ReLU(), nn.Softplus()))
        if perhaps():
            inner = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
            layers.append(Residual(nn.Sequential(inner, nn.Tanh())))
    if perhaps():
        side = min(side, 2)
        layers.append(nn.AdaptiveAvgPool2d(side))
    layers += [nn.Flatten(), nn.Linear(channels * side**2, 5, bias=perhaps())]
    if perhaps():
        layers += [nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*layers).double()


@given(networks(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_every_images_gradient_is_that_of_opacus(network, images, copies, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(images * copies, 2, 9, 9, generator=generator).double()
    labels = torch.randint(0, 3, (images * copies,), generator=generator)
    theirs = PerSample(copy.deepcopy(network), squares, functorch=False).gradients(
        inputs, labels, copies
    )
    assert knows(network)
    ours = BookKeeping(network, squares).gradients(inputs, labels, copies)
    expected, got = theirs.vectors(), ours.vectors()
    assert got.shape == expected.shape
    assert got.dtype == torch.float64
    assert ((got - expected).norm(dim=1) <= 1e-9 * (1 + expected.norm(dim=1))).all()


@given(networks(), st.integers(1, 5), st.integers(1, 3), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_norms_and_sums_are_those_of_the_vectors_in_double_precision(network, images, copies, clip):
    inputs = torch.randn(images * copies, 2, 9, 9, generator=torch.Generator().manual_seed(images))
    labels = torch.zeros(images * copies, dtype=torch.int64)
    gradients = BookKeeping(network.float(), squares).gradients(inputs, labels, copies)
    vectors = gradients.vectors()
    assert torch.allclose(gradients.norms(), vectors.norm(dim=1), rtol=1e-12, atol=1e-300)
    factors = torch.linspace(0.1, 1, images, dtype=torch.float64)
    expected = factors @ vectors
    error = (gradients.weighted_sum(factors) - expected).norm()
    assert error <= 1e-13 * vectors.norm(dim=1).sum()
    shrunk = vectors * torch.clamp(clip / vectors.norm(dim=1, keepdim=True), max=1)
    assert (gradients.clipped_sum(clip) - shrunk.sum(dim=0)).norm() <= 1e-12 * clip * images
    part = gradients.first(1)
    assert torch.equal(part.vectors(), vectors[:1])


def some_parameters(spec: ModelSpec) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=parameter_count(spec))
    return initial_parameters(spec, 5) + 0.1 * noise


def some_patients(spec: ModelSpec, counts, seed: int = 0) -> list[Patient]:
    rng = np.random.default_rng(seed)
    return [
        Patient(
            rng.random((count, *model_input_shape(spec)), dtype=np.float32),
            int(rng.integers(spec.classes)),
        )
        for count in counts
    ]


def summed(spec: ModelSpec, batch, seed: int = 3, **changes) -> np.ndarray:
    arguments = {
        "parameters": some_parameters(spec),
        "clip": 1.0,
        "images_per_patient": 4,
        "augmentation": STILL,
        "standardisation": identity_standardisation(),
        "random": bytes_from(seed),
        "runtime": RuntimeOptions(micro_batch=12),
    } | changes
    return clipped_sum(spec, arguments.pop("parameters"), batch, **arguments)


@given(
    name=st.sampled_from(sorted(SPECS)),
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    most=st.integers(1, 3),
    moved=st.booleans(),
    micro_batch=st.sampled_from([1, 4, 7, None]),
    clip=st.sampled_from([1e-3, 0.5, 1e6]),
)
@settings(max_examples=25, deadline=None)
def test_the_clipped_sum_is_that_of_opacus(name, counts, most, moved, micro_batch, clip):
    spec = SPECS[name]
    batch = some_patients(spec, counts)
    augmentation = MOVED if moved and spec.features is None else STILL
    changes = {"clip": clip, "images_per_patient": most, "augmentation": augmentation}
    both = [
        summed(spec, batch, runtime=RuntimeOptions(engine=engine, micro_batch=size), **changes)
        for engine, size in (("fedward", micro_batch), ("opacus", 8))
    ]
    assert np.linalg.norm(both[0] - both[1]) <= 2e-5 * min(clip * len(batch), 100.0)


def in_double(spec: ModelSpec, patient: Patient) -> np.ndarray:
    """One patient's mean gradient with every operation in float64, by plain autograd."""
    module = build(spec)
    load_flat(module, some_parameters(spec))
    module.double()
    inputs = torch.from_numpy(patient.inputs).double()
    labels = torch.full((len(inputs),), patient.label)
    per_image_loss(spec)(module(inputs), labels).mean().backward()
    return np.concatenate([value.grad.numpy().ravel() for value in module.parameters()])


@pytest.mark.parametrize("share", [0.3, 1.1])
@pytest.mark.parametrize("name", SPECS)
def test_the_error_of_norms_and_sums_is_within_the_plans_slack(name, share):
    """B3: g is 2^-18 times the largest batch; the model itself is in float32."""
    spec = SPECS[name]
    batch = some_patients(spec, [1] * 12)
    vectors = [in_double(spec, patient) for patient in batch]
    norms = np.array([np.linalg.norm(vector) for vector in vectors])
    clip = share * float(np.median(norms))
    exact = sum(v * min(1, clip / norm) for v, norm in zip(vectors, norms, strict=True))
    got = summed(spec, batch, clip=clip)
    assert np.linalg.norm(got - exact) <= G * len(batch) * clip
    single = RuntimeOptions(micro_batch=1)
    alone = [summed(spec, [patient], clip=1e9, runtime=single) for patient in batch]
    assert (np.abs(np.linalg.norm(alone, axis=1) - norms) <= G * norms).all()
    without = summed(spec, batch[:5] + batch[6:], clip=clip)
    assert np.linalg.norm(got - without) <= clip * (1 + G)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200, 3e38, -1e30])
@pytest.mark.parametrize("place", [0, 20, -1])
@pytest.mark.parametrize("name", SPECS)
def test_a_hostile_model_gives_the_sum_that_opacus_gives(name, place, value):
    spec = SPECS[name]
    parameters = some_parameters(spec)
    parameters[place] = value
    batch = some_patients(spec, [1, 3, 1])
    ours, theirs = (
        summed(
            spec, batch, parameters=parameters, runtime=RuntimeOptions(engine=engine, micro_batch=4)
        )
        for engine in ("fedward", "opacus")
    )
    assert np.isfinite(ours).all()
    assert np.linalg.norm(ours) <= 3 * (1 + G)
    # With channels last, as ours has them, torch's group norm of maps of 7 x 7 overflows earlier.
    overflows = name == "cnn-maps" and place >= 0 and 1e19 < abs(value) < 1e39
    assert overflows or np.linalg.norm(ours - theirs) <= 1e-4


def test_a_patient_whose_gradient_is_not_finite_leaves_the_others_as_they_are():
    spec = SPECS["cnn"]
    clean, (broken,) = some_patients(spec, [1] * 5), some_patients(spec, [1], seed=9)
    broken.inputs[0, 0, 5, 5] = np.nan
    alone = summed(spec, [broken])
    together = summed(spec, [*clean[:2], broken, *clean[2:]])
    assert np.linalg.norm(together - alone - summed(spec, clean)) <= G
    assert np.isfinite(together).all()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 3, dilation=2),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.InstanceNorm2d(2, affine=True),
    ],
    ids=repr,
)
def test_opacus_trains_what_no_rule_knows(layer):
    network = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2))
    inputs, labels = torch.rand(4, 2, 8, 8), torch.zeros(4, dtype=torch.int64)
    network(inputs)
    expected = []
    for row in inputs:
        network.zero_grad()
        squares(network(row[None]), labels[:1]).sum().backward()
        expected.append(torch.cat([value.grad.flatten() for value in network.parameters()]))
    assert not knows(network)
    engine = engine_for(network, squares, "fedward")
    assert isinstance(engine, PerSample)
    got = engine.gradients(inputs, labels, 2).vectors()
    means = torch.stack(expected).double().view(2, 2, -1).mean(dim=1)
    assert torch.allclose(got, means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_ours_trains_every_model_of_a_plan(name):
    spec = SPECS[name]
    engine = open_engine(spec, some_parameters(spec), RuntimeOptions())
    assert isinstance(engine, BookKeeping)


class Twice(nn.Module):
    """A layer that one pass uses twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, inputs):
        return self.inner(self.inner(inputs).tanh())


def test_a_layer_that_is_shared_is_left_to_opacus():
    shared, tied = nn.Linear(3, 3), nn.Linear(3, 3)
    tied.weight = shared.weight
    assert knows(nn.Sequential(shared, nn.Tanh(), nn.Linear(3, 3)))
    assert not knows(nn.Sequential(shared, nn.Tanh(), shared))
    assert not knows(nn.Sequential(shared, nn.Tanh(), tied))


def test_a_layer_that_is_used_twice_or_not_at_all_is_refused():
    inputs, labels = torch.rand(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(MisuseError, match="twice"):
        BookKeeping(Twice(), squares).gradients(inputs, labels, 1)
    idle = Residual(nn.Linear(3, 3))
    idle.idle = nn.Linear(3, 3)
    with pytest.raises(MisuseError, match="does not reach"):
        BookKeeping(idle, squares).gradients(inputs, labels, 1)


def test_an_outer_product_is_its_own_vectors():
    block = Outer.of(torch.randn(4, 3), torch.randn(4, 5))
    dense = Dense(block.vectors())
    factors = torch.rand(4, dtype=torch.float64)
    assert torch.allclose(block.squared_norms(), dense.squared_norms(), rtol=1e-13)
    assert torch.allclose(block.weighted_sum(factors), dense.weighted_sum(factors), rtol=1e-12)
    assert torch.equal(block.first(2).vectors(), dense.vectors()[:2])


def test_an_overflow_of_squares_is_no_overflow_of_the_norm():
    gradients = Gradients([Dense(torch.full((1, 4), 3e38)), Outer.of(*torch.full((2, 1, 2), 3e38))])
    assert torch.isfinite(gradients.norms()).all()
    assert gradients.clipped_sum(1.0).norm() == pytest.approx(1)


def by_affine_grid(images, draws, augmentation):
    """The views as torch's own affine sampling defines them."""
    repeated = torch.repeat_interleave(images, augmentation.copies, dim=0)
    maps = []
    for row in draws.tolist():
        angle = row[0] * math.radians(augmentation.rotation)
        wide, high = (1 + value * augmentation.zoom for value in row[1:3])
        right, down = (2 * value * augmentation.shift for value in row[3:5])
        mirror = -1 if augmentation.flip and row[5] < 0 else 1
        cos, sin = math.cos(angle), math.sin(angle)
        maps.append(
            [[mirror * cos * wide, -sin * high, right], [mirror * sin * wide, cos * high, down]]
        )
    grid = functional.affine_grid(torch.tensor(maps), list(repeated.shape), align_corners=False)
    moved = functional.grid_sample(repeated, grid, padding_mode="border", align_corners=False)
    factor = 1 + draws[:, 6] * augmentation.intensity
    return (
        moved * factor[:, None, None, None]
        + (draws[:, 7] * augmentation.intensity)[:, None, None, None]
    )


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
    st.integers(0, 2**31),
    st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_views_are_affine_samples_of_their_image(images, copies, channels, seed, flip):
    augmentation = Augmentation(
        copies=copies, shift=0.2, rotation=40, zoom=0.3, flip=flip, intensity=0.2
    )
    inputs = torch.rand(images, channels, 16, 20, generator=torch.Generator().manual_seed(seed))
    draws = torch.from_numpy(draw(images * copies, bytes_from(seed)))
    assert draws.shape == (images * copies, DRAWS)
    got = views(inputs, draws, augmentation)
    assert torch.allclose(got, by_affine_grid(inputs, draws, augmentation), atol=2e-5)


def most_held() -> int:
    """The process' largest resident size since the last reset, in bytes (proc(5))."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.parametrize("engine", ["fedward", "opacus"])
def test_memory_is_bounded_by_the_micro_batch(engine):
    spec = SPECS["cnn-64"]
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)

    def peak(patients: int) -> int:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the mark
        batch = (Patient(image.copy(), 1) for _ in range(patients))
        runtime = RuntimeOptions(micro_batch=8, engine=engine)
        summed(spec, batch, runtime=runtime, augmentation=MOVED)
        return most_held()

    peak(8)
    few, many = peak(8), peak(160)
    one_vector_each = 8 * parameter_count(spec) * 152
    assert many - few < 0.25 * one_vector_each + 2**20


def test_a_pass_holds_as_many_views_as_the_size_of_an_image_allows():
    sizes = [RuntimeOptions().views_per_pass(values) for values in (10, 28**2, 64**2, 3 * 224**2)]
    assert sizes == [256, 83, 16, 1]
    assert RuntimeOptions(micro_batch=7).views_per_pass(10**9) == 7


def test_an_unknown_engine_is_the_operators_mistake():
    with pytest.raises(
        OperatorError, match=r"runtime.engine: 'fast' is not one of fedward, opacus"
    ):
        RuntimeOptions(engine="fast")
