"""A hospital's gradient addend: one clipped vector per patient, summed (PROTOCOL B1, B3).

Abadi et al. 2016, "Deep learning with differential privacy", Algorithm 1, with the patient as
the unit. A batch's images pass through the model in micro-batches of one fixed shape; a
patient's vector is clipped and added once the last of the patient's images has passed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedward_client.training.augmentation import (
    DRAWS,
    VIEW_BYTES,
    Augmentation,
    uniform,
    views,
)
from fedward_client.training.blocks import Dense, Gradients
from fedward_client.training.engines import GradientEngine, open_engine
from fedward_client.training.runtime import RuntimeOptions
from fedward_common.errors import MisuseError
from fedward_common.models.features import model_input_shape
from fedward_common.models.prediction import Standardisation
from fedward_common.models.spec import ModelSpec
from fedward_common.randomness import RandomBytes


@dataclass(frozen=True, slots=True)
class Patient:
    """One sampled patient: model inputs float32 (m, *shape), m >= 1, and a class index."""

    inputs: NDArray[np.float32]
    label: int


@dataclass(frozen=True, slots=True)
class _Row:
    """One image of a batch, its share of its patient's mean, and what its views are made of."""

    image: NDArray[np.float32]
    label: int
    share: float
    first: bool
    last: bool
    drawn: bytes


def clipped_sum(
    spec: ModelSpec,
    parameters: NDArray[np.float64],
    batch: Iterable[Patient],
    *,
    clip: float,
    images_per_patient: int,
    augmentation: Augmentation,
    standardisation: Standardisation,
    random: RandomBytes,
    runtime: RuntimeOptions,
) -> NDArray[np.float64]:
    """Return the sum over patients of their gradient clipped to norm ``clip``, float64 (d,).

    A patient's vector is the mean gradient over at most ``images_per_patient`` of the patient's
    images and ``augmentation.copies`` views of each; entries that are not finite become zero;
    norm, factor min(1, clip / norm) and sums are float64. An empty batch gives zeros. Nothing
    that depends on the data or on ``parameters`` raises (B2).

    Args:
        spec: The model.
        parameters: The round's public input, float64 (d,).
        batch: The sampled patients, read once and one at a time.
        clip: C, in units of the loss' gradient.
        images_per_patient: k of the plan.
        augmentation: Views of the plan; must change nothing if the model sees fixed features.
        standardisation: Public constants applied before the views.
        random: Chooses images and views.
        runtime: Local performance options.
    """
    if clip <= 0 or images_per_patient < 1:
        raise MisuseError("clip and images_per_patient must be positive")
    if spec.features is not None and (augmentation.changes_images or augmentation.copies > 1):
        raise MisuseError("features are fixed: the augmentation must change nothing")
    values = math.prod(model_input_shape(spec))
    rows = max(1, runtime.views_per_pass(values) // augmentation.copies)
    images = _rows(batch, images_per_patient, augmentation.copies, random)
    with _settings(runtime):
        engine = open_engine(spec, parameters, runtime)
        device = runtime.torch_device
        passing = _Passing(spec, engine, augmentation, standardisation, rows, device)
        patients = _Patients(len(parameters), clip)
        while chunk := list(itertools.islice(images, rows)):
            patients.add(chunk, passing.gradients(chunk))
    return patients.total.numpy()


class _Patients:
    """The sum of the clipped patients so far, and the one whom the last chunk's end divided."""

    def __init__(self, dimension: int, clip: float) -> None:
        self.total = torch.zeros(dimension, dtype=torch.float64)
        self._clip = clip
        self._open = torch.zeros_like(self.total)

    def add(self, chunk: Sequence[_Row], images: Gradients) -> None:
        """Add the patients who end in ``chunk``, given its images' gradients."""
        if all(row.first and row.last for row in chunk):  # an image is a patient
            self.total += images.clipped_sum(self._clip).cpu()
            return
        vectors = _by_patient(chunk, images.vectors().cpu(), self._open)
        closed = len(vectors) if chunk[-1].last else len(vectors) - 1
        self.total += Gradients([Dense(vectors[:closed])]).clipped_sum(self._clip)
        self._open = torch.zeros_like(self.total) if chunk[-1].last else vectors[-1]


@dataclass(frozen=True, slots=True)
class _Passing:
    """The way of up to ``rows`` images through views and model."""

    spec: ModelSpec
    engine: GradientEngine
    augmentation: Augmentation
    standardisation: Standardisation
    rows: int
    device: str

    def gradients(self, chunk: Sequence[_Row]) -> Gradients:
        """Return each image's gradient, the mean over its views."""
        copies = self.augmentation.copies
        inputs, labels, draws = (
            tensor.to(self.device) for tensor in _padded(chunk, self.rows, self.spec, copies)
        )
        shown = views(self.standardisation.apply(inputs), draws, self.augmentation)
        every = self.engine.gradients(shown, torch.repeat_interleave(labels, copies), copies)
        return every.first(len(chunk))


def _rows(batch: Iterable[Patient], most: int, copies: int, random: RandomBytes) -> Iterator[_Row]:
    """The images of the batch in order; a patient's draws are taken together."""
    for patient in batch:
        chosen = _choose(len(patient.inputs), most, random)
        size = copies * VIEW_BYTES
        drawn = random(len(chosen) * size)
        for position, index in enumerate(chosen):
            yield _Row(
                image=patient.inputs[index],
                label=patient.label,
                share=1.0 / len(chosen),
                first=position == 0,
                last=position == len(chosen) - 1,
                drawn=drawn[position * size : (position + 1) * size],
            )


def _choose(count: int, most: int, random: RandomBytes) -> Sequence[int]:
    """A uniformly random subset of at most ``most`` of ``count`` indices, ascending."""
    if count <= most:
        return range(count)
    keys = np.frombuffer(random(8 * count), dtype="<u8")
    return sorted(int(index) for index in np.argsort(keys)[:most])


def _padded(
    chunk: Sequence[_Row], rows: int, spec: ModelSpec, copies: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One fixed shape whatever the chunk's length: its kernels are the same for every patient."""
    inputs = np.zeros((rows, *model_input_shape(spec)), dtype=np.float32)
    labels = np.zeros(rows, dtype=np.int64)
    draws = np.zeros((rows * copies, DRAWS), dtype=np.float32)
    for position, row in enumerate(chunk):
        inputs[position], labels[position] = row.image, row.label
    draws[: len(chunk) * copies] = uniform(b"".join(row.drawn for row in chunk))
    return torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(draws)


def _by_patient(chunk: Sequence[_Row], means: Tensor, pending: Tensor) -> Tensor:
    """Sum rows into patients, float64 (patients, d); ``pending`` opens the first one's sum."""
    owners = np.cumsum([row.first for row in chunk]) - int(chunk[0].first)
    shares = torch.tensor([row.share for row in chunk], dtype=torch.float64)
    vectors = torch.zeros((int(owners[-1]) + 1, len(pending)), dtype=torch.float64)
    vectors[0] = pending
    return vectors.index_add_(0, torch.from_numpy(owners), means * shares[:, None])


@contextmanager
def _settings(runtime: RuntimeOptions) -> Iterator[None]:
    """Settings of the whole process while gradients are computed: threads, and exact kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(runtime.threads)
    try:
        # On a GPU: the same sums each time, and no products of ten bits.
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)
