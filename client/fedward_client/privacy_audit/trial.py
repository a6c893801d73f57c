"""A study of canaries: invented patients through the code that real ones go through.

The trial has the numbers of a real query (sigma, q, rounds, C, thresholds) and a model for which
a patient's gradient is known: the linear hinge at zero, whose gradient is the patient's features
up to sign. A canary has one loud feature of its own, so its clipped vector is C along an axis that
nobody else uses. Some axes belong to nobody: there the sum's true value is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedward_client.cohort import Cohort
from fedward_client.training.runtime import RuntimeOptions
from fedward_common.errors import MisuseError
from fedward_common.plan.document import parse_plan
from fedward_common.plan.sections import GradientQuery
from fedward_common.privacy.parameters import choose_ring
from fedward_common.progress import Progress, begin
from fedward_common.queries.task import Task
from fedward_common.randomness import RandomBytes
from fedward_common.secagg.ring import unwrap
from fedward_common.study import Study

AXES = 3888
"""Features of the trial's model: scattering of a colour image, the longest that a plan can name."""

BLANKS = 648
"""Axes that belong to no canary."""

LOUD = 1000.0
"""A canary's feature: its gradient is far longer than any clip, and its bias next to nothing."""

RUNTIME = RuntimeOptions(micro_batch=64)
"""As many rows of features as stay in the processor's cache."""

Addends = NDArray[np.uint32]
Door = Callable[[Study, Task, Progress, Cohort, RandomBytes, RuntimeOptions], Addends]
"""What computes a site's addend: :func:`fedward_client.addend.addend`."""

Sum = Callable[[Sequence[Addends]], Addends]
"""What turns the sites' addends (d,) into what the server decodes (d,)."""

Randomness = Callable[..., RandomBytes]
Stage = Callable[[int, int], None]
"""Told (done, total)."""


@dataclass(frozen=True)
class Terms:
    """What a real query claims: its mechanism's numbers (B3) and the delta of its plan."""

    noise_multiplier: float
    sampling_rate: float
    rounds: int
    clip: float
    sites: int
    t_min: int
    colluding: int
    slack: float
    delta: float

    @classmethod
    def of(cls, study: Study, task: Task) -> Terms:
        """The terms of a query of a plan."""
        secagg, privacy = study.plan.secagg, study.plan.privacy
        return cls(
            noise_multiplier=task.query.noise_multiplier,
            sampling_rate=task.sampling_rate,
            rounds=task.rounds * max(1, task.local_steps),
            clip=task.clip,
            sites=len(study.plan.roster.sites),
            t_min=secagg.t_min,
            colluding=secagg.colluding,
            slack=privacy.slack,
            delta=privacy.delta,
        )


def draft(terms: Terms, crowd: int) -> Study:
    """The study of a trial in which ``crowd`` canaries are at one site, at most."""
    scale, bound = choose_ring(
        dimension=AXES + 1,
        clip=terms.clip,
        noise_multiplier=terms.noise_multiplier,
        sampling_rate=terms.sampling_rate,
        slack=terms.slack,
        sites=terms.sites,
        t_min=terms.t_min,
        colluding=terms.colluding,
        expected_patients_per_site=max(1, crowd),
    )
    query = {
        "kind": "gradient",
        "noise_multiplier": terms.noise_multiplier,
        "scale": scale,
        "ring_bound": bound,
        "rounds": terms.rounds,
        "sampling_rate": terms.sampling_rate,
        "clip": terms.clip,
    }
    roster = [{"name": f"site-{n}", "identity": f"{n:064x}"} for n in range(1, terms.sites + 1)]
    document = {
        "study": {"name": "privacy-audit", "id": "00" * 16, "classes": ["one", "other"]},
        "roster": {"coordinator": "00" * 32, "sites": roster},
        "preprocess": {"size": 28, "channels": 3},
        "model": {"kind": "svm", "features": "scattering"},
        "queries": [query],
        "privacy": {"delta": terms.delta, "slack": terms.slack},
        "secagg": {
            "t_min": terms.t_min,
            "colluding": terms.colluding,
            "unsafe_for_simulation": terms.colluding == 0,
        },
        "schedule": {"maximum_attempts": terms.rounds, "nominal_patients": max(1, crowd)},
    }
    return Study(parse_plan(document, "privacy audit"))


@dataclass(frozen=True)
class CanaryCohort:
    """The canaries of one site that are in: one loud feature each, at ``axes``, int64 (N,)."""

    axes: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.axes.size)

    def patient(self, index: int) -> tuple[NDArray[np.float32], int]:
        """Return one canary's features, float32 (1, AXES), and class."""
        features = np.zeros((1, AXES), dtype=np.float32)
        features[0, self.axes[index]] = LOUD
        return features, int(self.labels[index])


