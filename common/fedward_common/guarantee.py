"""What a study costs a patient: the plan's queries, put to the accountant (B4, B5)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from fedward_common.privacy.accounting import Mechanism, epsilon_curve
from fedward_common.privacy.parameters import MechanismParameters
from fedward_common.privacy.statement import PrivacyStatement, mechanism_of, privacy_statement
from fedward_common.queries.task import Split
from fedward_common.study import Study


def accounts_of(study: Study) -> dict[str, list[MechanismParameters]]:
    """The plan's queries by the account that pays: ``train`` and ``holdout``."""
    accounts: dict[str, list[MechanismParameters]] = {"train": [], "holdout": []}
    for task in study.tasks:
        accounts[task.split].append(study.mechanism(task))
    return accounts


@lru_cache(maxsize=8)
def statement_of(study: Study) -> PrivacyStatement:
    """The guarantees of the whole plan, retries included, in numbers and words."""
    plan = study.plan
    return privacy_statement(accounts_of(study), plan.privacy.delta, plan.schedule.maximum_attempts)


def spent_curve(study: Study, positions: Sequence[int], split: Split = "train") -> list[float]:
    """Epsilon spent by one account after each of ``positions`` sums: operational only (B5)."""
    schedule: list[Mechanism] = []
    debits = [0]  # of this account, after so many sums of the study
    for task in study.tasks:
        mine = task.split == split
        if mine:
            parameters = study.mechanism(task)
            schedule.append(mechanism_of(parameters, parameters.honest))
        before = debits[-1]
        debits += [before + (step if mine else 0) for step in range(1, task.rounds + 1)]
    steps = [debits[position] for position in positions]
    return list(epsilon_curve(schedule, study.plan.privacy.delta, steps))
