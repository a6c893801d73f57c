"""The one door out: a query's noised integer addend, from the site's own patients (B1 to B3).

After the debit nothing here may depend visibly on data: no exception, no log line, no size. An
empty batch still yields noise.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedward_client.cohort import Cohort
from fedward_client.training.augmentation import Augmentation
from fedward_client.training.gradients import Patient, clipped_sum
from fedward_client.training.runtime import RuntimeOptions
from fedward_common.models.features import model_input_shape
from fedward_common.models.prediction import scores
from fedward_common.plan.sections import (
    CountQuery,
    CovarianceQuery,
    FedAvgQuery,
    GradientQuery,
    HistogramQuery,
    MomentsQuery,
)
from fedward_common.privacy.noise import discrete_gaussian
from fedward_common.privacy.sampling import choose, poisson_sample
from fedward_common.progress import Progress
from fedward_common.queries import count, covariance, moments
from fedward_common.queries.histogram import Layout
from fedward_common.queries.task import Task
from fedward_common.randomness import RandomBytes, os_random
from fedward_common.secagg.ring import RingParameters, wrap
from fedward_common.study import Study

log = logging.getLogger(__name__)

Vector = NDArray[np.float64]


def addend(
    study: Study,
    task: Task,
    progress: Progress,
    cohort: Cohort,
    random: RandomBytes,
    runtime: RuntimeOptions,
) -> NDArray[np.uint32]:
    """Sample, compute, clip, sum, round, clamp, noise, wrap: the addend x_i of A3, ``(d,)``.

    After local training what is rounded and wrapped is the change of the model, which has all its
    noise in it already.
    """
    if isinstance(task.query, FedAvgQuery):
        change = local_change(study, task, task.query, progress, cohort, random, runtime)
        return wrap(task.ring.encode(change, random))
    total = vector_sum(study, task, progress, cohort, random, runtime)
    return wrap(grid_sum(task, total, random) + site_noise(study, task, random))


def local_change(
    study: Study,
    task: Task,
    query: FedAvgQuery,
    progress: Progress,
    cohort: Cohort,
    random: RandomBytes,
    runtime: RuntimeOptions,
) -> Vector:
    """Train here for a round: float64 ``(d,)``, of norm ``update_clip`` at most (docs/adr/0020).

    Every step samples anew and is the private sum of one site: clipped, rounded and noised on the
    same grid. The model, its change and what is clipped of it see the noised sums alone.
    """
    per_site = study.divisor(progress.counts) / len(study.plan.roster.sites)
    rate = query.local_learning_rate / (task.clip * task.sampling_rate * per_site)
    start, change = progress.state, np.zeros(task.dimension)
    with np.errstate(all="ignore"):  # a hostile model changes nothing observable (B2)
        for _ in range(query.local_steps):
            moved = replace(progress, state=replace(start, parameters=start.parameters + change))
            total = vector_sum(study, task, moved, cohort, random, runtime)
            noised = grid_sum(task, total, random) + site_noise(study, task, random)
            change -= rate * (noised / query.scale)
        return _shortened(change, query.update_clip)


def warm_up(study: Study, progress: Progress, runtime: RuntimeOptions) -> None:
    """Take a step over one blank patient, of whom nothing is kept: what loads, loads now."""
    blank = Patient(np.zeros((1, *model_input_shape(study.spec)), np.float32), 0)
    for task in study.tasks:
        if isinstance(task.query, GradientQuery | FedAvgQuery):
            _gradients(study, task, task.query, progress, [blank], os_random, runtime)


def grid_sum(task: Task, total: Vector, random: RandomBytes) -> NDArray[np.int64]:
    """The sum on the grid of the noise, rounded at random and clamped (A5), without noise."""
    grid = RingParameters(task.query.scale, task.query.ring_bound, task.dimension)
    return grid.encode(total, random)


def site_noise(study: Study, task: Task, random: RandomBytes) -> NDArray[np.int64]:
    """This site's part of the noise: any t_min - c such parts carry the claim (B3).

    At a local step it is all of it.
    """
    return discrete_gaussian(study.mechanism(task).site_sigma, task.dimension, random)


def vector_sum(
    study: Study,
    task: Task,
    progress: Progress,
    cohort: Cohort,
    random: RandomBytes,
    runtime: RuntimeOptions,
) -> Vector:
    """The sum of the sampled patients' clipped vectors: float64 ``(d,)``, still secret."""
    indices = poisson_sample(len(cohort), task.sampling_rate, random)
    query = task.query
    if isinstance(query, GradientQuery | FedAvgQuery):
        sampled = _patients(cohort, indices, progress.model_inputs)
        return _gradients(study, task, query, progress, sampled, random, runtime)
    patients = (_some_images(study, patient, random) for patient in _patients(cohort, indices))
    if isinstance(query, CountQuery):
        classes = len(study.plan.study.classes)
        return _sum(task, (count.vector(patient.label, classes) for patient in patients))
    if isinstance(query, MomentsQuery):
        return _sum(task, (moments.vector(patient.inputs) for patient in patients))
    if isinstance(query, CovarianceQuery):
        inputs = (patient.inputs for patient in patients)
        return covariance.total(inputs, progress.mean, progress.scale, query.clip)
    chunk = runtime.views_per_pass(study.spec.raw_values)
    return _histogram(study, query, task, progress, patients, chunk)


