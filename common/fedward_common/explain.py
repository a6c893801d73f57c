"""A study in plain words, for whoever decides on it: what is computed, what leaves, what it costs.

Text that the plan's author wrote is shown without control characters, which a terminal would obey.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fedward_common.errors import MisuseError
from fedward_common.guarantee import statement_of
from fedward_common.plan.sections import (
    CountQuery,
    CovarianceQuery,
    FedAvgQuery,
    GradientQuery,
    HistogramQuery,
    MomentsQuery,
)
from fedward_common.queries.task import Task
from fedward_common.study import Study
from fedward_common.text import printable, size, under

BYTES_PER_NUMBER = 4
"""One element of Z_{2^32} a coordinate (A5)."""


@dataclass(frozen=True)
class Explanation:
    """What a person reads before deciding; each field holds whole sentences or list items."""

    title: str
    model: str
    computed: tuple[str, ...]
    leaves: tuple[str, ...]
    privacy: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """The explanation as lines of text under headings."""
        parts = (
            (self.title, (self.model,)),
            ("What is computed", self.computed),
            ("What leaves a hospital", self.leaves),
            ("What it costs a patient", self.privacy),
        )
        return tuple(line for heading, items in parts for line in under(heading, items))

    def to_json(self) -> dict[str, object]:
        """The explanation for a script."""
        return asdict(self)


def explain(study: Study) -> Explanation:
    """Say what a study does. The privacy figures take a second or two."""
    plan = study.plan
    title = plan.study.title or plan.study.name
    return Explanation(
        title=printable(f"{title} (study {plan.study.name}, plan {plan.digest.hex()[:16]})"),
        model=_model(study),
        computed=tuple(_task(task) for task in study.tasks),
        leaves=_leaves(study),
        privacy=statement_of(study).sentences,
    )


def _model(study: Study) -> str:
    plan = study.plan
    classes = printable(", ".join(plan.study.classes))
    if plan.cohort.source == "table":
        seen = f"{len(plan.cohort.columns)} columns of a table"
    else:
        side, colour = plan.preprocess.size, "grey" if plan.preprocess.channels == 1 else "colour"
        seen = f"{colour} images of {side} x {side} pixels"
        if plan.model.features:
            seen = f"{plan.model.features} features of {seen}"
    return (
        f"a {plan.model.kind} with {study.parameters:,} parameters learns to tell {classes} "
        f"from {seen}"
    )


def _task(task: Task) -> str:
    query, noise = task.query, f"noise multiplier {task.query.noise_multiplier:.4g}"
    match query:
        case CountQuery():
            who = "training" if task.split == "train" else "held-out"
            what = f"count: how many {who} patients each class has, once"
        case MomentsQuery():
            what = "moments: mean and spread of the inputs over training patients, once"
        case GradientQuery():
            what = (
                f"gradient: {task.rounds} training steps; each asks a training patient with "
                f"probability {task.sampling_rate:g} and clips the answer to norm {task.clip:g}"
            )
        case FedAvgQuery():
            what = (
                f"fedavg: {task.rounds} rounds of {task.local_steps} training steps within each "
                f"hospital; each step asks a training patient with probability "
                f"{task.sampling_rate:g}, clips the answer to norm {task.clip:g} and adds noise "
                "of this hospital alone; the change of the model leaves, clipped to norm "
                f"{query.update_clip:g}"
            )
        case CovarianceQuery():
            what = (
                "covariance: how the inputs of training patients vary together, each clipped to "
                f"norm {query.clip:g}, once; the model then sees {query.components} principal "
                "components of them"
            )
        case HistogramQuery():
            what = f"histogram: the model's scores of held-out patients in {query.bins} bins, once"
        case _:
            raise MisuseError(f"{task.name}: a query without words")
    return f"{what} ({task.dimension:,} numbers a sum, {noise})"


def _leaves(study: Study) -> tuple[str, ...]:
    plan = study.plan
    largest = BYTES_PER_NUMBER * max(task.dimension for task in study.tasks)
    total = sum(BYTES_PER_NUMBER * task.dimension * task.rounds for task in study.tasks)
    attempts = plan.schedule.maximum_attempts
    extra = attempts - study.total_rounds
    sums = f"{study.total_rounds} masked addends with noise already in them"
    sites, t_min, colluding = len(plan.roster.sites), plan.secagg.t_min, plan.secagg.colluding
    group = f"all {sites} hospitals" if t_min == sites else f"at least {t_min} of {sites} hospitals"
    colluders = f" and any {colluding} of them" if colluding else ""
    return (
        f"{sums}, at most {size(largest)} each and {size(total)} in all, with keys and signatures",
        f"with retries at most {attempts} addends: {extra} more than the plan needs, each paid for",
        f"the server{colluders} can open no single addend, only the sum of {group}",
        "no image, label, count, score or metric of this hospital leaves it in any other form",
    )
