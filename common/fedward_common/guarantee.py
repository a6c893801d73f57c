"""What a study costs a patient: the plan's queries, put to the accountant (B4, B5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, pairwise

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


def spent_curve(
    study: Study,
    positions: Sequence[int],
    split: Split = "train",
    *,
    attempts: Sequence[int] = (),
) -> list[float]:
    """Epsilon spent by one account after each of ``positions`` sums: operational only (B5).

    ``attempts`` is the e of each sum that was made: every e from the one before was a try for it,
    and debited whether it gave the sum or not. Sums beyond take one attempt each.
    """
    runs = [e - before for before, e in pairwise((0, *attempts))]
    runs += [1] * (study.total_rounds - len(runs))
    schedule: list[Mechanism] = []
    debits = [0]  # of this account, after so many sums of the study
    for task in study.tasks:
        mine = task.split == split
        tried = runs[len(debits) - 1 : len(debits) - 1 + task.rounds]
        if mine:
            parameters = study.mechanism(task)
            once = mechanism_of(parameters, parameters.honest)
            schedule.append(replace(once, rounds=sum(tried)))
        debits += accumulate(tried if mine else [0] * len(tried), initial=debits.pop())
    steps = [debits[position] for position in positions]
    return list(epsilon_curve(schedule, study.plan.privacy.delta, steps))
