"""Drafting a plan: what a coordinator leaves out is worked out, and only then is it a plan.

A draft may leave out a query's ``noise_multiplier`` (chosen so that the account that pays ends at
the epsilon asked for) and its ``scale`` and ``ring_bound`` (chosen so that the ring never wraps).
What is worked out is written into the plan: sites take no parameter that is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedward_common.errors import OperatorError, PlanError
from fedward_common.models.parameters import parameter_count
from fedward_common.plan.document import Plan, parse_plan
from fedward_common.plan.rules import structural_problems
from fedward_common.privacy.accounting import Mechanism, calibrate, extra_attempts, with_retries
from fedward_common.privacy.parameters import choose_ring
from fedward_common.queries.task import Task, gradient_slack, tasks_of
from fedward_common.study import Study, input_channels, input_spec, model_spec

Document = dict[str, Any]

PLACEHOLDER_NOISE = 1.0
"""Stands in a draft for a noise multiplier that is still to be chosen."""

HEADROOM = 2
"""Sites up to this many times the nominal size are covered by the slack of B3."""

LARGEST_EPSILON = 50.0


@dataclass(frozen=True)
class Target:
    """What the coordinator asks for: epsilon of a whole account, and the nominal cohort size."""

    epsilon: float
    patients_per_site: int


def check_draft(document: Mapping[str, Any], target: Target, source: str) -> None:
    """Refuse at once a draft that cannot become a plan, whatever its noise.

    Raises:
        PlanError: every defect found, each with its field, value and remedy.
    """
    if not 0.0 < target.epsilon <= LARGEST_EPSILON:
        problem = (
            f"epsilon = {target.epsilon}: must be above 0, at most {LARGEST_EPSILON:g}; change it"
        )
        raise PlanError(source, [problem])
    given = document.get("queries", [])
    if not isinstance(given, list) or not all(isinstance(query, dict) for query in given):
        raise PlanError(source, ["queries: a list of tables; begin each query with [[queries]]"])
    problems = structural_problems(_sketch({**document, "queries": given}, source))
    if problems:
        raise PlanError(source, problems)


def draft_plan(document: Mapping[str, Any], target: Target, source: str) -> Plan:
    """Complete ``document`` (a plan in TOML's types) into a plan that can be signed.

    Raises:
        PlanError: every defect found, each with its field, value and remedy.
    """
    check_draft(document, target, source)
    try:
        return _complete(document, target, source)
    except OperatorError as error:
        if isinstance(error, PlanError) and error.source == source:
            raise
        raise PlanError(source, [str(error)]) from error


def _complete(document: Mapping[str, Any], target: Target, source: str) -> Plan:
    queries = [dict(query) for query in document["queries"]]
    whole: Document = {**document, "queries": queries}
    open_queries = [i for i, query in enumerate(queries) if "noise_multiplier" not in query]
    sketch = _sketch(whole, source)
    tasks = _tasks(sketch)
    whole["privacy"] = {
        "slack": gradient_slack(tasks, HEADROOM * target.patients_per_site),
        **document["privacy"],
    }
    for split in ("train", "holdout"):
        chosen = [i for i in open_queries if tasks[i].split == split]
        if chosen:
            _calibrate(queries, tasks, chosen, split, sketch, target.epsilon)
    _choose_rings(whole, tasks, sketch, target)
    plan = parse_plan(whole, source)
    study = Study(plan, source)
    pinned = {**whole, "model": {**whole["model"], "initial_sha256": study.initial_sha256}}
    return parse_plan(pinned, source)


def _sketch(document: Document, source: str) -> Plan:
    """The draft as a plan with placeholders: enough for dimensions, clips and rates."""
    queries = [
        {"noise_multiplier": PLACEHOLDER_NOISE, "scale": 1.0, "ring_bound": 1, **query}
        for query in document["queries"]
    ]
    return parse_plan({**document, "queries": queries}, source)


def _tasks(sketch: Plan) -> tuple[Task, ...]:
    parameters = parameter_count(model_spec(sketch))
    return tasks_of(sketch, parameters=parameters, channels=input_channels(input_spec(sketch)))


def _calibrate(
    queries: list[Document],
    tasks: tuple[Task, ...],
    chosen: list[int],
    split: str,
    sketch: Plan,
    epsilon: float,
) -> None:
    """Give all open queries of one account the same noise multiplier: the one that fits."""
    rounds = sum(task.rounds for task in tasks)
    extra = extra_attempts(rounds, sketch.schedule.maximum_attempts)

    def build(noise: float) -> Sequence[Mechanism]:
        paying = [
            Mechanism(
                noise_multiplier=queries[task.index].get("noise_multiplier", noise),
                sampling_rate=task.sampling_rate,
                rounds=task.rounds,
                steps=max(1, task.local_steps),
            )
            for task in tasks
            if task.split == split
        ]
        return with_retries(paying, extra, sketch.privacy.delta)

    noise = calibrate(epsilon, sketch.privacy.delta, build)
    for index in chosen:
        queries[index]["noise_multiplier"] = noise


def _choose_rings(
    document: Document, tasks: tuple[Task, ...], sketch: Plan, target: Target
) -> None:
    for task, query in zip(tasks, document["queries"], strict=True):
        if "scale" in query and "ring_bound" in query:
            continue
        group = (len(sketch.roster.sites), sketch.secagg.t_min, sketch.secagg.colluding)
        sites, t_min, colluding = (1, 1, 0) if task.local_steps else group  # alone at its steps
        scale, bound = choose_ring(
            dimension=task.dimension,
            clip=task.clip,
            noise_multiplier=query["noise_multiplier"],
            sampling_rate=task.sampling_rate,
            slack=document["privacy"]["slack"],
            sites=sites,
            t_min=t_min,
            colluding=colluding,
            expected_patients_per_site=target.patients_per_site,
        )
        query["scale"], query["ring_bound"] = scale, bound