def _gradients(
    study: Study,
    task: Task,
    query: GradientQuery | FedAvgQuery,
    progress: Progress,
    patients: Iterable[Patient],
    random: RandomBytes,
    runtime: RuntimeOptions,
) -> Vector:
    return clipped_sum(
        study.spec,
        progress.state.parameters,
        patients,
        clip=task.clip,
        images_per_patient=study.plan.cohort.images_per_patient,
        augmentation=Augmentation(**query.augmentation.model_dump()),
        standardisation=progress.standardisation,
        random=random,
        runtime=runtime,
    )


def _histogram(
    study: Study,
    query: HistogramQuery,
    task: Task,
    progress: Progress,
    patients: Iterator[Patient],
    chunk: int,
) -> Vector:
    """Score a chunk of patients at a time; a patient's score is the mean over images."""
    layout = Layout(len(study.plan.study.classes), query.bins)
    total = np.zeros(task.dimension)
    while group := list(itertools.islice(patients, chunk)):
        inputs = np.concatenate([progress.model_inputs(patient.inputs) for patient in group])
        scored = scores(study.spec, progress.state.average, inputs, progress.standardisation)
        ends = np.cumsum([len(patient.inputs) for patient in group])[:-1]
        for patient, own in zip(group, np.split(scored, ends), strict=True):
            total += layout.vector(own.mean(axis=0), patient.label)
    return total


def _shortened(vector: Vector, norm: float) -> Vector:
    """A vector clipped to ``norm``; an entry that is not finite counts as zero."""
    finite = np.where(np.isfinite(vector), vector, 0.0)
    length = float(np.linalg.norm(finite))
    return finite * (norm / length) if length > norm else finite


def _patients(
    cohort: Cohort,
    indices: NDArray[np.int64],
    seen_as: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda inputs: inputs,
) -> Iterator[Patient]:
    """The sampled patients; one that cannot be read counts as a zero vector (B2).

    After the debit nothing that depends on data may abort or refuse: the operator is told, the
    server is not.
    """
    for index in indices:
        try:
            inputs, label = cohort.patient(int(index))
            inputs = seen_as(inputs)
        except Exception as error:  # noqa: BLE001  (whatever it is, it must not show outside)
            # Never the exception itself: its text may name the patient.
            log.error("a patient cannot be read (%s): absent", type(error).__name__)  # noqa: TRY400
            continue
        yield Patient(inputs, label)


def _some_images(study: Study, patient: Patient, random: RandomBytes) -> Patient:
    """The patient with at most k images, every subset equally likely (B1)."""
    kept = choose(random, len(patient.inputs), study.plan.cohort.images_per_patient)
    return Patient(patient.inputs[kept], patient.label)


def _sum(task: Task, vectors: Iterable[Vector]) -> Vector:
    total = np.zeros(task.dimension)
    for vector in vectors:
        total += vector
    return total
