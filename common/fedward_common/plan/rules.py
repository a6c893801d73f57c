"""Rules of a plan that span sections. Each returns every violation, one line each."""

from __future__ import annotations

from collections.abc import Iterator

from fedward_common.plan.document import Plan
from fedward_common.plan.sections import (
    TRAINING,
    Augmentation,
    CountQuery,
    CovarianceQuery,
    HistogramQuery,
    MomentsQuery,
)
from fedward_common.secagg.parameters import group_problems

ANSWER_SECONDS = 10.0
"""Of an exchange, beside the reply delay: a site asks for its order within four, and answers."""


def structural_problems(plan: Plan) -> list[str]:
    """What is wrong between sections whose single fields are well-formed."""
    rules = (_roster, _group, _cohort, _views, _schedule, _histograms, _components)
    return [line for rule in rules for line in rule(plan)]


def _roster(plan: Plan) -> Iterator[str]:
    for field in ("name", "identity"):
        values = [getattr(site, field) for site in plan.roster.sites]
        for value in sorted({value for value in values if values.count(value) > 1}):
            yield f"roster.sites: {field} {value} appears twice; each site needs its own"


def _group(plan: Plan) -> Iterator[str]:
    secagg = plan.secagg
    for line in group_problems(len(plan.roster.sites), secagg.t_min, secagg.colluding):
        yield line if line.startswith("roster") else f"secagg.{line}"


def _cohort(plan: Plan) -> Iterator[str]:
    table = plan.cohort.source == "table"
    if table and not plan.cohort.columns:
        yield "cohort.columns: missing; a table needs its columns with public bounds"
    if not table and plan.cohort.columns:
        yield "cohort.columns: given for images; remove them or set cohort.source = 'table'"
    for column in plan.cohort.columns:
        if column.lower >= column.upper:
            yield f"cohort.columns: {column.name}: lower must be below upper"
    if table != (plan.model.features == "columns"):
        yield "model.features: 'columns' goes with cohort.source = 'table', and only with it"
    if table and plan.cohort.images_per_patient != 1:
        yield "cohort.images_per_patient: a table has one row a patient; set it to 1"


def _views(plan: Plan) -> Iterator[str]:
    for index, query in enumerate(plan.queries):
        viewed = isinstance(query, TRAINING) and query.augmentation != Augmentation()
        if viewed and plan.model.features is not None:
            yield f"queries.{index}.augmentation: features are fixed; leave it out"


def _histograms(plan: Plan) -> Iterator[str]:
    for index, query in enumerate(plan.queries):
        odd = isinstance(query, HistogramQuery) and query.bins % 2 == 1
        if odd and len(plan.study.classes) == 2:  # the threshold 0.5 must be an edge
            yield f"queries.{index}.bins: must be even for two classes; add one"


def _components(plan: Plan) -> Iterator[str]:
    """The svm sees principal components from its first step to its last, or never."""
    places = [i for i, query in enumerate(plan.queries) if isinstance(query, CovarianceQuery)]
    for index in places[1:]:
        yield f"queries.{index}: a second covariance query; remove it"
    if places and plan.model.kind != "svm":
        yield f"queries.{places[0]}: components are for model.kind = 'svm'; remove the query"
    for index, query in enumerate(plan.queries):
        place = places[0] if places else index
        if isinstance(query, (*TRAINING, HistogramQuery)) and index < place:
            yield f"queries.{index}: asks about components before queries.{place}; put it after"
        if isinstance(query, MomentsQuery) and index > place:
            yield f"queries.{index}: would move what queries.{place} was centred at; put it before"


def _schedule(plan: Plan) -> Iterator[str]:
    rounds = sum(q.rounds if isinstance(q, TRAINING) else 1 for q in plan.queries)
    attempts = plan.schedule.maximum_attempts
    if attempts < rounds:
        yield f"schedule.maximum_attempts: {attempts} is below the {rounds} rounds; raise it"
    delay, deadline = plan.schedule.reply_delay_seconds, plan.schedule.round_deadline_seconds
    if delay and deadline < delay + ANSWER_SECONDS:
        yield (
            f"schedule.round_deadline_seconds: {deadline:g} is too short for answers that leave "
            f"after {delay:g}; give {delay + ANSWER_SECONDS:g} or more"
        )
    counted = plan.schedule.nominal_patients is not None
    for index, query in enumerate(plan.queries):
        counted = counted or (isinstance(query, CountQuery) and query.split == "train")
        if isinstance(query, (*TRAINING, MomentsQuery, CovarianceQuery)) and not counted:
            yield (
                f"queries.{index}: needs a divisor; put a count query before it or set "
                "schedule.nominal_patients"
            )
