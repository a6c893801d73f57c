"""What a hostile server reads out of a sum: patients from a plain one, nothing from a private one.

The imprint of Fowl et al. 2022, "Robbing the Fed": the server sends a linear layer whose units all
measure an image's brightness and fire above ascending thresholds. The gradient of a unit is the
sum of the images above its threshold, so the difference of two neighbours is the sum of the images
between them, and of a patient alone there it is the image itself. Here the layer is a one-vs-rest
hinge on pixels, a model that plans do allow, and the attack needs no code at the sites: only the
public input. Secure aggregation alone does not help; clip and noise do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from fedward_client.addend import addend, vector_sum
from fedward_client.cohort import TableCohort
from fedward_client.privacy_audit.finding import FALSE_ALARMS, Finding
from fedward_client.privacy_audit.trial import RUNTIME, Door, Randomness, Sum
from fedward_common.errors import OperatorError
from fedward_common.optimizer import begin as begin_optimizer
from fedward_common.plan.document import parse_plan
from fedward_common.privacy.parameters import choose_ring
from fedward_common.progress import Progress, begin
from fedward_common.queries.task import Task
from fedward_common.secagg.ring import RingParameters
from fedward_common.study import Study

CLASSES = 64
"""The most that a model may have: each is a unit of the imprint, but for the patients' own two."""

BINS = CLASSES - 2
SIDE = 32
"""Larger images are averaged to this many pixels on a side: a table has at most 1024 columns."""

SITES, PATIENTS = 4, 6
RECOVERED = 0.95
"""Correlation from which an image counts as recovered: a person would say it is the same."""

_NO_CLIP = 1e12

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Reconstruction:
    """What the attack made of one sum of ``originals``, float32 (N, side, side) in [0, 1].

    ``plain`` holds, for every patient, the picture most like theirs out of all that were read from
    the plain sum, and ``private`` what the same unit shows in the private one. ``plain_match`` and
    ``private_match`` are the correlations of the truth with the picture most like it out of all
    of a sum, (N,). ``limit`` is what chance stays below.
    """

    originals: Images
    plain: Images
    private: Images
    plain_match: NDArray[np.float64]
    private_match: NDArray[np.float64]
    limit: float

    @property
    def recovered(self) -> tuple[int, int]:
        """How many patients were recovered from the plain and from the private sum."""
        plain, private = (self.plain_match > RECOVERED), (self.private_match > RECOVERED)
        return int(plain.sum()), int(private.sum())

    @property
    def finding(self) -> Finding:
        """The verdict: the attack must work where nothing protects, and find nothing else."""
        patients = len(self.originals)
        from_plain, from_private = self.recovered
        best = float(self.private_match.max())
        works, safe = from_plain > 0, best <= self.limit
        if not works:
            verdict = "the attack recovered nobody from a plain sum, so it proves NOTHING"
        elif safe:
            verdict = (
                f"{from_plain} of {patients} patients were recovered from a plain sum, none from "
                f"the private sum: the best likeness is {best:.3f}, chance gives {self.limit:.3f}"
            )
        else:
            verdict = (
                f"the private sum SHOWS patients: {from_private} of {patients} recovered, the best "
                f"likeness is {best:.3f}, chance gives {self.limit:.3f}"
            )
        figures = {
            "patients": patients,
            "recovered_from_plain_sum": from_plain,
            "recovered_from_private_sum": from_private,
            "best_likeness_plain": float(self.plain_match.max()),
            "best_likeness_private": best,
            "limit": self.limit,
        }
        return Finding("pictures", works and safe, verdict, figures)


def reconstruct(
    images: Images,
    noise_multiplier: float,
    randomness: Randomness,
    total: Sum,
    door: Door = addend,
) -> Reconstruction:
    """Attack one step of :data:`SITES` sites, each with :data:`PATIENTS` patients.

    Args:
        images: float32 (N, side, side) in [0, 1], N above ``SITES * PATIENTS``: the first are the
            patients, the others are the attacker's public images, which tell it what brightness
            to expect.
        noise_multiplier: Sigma of the plan.
        randomness: The sites' own.
        total: How the private sum comes about.
        door: What computes a site's private addend.

    Raises:
        OperatorError: there are too few images.
    """
    if len(images) <= SITES * PATIENTS:
        raise OperatorError(
            f"images: {len(images)} training images, the attack needs {SITES * PATIENTS} patients "
            "and some images of its own; give a file with more"
        )
    patients = SITES * PATIENTS
    victims, public = images[:patients], images[patients:]
    study = _study(images[0].size, noise_multiplier)
    task = study.tasks[0]
    crafted = _imprint(study, public)
    cohorts = [
        TableCohort(victims[i::SITES].reshape(PATIENTS, -1), np.zeros(PATIENTS, dtype=np.int64))
        for i in range(SITES)
    ]
    plain_task = replace(task, clip=_NO_CLIP)
    plain = np.zeros(task.dimension)
    private = []
    for place, cohort in enumerate(cohorts):
        random = randomness("plain", place)
        plain += vector_sum(study, plain_task, crafted, cohort, random, RUNTIME)
        random = randomness("addend", place, 0)
        private.append(door(study, task, crafted, cohort, random, RUNTIME))
    decoded = _ring(task).decode(total(private))
    from_plain, from_private = _read(plain, victims), _read(decoded, victims)
    plain_likeness, private_likeness = _alike(victims, from_plain), _alike(victims, from_private)
    units = plain_likeness.argmax(axis=1)
    tests = private_likeness.size
    limit = NormalDist().inv_cdf(1 - FALSE_ALARMS / tests) / math.sqrt(victims[0].size - 1)
    return Reconstruction(
        victims,
        from_plain[units],
        from_private[units],
        plain_likeness.max(axis=1),
        private_likeness.max(axis=1),
        limit,
    )


