"""A query of a plan with every public constant worked out (B2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fedward_common.errors import MisuseError
from fedward_common.plan.document import Plan
from fedward_common.plan.sections import (
    TRAINING,
    CountQuery,
    CovarianceQuery,
    FedAvgQuery,
    GradientQuery,
    HistogramQuery,
    MomentsQuery,
    Query,
)
from fedward_common.privacy.parameters import MODULUS, float_slack, largest_batch
from fedward_common.queries import count, covariance, moments
from fedward_common.queries.histogram import Layout
from fedward_common.secagg.ring import RingParameters

Split = Literal["train", "holdout"]


@dataclass(frozen=True)
class Task:
    """One query: (public input, how a patient maps to a vector, C, d, q, sigma, rounds).

    ``dimension`` d and the clip C (L2) describe the vector; ``sampling_rate`` q is 1 where every
    patient is asked; ``split`` is the account that pays. ``local_steps`` is 0 but for local
    training, each of whose rounds asks so many times. ``scale`` and ``ring_bound`` encode what
    leaves a site (A5).
    """

    index: int
    query: Query
    split: Split
    dimension: int
    clip: float
    sampling_rate: float
    rounds: int
    scale: float
    ring_bound: int
    local_steps: int = 0

    @property
    def name(self) -> str:
        """A name unique in the plan, bound into ctx (A2)."""
        return f"{self.index}:{self.query.kind}"

    @property
    def ring(self) -> RingParameters:
        """How a site's vector enters the ring, and how the sum leaves it (A5)."""
        return RingParameters(self.scale, self.ring_bound, self.dimension)


def tasks_of(plan: Plan, *, parameters: int, channels: int) -> tuple[Task, ...]:
    """The plan's queries in order.

    ``parameters`` is the model's parameter count, ``channels`` the image channels or the columns
    that moments are taken over.
    """
    return tuple(_task(plan, index, parameters, channels) for index in range(len(plan.queries)))


def update_ring(update_clip: float, sites: int) -> tuple[float, int]:
    """The scale and the ring bound of a change of the model of norm ``update_clip`` at most.

    All of the ring is used: no coordinate is longer than the norm, so none is ever clamped, and
    the sites' sum cannot wrap.
    """
    bound = (MODULUS // 2 - 1) // sites
    return 2.0 ** math.floor(math.log2((bound - 1) / update_clip)), bound


def gradient_slack(tasks: Iterable[Task], patients: int) -> float:
    """G of B3 that ``patients`` of one site need: only gradients are computed in float32."""
    rates = [task.sampling_rate for task in tasks if isinstance(task.query, TRAINING)]
    return float_slack(largest_batch(patients, max(rates))) if rates else 0.0


def _task(plan: Plan, index: int, parameters: int, channels: int) -> Task:
    query = plan.queries[index]
    split, dimension, clip = _vector(query, len(plan.study.classes), parameters, channels)
    ring = (
        update_ring(query.update_clip, len(plan.roster.sites))
        if isinstance(query, FedAvgQuery)
        else (query.scale, query.ring_bound)
    )
    return Task(
        index=index,
        query=query,
        split=split,
        dimension=dimension,
        clip=clip,
        sampling_rate=query.sampling_rate if isinstance(query, TRAINING) else 1.0,
        rounds=query.rounds if isinstance(query, TRAINING) else 1,
        scale=ring[0],
        ring_bound=ring[1],
        local_steps=query.local_steps if isinstance(query, FedAvgQuery) else 0,
    )


def _vector(query: Query, classes: int, parameters: int, channels: int) -> tuple[Split, int, float]:
    """The account that pays for a patient's vector, its length and the largest norm it can have."""
    if isinstance(query, CountQuery):
        return query.split, count.dimension(classes), count.CLIP
    if isinstance(query, MomentsQuery):
        return "train", moments.dimension(channels), moments.clip(channels)
    if isinstance(query, CovarianceQuery):
        return "train", covariance.dimension(channels), covariance.clip(query.clip)
    if isinstance(query, GradientQuery | FedAvgQuery):
        return "train", parameters, query.clip
    if isinstance(query, HistogramQuery):
        layout = Layout(classes, query.bins)
        return "holdout", layout.dimension, layout.clip
    raise MisuseError(f"queries: {query.kind} is a kind without a task")