@dataclass(frozen=True)
class Trial:
    """Canaries dealt to ``places`` sites in turn; canary i has axis i.

    ``present`` says by a coin flip who is in, bool (m,); ``labels`` are classes, int64 (m,).
    """

    study: Study
    places: int
    present: NDArray[np.bool_]
    labels: NDArray[np.int64]

    @property
    def task(self) -> Task:
        """The trial's only query."""
        return self.study.tasks[0]

    @property
    def query(self) -> GradientQuery:
        """The same as the plan has it."""
        query = self.task.query
        if not isinstance(query, GradientQuery):
            raise MisuseError("a trial asks for gradients")
        return query

    @property
    def canaries(self) -> int:
        """m: how many canaries there are, in or out."""
        return int(self.present.size)

    @cached_property
    def signs(self) -> NDArray[np.int64]:
        """The sign of each canary's vector, int64 (m,): the hinge's gradient is -y x."""
        signs: NDArray[np.int64] = 1 - 2 * self.labels
        return signs

    def cohort(self, place: int) -> CanaryCohort:
        """The canaries that are in at one site."""
        chosen = np.flatnonzero(self.present & (np.arange(self.canaries) % self.places == place))
        return CanaryCohort(chosen, self.labels[chosen])

    def shares(self, totals: Addends) -> NDArray[np.float64]:
        """Every canary's share of sums or addends (..., d), in units of C: float64 (..., m)."""
        values = unwrap(np.ascontiguousarray(totals[..., : self.canaries]))
        return values * self.signs / (self.query.scale * self.task.clip)

    def blanks(self, totals: Addends) -> NDArray[np.float64]:
        """Sums or addends where the true value is zero: float64 (..., axes), grid units."""
        blank = np.ascontiguousarray(totals[..., self.canaries : AXES])
        return unwrap(blank).astype(np.float64)


def flip_coins(terms: Terms, places: int, canaries: int, random: RandomBytes) -> Trial:
    """Set up a trial in which every canary is in with probability 1/2."""
    bits = np.unpackbits(np.frombuffer(random(-(-canaries // 4)), dtype=np.uint8))
    present, labels = bits[:canaries].astype(bool), bits[canaries : 2 * canaries]
    study = draft(terms, -(-canaries // places))
    return Trial(study, places, present, labels.astype(np.int64))


def everybody_in(terms: Terms, places: int, canaries: int) -> Trial:
    """Set up a trial without coins: every canary is in."""
    study = draft(terms, -(-canaries // places))
    return Trial(study, places, np.ones(canaries, dtype=bool), np.zeros(canaries, dtype=np.int64))


@dataclass(frozen=True)
class Recording:
    """What left in a trial: ``addends`` uint32 (rounds, places, d), their ``sums`` (rounds, d)."""

    trial: Trial
    addends: Addends
    sums: Addends

    def cut(self, rounds: int) -> Recording:
        """The first rounds of it."""
        return replace(self, addends=self.addends[:rounds], sums=self.sums[:rounds])


def record(
    trial: Trial,
    doors: Sequence[Door],
    randomness: Randomness,
    *,
    rounds: int | None = None,
    total: Sum | None = None,
    stage: Stage = lambda _done, _total: None,
) -> Recording:
    """Run a trial and keep what left.

    Args:
        trial: Who is in.
        doors: What computes each site's addend.
        randomness: As a site's own: the source for ("addend", site, e).
        rounds: The first of the trial's rounds; all of them if absent.
        total: How the sum comes about; plain addition in the ring if absent.
        stage: Told the rounds that are done.
    """
    if len(doors) != trial.places:
        raise MisuseError("a trial needs one door for each site")
    count = trial.task.rounds if rounds is None else rounds
    cohorts = [trial.cohort(place) for place in range(trial.places)]
    before = begin(trial.study)
    addends = np.empty((count, trial.places, trial.task.dimension), dtype=np.uint32)
    sums = np.empty((count, trial.task.dimension), dtype=np.uint32)
    for e in range(count):
        for place, (door, cohort) in enumerate(zip(doors, cohorts, strict=True)):
            random = randomness("addend", place, e)
            addends[e, place] = door(trial.study, trial.task, before, cohort, random, RUNTIME)
        plain = addends[e].sum(axis=0, dtype=np.uint32)  # modulo 2^32
        sums[e] = plain if total is None else total(list(addends[e]))
        stage(e + 1, count)
    return Recording(trial, addends, sums)
