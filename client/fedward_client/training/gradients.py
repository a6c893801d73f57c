"""A hospital's gradient addend: one clipped vector per patient, summed (PROTOCOL B1, B3).

Abadi et al. 2016, "Deep learning with differential privacy", Algorithm 1, with the patient as
the unit. A batch's images pass through the model in micro-batches of one fixed shape; a
patient's vector is clipped and added once the last of the patient's images has passed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedward_client.training.augmentation import DRAWS, Augmentation, draw, views
from fedward_client.training.per_sample import PerSample
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
    draws: NDArray[np.float32]


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
        augmentation: Views of the plan; must change nothing for an ``svm``.
        standardisation: Public constants applied before the views.
        random: Chooses images and views.
        runtime: Local performance options.
    """
    if clip <= 0 or images_per_patient < 1:
        raise MisuseError("clip and images_per_patient must be positive")
    if spec.kind == "svm" and (augmentation.changes_images or augmentation.copies > 1):
        raise MisuseError("an svm's features are fixed: its augmentation must change nothing")
    rows = max(1, runtime.micro_batch // augmentation.copies)
    stream = _rows(batch, images_per_patient, augmentation.copies, random)
    total = torch.zeros(parameters.shape, dtype=torch.float64)
    pending = torch.zeros_like(total)  # the open sum of a patient whom a chunk's end divides
    with _threads(runtime.threads):
        model = PerSample(spec, parameters, device=runtime.device, engine=runtime.engine)
        passing = _Passing(spec, model, augmentation, standardisation, rows, runtime.device)
        while chunk := list(itertools.islice(stream, rows)):
            vectors = _by_patient(chunk, passing.means(chunk), pending)
            closed = len(vectors) if chunk[-1].last else len(vectors) - 1
            total += _clipped(vectors[:closed], clip).sum(dim=0)
            pending = torch.zeros_like(total) if chunk[-1].last else vectors[-1]
    return total.numpy()


@dataclass(frozen=True, slots=True)
class _Passing:
    """The way of up to ``rows`` images through views and model."""

    spec: ModelSpec
    model: PerSample
    augmentation: Augmentation
    standardisation: Standardisation
    rows: int
    device: str

    def means(self, chunk: Sequence[_Row]) -> Tensor:
        """Return each image's gradient, the mean over its views, float64 (len(chunk), d)."""
        copies = self.augmentation.copies
        inputs, labels, draws = (
            tensor.to(self.device) for tensor in _padded(chunk, self.rows, self.spec, copies)
        )
        shown = views(self.standardisation.apply(inputs), draws, self.augmentation)
        gradients = self.model.gradients(shown, torch.repeat_interleave(labels, copies))
        means = gradients.view(self.rows, copies, -1)[: len(chunk)].mean(dim=1)
        return means.cpu().to(torch.float64)


def _rows(batch: Iterable[Patient], most: int, copies: int, random: RandomBytes) -> Iterator[_Row]:
    """The images of the batch in order; a patient's draws are taken together."""
    for patient in batch:
        chosen = _choose(len(patient.inputs), most, random)
        draws = draw(len(chosen) * copies, random).reshape(len(chosen), copies, DRAWS)
        for position, index in enumerate(chosen):
            yield _Row(
                image=patient.inputs[index],
                label=patient.label,
                share=1.0 / len(chosen),
                first=position == 0,
                last=position == len(chosen) - 1,
                draws=draws[position],
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
    draws = np.zeros((rows, copies, DRAWS), dtype=np.float32)
    for position, row in enumerate(chunk):
        inputs[position], labels[position], draws[position] = row.image, row.label, row.draws
    flat = draws.reshape(rows * copies, DRAWS)
    return torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(flat)


def _by_patient(chunk: Sequence[_Row], means: Tensor, pending: Tensor) -> Tensor:
    """Sum rows into patients, float64 (patients, d); ``pending`` opens the first one's sum."""
    owners = np.cumsum([row.first for row in chunk]) - int(chunk[0].first)
    shares = torch.tensor([row.share for row in chunk], dtype=torch.float64)
    vectors = torch.zeros((int(owners[-1]) + 1, len(pending)), dtype=torch.float64)
    vectors[0] = pending
    return vectors.index_add_(0, torch.from_numpy(owners), means * shares[:, None])


def _clipped(vectors: Tensor, clip: float) -> Tensor:
    """Patients' float64 (P, d) vectors, made finite (B1), each scaled to norm at most ``clip``."""
    finite = torch.nan_to_num(vectors, nan=0.0, posinf=0.0, neginf=0.0)
    norms = torch.linalg.vector_norm(finite, dim=1, keepdim=True)
    return finite * torch.clamp(clip / norms, max=1.0)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run with ``count`` torch threads, a setting of the whole process, then restore it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
