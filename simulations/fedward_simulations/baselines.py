"""What the federation is compared with: the same model, views and number of steps, other privacy.

``pooled_private`` is DP-SGD on all patients in one place: it samples the very batches that the
federation sampled and adds the same noise once, centrally. ``alone`` is each site by itself with
the same guarantee, ``local_fedavg`` what others call private federated learning: every site adds
all the noise to its own steps and models are averaged. ``pooled`` has no privacy at all.

``federated`` is the federation itself without its masks, which cancel in the sum: the sites' own
integer addends, added in the ring. A test holds it equal, bit by bit, to the full protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedward_client.addend import addend, vector_sum
from fedward_client.cohort import Cohort
from fedward_client.training.augmentation import Augmentation
from fedward_client.training.gradients import Patient, clipped_sum
from fedward_client.training.runtime import RuntimeOptions
from fedward_common import optimizer
from fedward_common import progress as folding
from fedward_common.models.prediction import Standardisation
from fedward_common.plan.sections import TRAINING, GradientQuery
from fedward_common.privacy.sampling import poisson_sample
from fedward_common.progress import Progress
from fedward_common.queries.task import Task
from fedward_common.randomness import RandomBytes
from fedward_common.secagg.prg import U32
from fedward_common.study import Study

NO_CLIP = 1e12

Draw = Callable[[int, int], RandomBytes]
"""Source of a site's batch: (site index, position in the plan)."""

OnDone = Callable[[int, int], None]
"""Told (models done, models in all)."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Bench:
    """What all baselines share: the study, the training cohorts, and where batches come from.

    ``noise`` draws the baselines' Gaussian noise.
    """

    study: Study
    cohorts: Sequence[Cohort]
    draw: Draw
    noise: np.random.Generator
    runtime: RuntimeOptions

    def positions(self) -> range:
        """The plan's sums on training patients: held-out queries change no model."""
        tasks = self.study.tasks
        last = max(i for i, task in enumerate(tasks) if isinstance(task.query, TRAINING))
        return range(sum(task.rounds for task in tasks[: last + 1]))


def federated(bench: Bench) -> Progress:
    """The federation: every site's clipped, rounded and noised addend, summed modulo 2^32."""
    study = bench.study
    progress = folding.begin(study)
    for position in bench.positions():
        task, _ = study.at(position)
        total = np.zeros(task.dimension, dtype=U32)
        for site, cohort in enumerate(bench.cohorts):
            random = bench.draw(site, position)
            total += addend(study, task, progress, cohort, random, bench.runtime)
        progress = folding.advance(study, progress, task.ring.decode(total))
    return progress


def pooled_private(bench: Bench) -> Progress:
    """DP-SGD on the pooled data, at the federation's epsilon."""
    return _private(bench, range(len(bench.cohorts)))


def alone(bench: Bench, site: int) -> Progress:
    """One site by itself, at the federation's epsilon."""
    return _private(bench, [site])


def local_fedavg(bench: Bench, rounds: int) -> Progress:
    """Local DP-SGD at every site, parameters averaged ``rounds`` times."""
    positions = bench.positions()
    sites = range(len(bench.cohorts))
    states = [folding.begin(bench.study) for _ in sites]
    every = max(len(positions) // rounds, 1)
    for position in positions:
        states = [_step(bench, states[site], [site]) for site in sites]
        if (position + 1) % every == 0:
            states = _averaged(states)
    return _averaged(states)[0]


def pooled(bench: Bench, learning_rate: float) -> Progress:
    """Plain SGD on the pooled data: no clip, no noise, exact standardisation."""
    study = bench.study
    progress = _standardised(bench, folding.begin(study))
    hyper = replace(study.hyperparameters, learning_rate=learning_rate)
    patients = sum(len(cohort) for cohort in bench.cohorts)
    for position in bench.positions():
        task, _ = study.at(position)
        if isinstance(task.query, GradientQuery):
            total = _plain_sum(bench, task, task.query, progress, position)
            gradient = total / (task.sampling_rate * patients)
            progress = replace(progress, state=optimizer.advance(progress.state, gradient, hyper))
    return progress


def _private(bench: Bench, sites: Sequence[int]) -> Progress:
    progress = folding.begin(bench.study)
    for _ in bench.positions():
        progress = _step(bench, progress, sites)
    return progress


def _step(bench: Bench, progress: Progress, sites: Sequence[int]) -> Progress:
    """One central DP sum over ``sites``; a nominal divisor shrinks with the share of sites."""
    study = bench.study
    task, _ = study.at(progress.position)
    total = sum(
        (_site_sum(bench, task, progress, site) for site in sites), start=np.zeros(task.dimension)
    )
    mechanism = study.mechanism(task)
    deviation = task.query.noise_multiplier * mechanism.sensitivity / mechanism.scale
    noised = total + bench.noise.normal(0.0, deviation, task.dimension)
    nominal = study.plan.schedule.nominal_patients is not None
    share = len(sites) / len(bench.cohorts) if nominal else 1.0
    return folding.advance(study, progress, noised / share)


def _site_sum(bench: Bench, task: Task, progress: Progress, site: int) -> Vector:
    random = bench.draw(site, progress.position)
    return vector_sum(bench.study, task, progress, bench.cohorts[site], random, bench.runtime)


def _plain_sum(
    bench: Bench, task: Task, query: GradientQuery, progress: Progress, position: int
) -> Vector:
    total = np.zeros(task.dimension)
    for site, cohort in enumerate(bench.cohorts):
        random = bench.draw(site, position)
        indices = poisson_sample(len(cohort), task.sampling_rate, random)
        total += clipped_sum(
            bench.study.spec,
            progress.state.parameters,
            (Patient(*cohort.patient(int(index))) for index in indices),
            clip=NO_CLIP,
            images_per_patient=bench.study.plan.cohort.images_per_patient,
            augmentation=Augmentation(**query.augmentation.model_dump()),
            standardisation=Standardisation(progress.mean, progress.scale),
            random=random,
            runtime=bench.runtime,
        )
    return total


def _standardised(bench: Bench, progress: Progress) -> Progress:
    """Fold the exact sums of the count and moments queries in."""
    for position in bench.positions():
        task, _ = bench.study.at(position)
        if isinstance(task.query, GradientQuery):
            break
        total = sum(
            (_site_sum(bench, task, progress, site) for site in range(len(bench.cohorts))),
            start=np.zeros(task.dimension),
        )
        progress = folding.advance(bench.study, progress, total)
    return progress


def _averaged(states: Sequence[Progress]) -> list[Progress]:
    """FedAvg: every site goes on from the mean of parameters and of their moving averages."""
    parameters = np.mean([s.state.parameters for s in states], axis=0)
    average = np.mean([s.state.average for s in states], axis=0)
    mean = np.mean([s.mean for s in states], axis=0)
    scale = np.mean([s.scale for s in states], axis=0)
    return [
        replace(
            s,
            state=replace(s.state, parameters=parameters, average=average),
            mean=mean,
            scale=scale,
        )
        for s in states
    ]