def grey(images: NDArray[np.uint8]) -> Images:
    """Array images, uint8 (N, H, W) or (N, H, W, 3), as small grey ones: float32 in [0, 1]."""
    values = images.astype(np.float32) / 255.0
    if values.ndim == 4:
        values = values.mean(axis=3)
    side = min(SIDE, *values.shape[1:])
    if values.shape[1:] != (side, side):
        shape = (len(values), side, side)
        values = resize(values, shape, anti_aliasing=True)  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(values, dtype=np.float32)


def _study(pixels: int, noise_multiplier: float) -> Study:
    """A plan whose model is a hinge on pixels with 64 classes."""
    scale, bound = choose_ring(
        dimension=CLASSES * (pixels + 1),
        clip=1.0,
        noise_multiplier=noise_multiplier,
        sampling_rate=1.0,
        slack=2.0**-8,
        sites=SITES,
        t_min=SITES,
        colluding=0,
        expected_patients_per_site=PATIENTS,
    )
    columns = [{"name": f"pixel-{n}", "lower": -1.0, "upper": 1.0} for n in range(pixels)]
    query = {
        "kind": "gradient",
        "noise_multiplier": noise_multiplier,
        "scale": scale,
        "ring_bound": bound,
        "rounds": 1,
        "sampling_rate": 1.0,
        "clip": 1.0,
    }
    document = {
        "study": {
            "name": "imprint",
            "id": "00" * 16,
            "classes": [f"class {n}" for n in range(CLASSES)],
        },
        "roster": {
            "coordinator": "00" * 32,
            "sites": [{"name": f"site-{n}", "identity": f"{n:064x}"} for n in range(1, SITES + 1)],
        },
        "cohort": {"source": "table", "columns": columns},
        "model": {"kind": "svm", "features": "columns"},
        "queries": [query],
        "privacy": {"delta": 1e-5},
        "secagg": {"t_min": SITES, "colluding": 0, "unsafe_for_simulation": True},
        "schedule": {"maximum_attempts": 1, "nominal_patients": PATIENTS},
    }
    return Study(parse_plan(document, "imprint"))


def _imprint(study: Study, public: Images) -> Progress:
    """The public input of the attack: unit k fires for images brighter than threshold k.

    The hinge of a class that is not the image's own has a gradient, the image, where its output
    is above -1; thresholds are quantiles of a normal law fitted to the brightness of ``public``.
    """
    brightness = public.mean(axis=(1, 2), dtype=np.float64)
    law = NormalDist(float(brightness.mean()), float(brightness.std()) or 1e-3)
    pixels = public[0].size
    weights, biases = np.zeros((CLASSES, pixels)), np.full(CLASSES, -2.0)
    weights[2:] = 1.0 / pixels
    biases[2:] = [-1.0 - law.inv_cdf((k + 0.5) / BINS) for k in range(BINS)]
    crafted = np.concatenate([weights.ravel(), biases])
    return replace(begin(study), state=begin_optimizer(crafted))


def _read(total: NDArray[np.float64], victims: Images) -> Images:
    """The picture of every bin between two thresholds, float32 (BINS, side, side)."""
    pixels = victims[0].size
    weights = total[: CLASSES * pixels].reshape(CLASSES, pixels)[2:]
    counts = total[CLASSES * pixels :][2:]
    above = np.vstack([weights, np.zeros(pixels)])
    people = np.append(counts, 0.0)
    within = people[:-1] - people[1:]
    divisor = np.where(np.abs(within) < 0.5, 1.0, within)
    pictures: Images = ((above[:-1] - above[1:]) / divisor[:, None]).astype(np.float32)
    return pictures.reshape(BINS, *victims.shape[1:])


def _alike(victims: Images, pictures: Images) -> NDArray[np.float64]:
    """Correlation of every victim with every picture, float64 (N, BINS)."""
    alike: NDArray[np.float64] = _unit(victims) @ _unit(pictures).T
    return alike


def _unit(images: Images) -> NDArray[np.float64]:
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    unit: NDArray[np.float64] = flat / np.where(lengths > 0, lengths, 1.0)
    return unit


def _ring(task: Task) -> RingParameters:
    return RingParameters(task.query.scale, task.query.ring_bound, task.dimension)


def shown(found: Reconstruction, count: int) -> Sequence[int]:
    """Which patients to show: those whom the plain sum gave away best."""
    return [int(i) for i in np.argsort(-found.plain_match, kind="stable")[:count]]
