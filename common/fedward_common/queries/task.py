"""A query of a plan with every public constant worked out (B2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fedward_common.errors import MisuseError
from fedward_common.plan.document import Plan
from fedward_common.plan.sections import (
    CountQuery,
    GradientQuery,
    HistogramQuery,
    MomentsQuery,
    Query,
)
from fedward_common.privacy.parameters import float_slack, largest_batch
from fedward_common.queries import count, moments
from fedward_common.queries.histogram import Layout

Split = Literal["train", "holdout"]


@dataclass(frozen=True)
class Task:
    """One query: (public input, how a patient maps to a vector, C, d, q, sigma, rounds).

    ``dimension`` d and the clip C (L2) describe the vector; ``sampling_rate`` q is 1 where every
    patient is asked; ``split`` is the account that pays.
    """

    index: int
    query: Query
    split: Split
    dimension: int
    clip: float
    sampling_rate: float
    rounds: int

    @property
    def name(self) -> str:
        """A name unique in the plan, bound into ctx (A2)."""
        return f"{self.index}:{self.query.kind}"


def tasks_of(plan: Plan, *, parameters: int, channels: int) -> tuple[Task, ...]:
    """The plan's queries in order.

    ``parameters`` is the model's parameter count, ``channels`` the image channels or the columns
    that moments are taken over.
    """
    return tuple(_task(plan, index, parameters, channels) for index in range(len(plan.queries)))


def gradient_slack(tasks: Iterable[Task], patients: int) -> float:
    """G of B3 that ``patients`` of one site need: only gradients are computed in float32."""
    rates = [task.sampling_rate for task in tasks if isinstance(task.query, GradientQuery)]
    return float_slack(largest_batch(patients, max(rates))) if rates else 0.0


def _task(plan: Plan, index: int, parameters: int, channels: int) -> Task:
    query = plan.queries[index]
    classes = len(plan.study.classes)
    if isinstance(query, CountQuery):
        return Task(index, query, query.split, count.dimension(classes), count.CLIP, 1.0, 1)
    if isinstance(query, MomentsQuery):
        dimension, clip = moments.dimension(channels), moments.clip(channels)
        return Task(index, query, "train", dimension, clip, 1.0, 1)
    if isinstance(query, GradientQuery):
        rate, rounds = query.sampling_rate, query.rounds
        return Task(index, query, "train", parameters, query.clip, rate, rounds)
    if isinstance(query, HistogramQuery):
        layout = Layout(classes, query.bins)
        return Task(index, query, "holdout", layout.dimension, layout.clip, 1.0, 1)
    raise MisuseError(f"queries.{index}: a kind without a task")
