"""A plan put to work: its model, its queries in order, its optimizer, its initial parameters."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedward_common.codec import digest
from fedward_common.errors import MisuseError, OperatorError, PlanError
from fedward_common.models.features import model_input_shape
from fedward_common.models.parameters import initial_parameters, parameter_count
from fedward_common.models.spec import ModelSpec
from fedward_common.optimizer import Hyperparameters
from fedward_common.plan.document import Plan
from fedward_common.plan.rules import structural_problems
from fedward_common.plan.sections import TRAINING, CovarianceQuery, FedAvgQuery
from fedward_common.privacy.parameters import MechanismParameters
from fedward_common.queries.task import Task, tasks_of


def input_spec(plan: Plan) -> ModelSpec:
    """What a patient's inputs are, before any reduction to components."""
    if plan.cohort.source == "table":
        shape: tuple[int, ...] = (len(plan.cohort.columns),)
    else:
        shape = (plan.preprocess.channels, plan.preprocess.size, plan.preprocess.size)
    return ModelSpec(
        kind=plan.model.kind,
        input_shape=shape,
        classes=len(plan.study.classes),
        features=plan.model.features,
        width=plan.model.width,
        multiclass=plan.model.multiclass,
    )


def model_spec(plan: Plan) -> ModelSpec:
    """The model that is trained: on the inputs, or on principal components of them."""
    spec = input_spec(plan)
    for query in plan.queries:
        if isinstance(query, CovarianceQuery):
            return replace(spec, input_shape=(query.components,), features="columns")
    return spec


def input_channels(spec: ModelSpec) -> int:
    """Channels of an image, or columns of a feature vector: what moments are taken over."""
    return model_input_shape(spec)[0]


class Study:
    """What follows from a plan and nothing else; expensive parts are worked out once.

    A plan that breaks a rule of A1, A5 or B3 cannot become a study.

    Raises:
        PlanError: every rule that the plan breaks.
    """

    def __init__(self, plan: Plan, source: str = "plan") -> None:
        self.plan = plan
        problems = structural_problems(plan)
        if problems:
            raise PlanError(source, problems)
        try:
            self.input_spec, self.spec = input_spec(plan), model_spec(plan)
        except OperatorError as error:
            raise PlanError(source, [str(error)]) from error
        problems = [*self._component_problems(), *self._initial_model_problems()]
        problems += self._mechanism_problems()
        if problems:
            raise PlanError(source, problems)

    def __eq__(self, other: object) -> bool:
        """Two studies are equal iff their plans' digests are."""
        return isinstance(other, Study) and self.plan.digest == other.plan.digest

    def __hash__(self) -> int:
        return hash(self.plan.digest)

    @cached_property
    def parameters(self) -> int:
        """The model's parameter count d."""
        return parameter_count(self.spec)

    @cached_property
    def channels(self) -> int:
        """What standardisation is per: channels of an image, or columns of a feature vector."""
        return input_channels(self.input_spec)

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The queries in order."""
        return tasks_of(self.plan, parameters=self.parameters, channels=self.channels)

    @cached_property
    def total_rounds(self) -> int:
        """Private sums in the whole study."""
        return sum(task.rounds for task in self.tasks)

    def mechanism(self, task: Task) -> MechanismParameters:
        """The task as a noised sum, with every derived number of part B."""
        return MechanismParameters(
            query=task.name,
            dimension=task.dimension,
            clip=task.clip,
            noise_multiplier=task.query.noise_multiplier,
            sampling_rate=task.sampling_rate,
            rounds=task.rounds,
            scale=task.query.scale,
            ring_bound=task.query.ring_bound,
            slack=self.plan.privacy.slack,
            sites=len(self.plan.roster.sites),
            t_min=self.plan.secagg.t_min,
            colluding=self.plan.secagg.colluding,
            local_steps=task.local_steps,
        )

    def sum_bound(self, task: Task, contributors: int) -> float:
        """Largest L2 norm, in grid units, that an honest sum has in all but 1e-20 of cases (A3.5).

        ``contributors``: |U2|. What is not noise is bounded by the ring, or by the change of the
        model that a site may send.
        """
        if isinstance(task.query, FedAvgQuery):
            each = task.scale * task.query.update_clip + math.sqrt(task.dimension)
            return contributors * each
        mechanism = self.mechanism(task)
        most = int(mechanism.ring_bound / (mechanism.scale * mechanism.clip))
        return mechanism.sum_bound(contributors, most)

    def at(self, position: int) -> tuple[Task, int]:
        """The task, and the round within it, that follows ``position`` published sums."""
        left = position
        for task in self.tasks:
            if left < task.rounds:
                return task, left
            left -= task.rounds
        raise MisuseError(f"the study is over after {self.total_rounds} sums")

    def finished(self, position: int) -> bool:
        """Whether every query has been answered."""
        return position >= self.total_rounds

    @cached_property
    def initial_parameters(self) -> NDArray[np.float64]:
        """The first public input: shape ``(d,)``, the same bits everywhere."""
        return initial_parameters(self.spec, self.plan.model.init_seed)

    @cached_property
    def initial_sha256(self) -> str:
        """The digest that the plan pins (``model.initial_sha256``)."""
        return digest("initial-model", self.initial_parameters.astype("<f8").tobytes()).hex()

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        """The optimizer's constants."""
        schedule = self.plan.schedule
        return Hyperparameters(
            learning_rate=schedule.learning_rate,
            momentum=schedule.momentum,
            ema=schedule.ema,
            final=schedule.final_learning_rate,
            weight_decay=schedule.weight_decay,
            steps=sum(t.rounds for t in self.tasks if isinstance(t.query, TRAINING)),
        )

    def divisor(self, counts: NDArray[np.float64]) -> float:
        """The public divisor of sums over patients: nominal, or the latest noised count."""
        nominal = self.plan.schedule.nominal_patients
        if nominal is not None:
            return float(nominal)
        if counts.size == 0:
            raise MisuseError("no divisor: neither schedule.nominal_patients nor a count query")
        return max(float(counts.sum()), 1.0)

    def _component_problems(self) -> list[str]:
        return [
            f"queries.{task.index}.components: {task.query.components} of {self.channels} inputs; "
            "ask for fewer"
            for task in self.tasks
            if isinstance(task.query, CovarianceQuery) and task.query.components > self.channels
        ]

    def _initial_model_problems(self) -> list[str]:
        pinned = self.plan.model.initial_sha256
        if pinned is None or pinned == self.initial_sha256:
            return []
        problem = (
            f"model.initial_sha256: this package starts the model at {self.initial_sha256}; every "
            "site and the server need the package that the plan was made with"
        )
        return [problem]

    def _mechanism_problems(self) -> list[str]:
        problems = []
        for task in self.tasks:
            try:
                self.mechanism(task)
            except PlanError as error:
                problems += [f"queries.{task.index}: {line}" for line in error.problems]
        return problems
