"""Is one patient's vector, through the plan's own model, no longer than the clip (B1, B3)?

The trial of canaries has a model of its own. This check asks the plan's: one invented patient at a
time, with loud images, goes through the door, and next to no noise is added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward_client.privacy_audit.finding import Finding
from fedward_client.privacy_audit.trial import RUNTIME, Addends, Door, Randomness
from fedward_common.models.features import model_input_shape
from fedward_common.plan.document import parse_plan
from fedward_common.plan.sections import GradientQuery
from fedward_common.privacy.parameters import choose_ring
from fedward_common.progress import begin
from fedward_common.randomness import RandomBytes
from fedward_common.secagg.ring import RingParameters
from fedward_common.study import Study

QUIET = 1e-3
"""Noise multiplier of the check: what it adds to a length is known and taken off again."""

LOUDNESS = (1.0, 3.0, 30.0, 1000.0)
"""How far beyond [0, 1] the pixels of an invented patient go; each with every class."""

_DEVIATIONS = 8.0


@dataclass(frozen=True)
class ClipEvidence:
    """The ``longest`` vector of ``patients`` invented ones over C, and what is ``allowed``."""

    longest: float
    allowed: float
    patients: int

    @property
    def finding(self) -> Finding:
        """The verdict."""
        passed = self.longest <= self.allowed
        verdict = (
            f"the longest of {self.patients} invented patients' vectors is {self.longest:.3f} of "
            "the clip"
            if passed
            else f"an invented patient's vector is {self.longest:.3f} times the clip: NOT clipped"
        )
        figures = {
            "longest_over_clip": self.longest,
            "allowed": self.allowed,
            "patients": self.patients,
        }
        return Finding("clip", passed, verdict, figures)


@dataclass(frozen=True)
class _Patient:
    """A cohort of one: inputs float32 (m, ...) and a class."""

    inputs: NDArray[np.float32]
    label: int

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.array([self.label], dtype=np.int64)

    def __len__(self) -> int:
        return 1

    def patient(self, index: int) -> tuple[NDArray[np.float32], int]:
        del index  # there is only one
        return self.inputs, self.label


def asks_for_gradients(study: Study) -> bool:
    """Whether the plan has vectors that are clipped: the other queries' are short by nature."""
    return any(isinstance(query, GradientQuery) for query in study.plan.queries)


def observe_clip(
    study: Study, door: Door, randomness: Randomness, coins: RandomBytes
) -> ClipEvidence:
    """Measure invented patients' vectors through the first gradient query of ``study``.

    Args:
        study: A study that asks for gradients.
        door: What computes a site's addend.
        randomness: The site's own.
        coins: Draws the patients' pixels.
    """
    quiet = _quiet(study)
    task, before = quiet.tasks[0], begin(quiet)
    ring = RingParameters(task.query.scale, task.query.ring_bound, task.dimension)
    deviation = quiet.mechanism(task).site_sigma / task.query.scale
    lengths = []
    for number, patient in enumerate(_invented(quiet, coins)):
        random = randomness("clip", number)
        addend: Addends = door(quiet, task, before, patient, random, RUNTIME)
        squared = float(np.square(ring.decode(addend)).sum()) - task.dimension * deviation**2
        lengths.append(math.sqrt(max(squared, 0.0)))
    # The noise along the vector, and what its own length varies by.
    spread = deviation * (1.0 + deviation / task.clip * math.sqrt(task.dimension))
    allowed = 1.0 + quiet.plan.privacy.slack + _DEVIATIONS * spread / task.clip
    return ClipEvidence(max(lengths) / task.clip, allowed, len(lengths))


def _quiet(study: Study) -> Study:
    """The study's gradient query alone, with everybody in and next to no noise."""
    index = next(i for i, q in enumerate(study.plan.queries) if isinstance(q, GradientQuery))
    task, secagg = study.tasks[index], study.plan.secagg
    scale, bound = choose_ring(
        dimension=task.dimension,
        clip=task.clip,
        noise_multiplier=QUIET,
        sampling_rate=1.0,
        slack=study.plan.privacy.slack,
        sites=len(study.plan.roster.sites),
        t_min=secagg.t_min,
        colluding=secagg.colluding,
        expected_patients_per_site=1,
    )
    document = study.plan.model_dump(mode="json", by_alias=True)
    changes = {
        "noise_multiplier": QUIET,
        "scale": scale,
        "ring_bound": bound,
        "rounds": 1,
        "sampling_rate": 1.0,
    }
    document["queries"] = [document["queries"][index] | changes]
    document["schedule"]["nominal_patients"] = 1
    return Study(parse_plan(document, "privacy audit"))


def _invented(study: Study, coins: RandomBytes) -> Iterator[_Patient]:
    """Patients of noise, with one image more than may be used."""
    shape = (study.plan.cohort.images_per_patient + 1, *model_input_shape(study.spec))
    for loudness in LOUDNESS:
        for label in range(study.spec.classes):
            drawn = np.frombuffer(coins(math.prod(shape)), dtype=np.uint8).astype(np.float32)
            yield _Patient((drawn / 255.0 * loudness).reshape(shape).astype(np.float32), label)
