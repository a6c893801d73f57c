"""The throughput and memory of private training, beside plain torch and beside Opacus.

The workload: the model ``cnn`` of width 16 for two classes, images of one channel at 28, 64 and
224 px, one image a patient (k = 1), clip 1. ``copies`` = 1 takes every image as it is; ``copies``
= 4 draws four augmented views of each (shift, rotation, zoom, flip, intensity), as training
does. All modes see the same images, draws and passes through the model: as many views a pass as
fedward takes by default at that size. A batch is a public number of passes; each mode starts
from images and ends with one float sum per parameter:

- ``plain``: forward and backward of the summed loss, no privacy, no optimiser; ``plain-last``
  is the same with channels last in memory;
- ``fedward``: every patient's clipped gradient, float64 norms and sums, by book-keeping;
- ``opacus``, ``opacus-ew``: the same by per-sample gradients (hooks, expanded weights), norms
  and sums in float32 as Opacus' optimiser does;
- ``opacus-ghost``: two backward passes. It clips every view instead of a patient's mean.

Runs are interleaved; a figure is the CPU time of one thread, a ratio the median over repeats of
plain's time over the mode's in the same repeat. ``images_per_second`` counts views. ``site`` is
fedward's :func:`clipped_sum` from the patients on: opening the model, choosing images, drawing.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fedward_client.training.augmentation import views
from fedward_client.training.gradients import Patient, clipped_sum
from fedward_client.training.runtime import RuntimeOptions
from fedward_common.models.prediction import identity_standardisation
from fedward_common.randomness import os_random
from fedward_simulations.bench.resident import resident_peak
from fedward_simulations.bench.training_modes import (
    CLIP,
    MODES,
    Case,
    Pass,
    Step,
    make_pass,
    parameters_of,
)
from fedward_simulations.bench.versions import version_of

SIDES = (28, 64, 224)
COPIES = (1, 4)
BARS = {28: 0.44, 64: 0.55, 224: 0.55}
"""Least throughput over plain torch, by the images' side."""

REPEATS = 7
BATCH_SECONDS = 0.1
"""About what plain torch spends on a batch."""

MEMORY_PASSES = 4

SITE = "site"
"""Beside the modes: the function that a hospital runs."""


@dataclass(frozen=True)
class Measure:
    """What one mode does with one case.

    ``peak_bytes`` is the memory of a batch beyond model and images, None if it was not measured.
    """

    mode: str
    images_per_second: float
    ratio: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Result:
    """One case, all modes."""

    case: Case
    passes: int
    measures: Sequence[Measure]

    @property
    def ratios(self) -> dict[str, float]:
        """Throughput over plain torch."""
        return {measure.mode: measure.ratio for measure in self.measures}

    @property
    def meets_bar(self) -> bool:
        """Whether fedward keeps the bar and no mode of Opacus is faster."""
        peers = [ratio for mode, ratio in self.ratios.items() if mode.startswith("opacus")]
        return self.ratios["fedward"] >= max(BARS.get(self.case.side, 0.0), *peers)


def compare(
    cases: Sequence[Case], notice: Callable[[str], None], *, repeats: int = REPEATS, memory: bool
) -> list[Result]:
    """Measure every case; ``notice`` is told what runs, ``memory`` adds the peaks."""
    results = []
    for case in cases:
        notice(f"{case.side} px, {case.copies} views an image, {case.rows} images a pass")
        results.append(measure(case, repeats, memory=memory))
    return results


def measure(
    case: Case, repeats: int = REPEATS, *, passes: int | None = None, memory: bool = False
) -> Result:
    """Time every mode on ``case``; a batch has ``passes``, by default BATCH_SECONDS of them."""
    with one_thread():
        batch = [make_pass(case) for _ in range(passes or _passes_for(case))]
        runs = {name: runner(name, case, batch) for name in (*MODES, SITE)}
        for each in runs.values():
            each()  # memory is laid out, kernels are chosen
        rounds = [{name: _cpu_seconds(each) for name, each in runs.items()} for _ in range(repeats)]
    images = len(batch) * case.rows * case.copies
    measures = [
        Measure(
            mode=name,
            images_per_second=images / statistics.median(taken[name] for taken in rounds),
            ratio=statistics.median(taken["plain"] / taken[name] for taken in rounds),
            peak_bytes=peak_bytes(name, case) if memory else None,
        )
        for name in runs
    ]
    return Result(case, len(batch), measures)


def peak_bytes(mode: str, case: Case) -> int | None:
    """Return the memory of a batch of a few passes beyond model and images."""
    return resident_peak(functools.partial(prepared, mode, case), [__name__])


def prepared(mode: str, case: Case) -> Callable[[], Tensor]:
    """Return a batch of MEMORY_PASSES that only needs to be called."""
    torch.set_num_threads(1)
    return runner(mode, case, [make_pass(case) for _ in range(MEMORY_PASSES)])


def runner(mode: str, case: Case, batch: Sequence[Pass]) -> Callable[[], Tensor]:
    """Return the batch's work in ``mode``, as a call without arguments."""
    if mode == SITE:
        return functools.partial(site, case, batch)
    return functools.partial(run, MODES[mode](case), case, batch)


def document(results: Sequence[Result]) -> dict[str, Any]:
    """What ``--json`` prints: plain values only."""
    return {
        "unit": "images (views) per CPU second of one thread; bytes",
        "versions": {name: version_of(name) for name in ("torch", "opacus", "numpy")},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bars": {str(side): bar for side, bar in BARS.items()},
        "results": [
            {
                "side": result.case.side,
                "views_per_image": result.case.copies,
                "images_per_pass": result.case.rows,
                "passes": result.passes,
                "modes": [asdict(measure) for measure in result.measures],
                "meets_bar": result.meets_bar,
            }
            for result in results
        ],
    }


def run(step: Step, case: Case, batch: Sequence[Pass]) -> Tensor:
    """One batch: views, then the mode's step, pass by pass; returns the sum."""
    total = torch.zeros(())
    for part in batch:
        shown = views(part.images, part.draws, case.augmentation)
        total = total + step(shown, torch.repeat_interleave(part.labels, case.copies))
    return total


def site(case: Case, batch: Sequence[Pass]) -> Tensor:
    """The same batch through the function that a hospital runs."""
    patients = (
        Patient(image[None].numpy(), int(label))
        for part in batch
        for image, label in zip(part.images, part.labels, strict=True)
    )
    total = clipped_sum(
        case.spec,
        parameters_of(case),
        patients,
        clip=CLIP,
        images_per_patient=1,
        augmentation=case.augmentation,
        standardisation=identity_standardisation(),
        random=os_random,
        runtime=RuntimeOptions(),
    )
    return torch.from_numpy(total)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _passes_for(case: Case) -> int:
    """Passes that plain torch makes in about BATCH_SECONDS."""
    step, part = MODES["plain"](case), make_pass(case)
    run(step, case, [part])
    seconds = _cpu_seconds(functools.partial(run, step, case, [part]))
    return max(2, round(BATCH_SECONDS / seconds))


def _cpu_seconds(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began
