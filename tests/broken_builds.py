"""Builds with one wrong part each, composed from the product's own functions (B8).

A door is what computes a site's addend. These are the doors that an audit must refuse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedward_client.addend import addend, grid_sum, site_noise, vector_sum
from fedward_common.privacy.noise import discrete_gaussian
from fedward_common.privacy.sampling import choose
from fedward_common.secagg.ring import wrap
from fedward_simulations.randomness import SeededStream


def door(study, task, progress, cohort, random, runtime, *, sampled=None, clipped=None, noise=None):
    """The product's door, or the same with another task for the vectors or other noise."""
    vectors = replace(task, **(sampled or {}), **(clipped or {}))
    total = vector_sum(study, vectors, progress, cohort, random, runtime)
    added = site_noise(study, task, random) if noise is None else noise(study, task, random)
    return wrap(grid_sum(task, total, random) + added)


def weak_noise(*arguments):
    """As if every site's noise could count on the others': noise / sqrt 8."""

    def noise(study, task, random):
        sigma = study.mechanism(task).site_sigma / math.sqrt(8)
        return discrete_gaussian(sigma, task.dimension, random)

    return door(*arguments, noise=noise)


def long_clip(study, task, *arguments):
    """Vectors four times as long as the noise is made for."""
    return door(study, task, *arguments, clipped={"clip": 4 * task.clip})


def silent(*arguments):
    """A site that adds no noise and leaves it to the others."""
    return door(*arguments, noise=lambda _study, task, _random: np.zeros(task.dimension, np.int64))


@dataclass
class SameNoise:
    """A site that draws its noise once and adds it every round."""

    drawn: Any = None

    def __call__(self, *arguments):
        def noise(study, task, random):
            if self.drawn is None:
                self.drawn = site_noise(study, task, random)
            return self.drawn

        return door(*arguments, noise=noise)


def everybody(study, task, *arguments):
    """Nobody is left out of a step, whatever the plan's rate."""
    return door(study, task, *arguments, sampled={"sampling_rate": 1.0})


@dataclass(frozen=True)
class _Part:
    whole: Any
    chosen: Any

    @property
    def labels(self):
        return self.whole.labels[self.chosen]

    def __len__(self):
        return len(self.chosen)

    def patient(self, index):
        return self.whole.patient(int(self.chosen[index]))


def fixed_batches(study, task, progress, cohort, random, runtime):
    """Batches of one size, drawn without replacement."""
    size = round(task.sampling_rate * len(cohort))
    part = _Part(cohort, choose(random, len(cohort), size))
    return everybody(study, task, progress, part, random, runtime)


@dataclass
class InTurn:
    """Batches dealt in turn, as a loader that goes through the data does."""

    calls: int = field(default=0)

    def __call__(self, study, task, progress, cohort, random, runtime):
        period = round(1 / task.sampling_rate)
        chosen = np.flatnonzero(np.arange(len(cohort)) % period == self.calls % period)
        self.calls += 1
        part = _Part(cohort, chosen)
        return everybody(study, task, progress, part, random, runtime)


class Fresh:
    """Randomness that a test can repeat, but in which no call gets what another got."""

    def __init__(self, seed: int) -> None:
        self.seed, self.calls = seed, 0

    def __call__(self, *label):
        self.calls += 1
        return SeededStream(self.seed, self.calls)


def known(*label):
    """Randomness from a seed that everybody knows: the same round, the same noise."""
    return SeededStream(0, *label)


CORRECT = addend
