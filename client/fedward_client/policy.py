"""The site's own rules: what it may be asked, and how much privacy it may ever spend (G7, G9).

``policy.toml`` belongs to the hospital. A new one has empty caps and empty lists: it refuses every
study and says how to change that. A plan is checked as :class:`PlanFacts`, plain numbers and names,
so that the rules can be read on their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fedward_client.hours import Hours
from fedward_common.errors import OperatorError

ACCOUNTS = ("train", "holdout")
"""The two accounts of a site, for its life: a patient is in exactly one (B6)."""

NO_CAP = "none"
"""What a person writes for a worst case that is deliberately not capped."""

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


class AccountCap(BaseModel):
    """What may ever be spent on the patients of one account (B6).

    ``epsilon`` caps guarantee (i) of B4 and ``epsilon_worst_case`` (ii), at ``delta``. An empty
    field is 0, and a cap of 0 refuses everything; only ``epsilon_worst_case`` may be None: no cap.
    """

    model_config = _STRICT

    epsilon: float = Field(default=0.0, ge=0.0, le=100.0)
    epsilon_worst_case: float | None = Field(default=None, ge=0.0, le=150.0)
    delta: float = Field(default=1e-5, gt=0.0, lt=0.01)

    @field_validator("epsilon", "epsilon_worst_case", mode="before")
    @classmethod
    def _empty_is_zero(cls, value: object) -> object:
        return 0.0 if value == "" else value

    @field_validator("epsilon_worst_case", mode="before")
    @classmethod
    def _no_cap_is_none(cls, value: object) -> object:
        return None if value == NO_CAP else value

    def problems(self, table: str) -> list[str]:
        """Say which cap is still to be filled in."""
        found = []
        if self.epsilon == 0.0:
            found.append(f"{table} epsilon is 0 or empty: set the epsilon that may ever be spent")
        if self.epsilon_worst_case == 0.0:
            found.append(
                f"{table} epsilon_worst_case is 0 or empty: set what may be spent if all other "
                f'hospitals work against this one, or "{NO_CAP}"'
            )
        return found


class Caps(BaseModel):
    """The caps of both accounts."""

    model_config = _STRICT

    train: AccountCap = AccountCap()
    holdout: AccountCap = AccountCap()

    def of(self, account: str) -> AccountCap:
        """Return the cap of an account.

        Raises:
            OperatorError: there is no such account.
        """
        if account == "train":
            return self.train
        if account == "holdout":
            return self.holdout
        raise OperatorError(f"account '{account}': there are only 'train' and 'holdout'")


class Range(BaseModel):
    """A closed range of a plan's number."""

    model_config = _STRICT

    min: float
    max: float

    def problem(self, name: str, value: float) -> str | None:
        """Say how ``value`` is out of range, or None."""
        if self.min <= value <= self.max:
            return None
        return f"{name} {value:.6g} is outside {self.min:.6g} to {self.max:.6g}"


class StudyRules(BaseModel):
    """Which studies the site takes part in."""

    model_config = _STRICT

    queries: list[str] = []
    models: list[str] = []
    clip: Range = Range(min=0.0, max=1e6)
    noise_multiplier: Range = Range(min=0.3, max=1e5)
    sampling_rate: Range = Range(min=0.0, max=1.0)
    minimum_contributors: int = Field(default=3, ge=3)
    minimum_colluding: int = Field(default=1, ge=0)
    minimum_cohort: int = Field(default=50, ge=1)
    audit_share: float = Field(default=0.05, ge=0.0, le=1.0)


@dataclass(frozen=True)
class QueryFacts:
    """One query of a plan: ``account`` is 'train' or 'holdout'."""

    name: str
    account: str
    clip: float
    noise_multiplier: float
    sampling_rate: float


@dataclass(frozen=True)
class PlanFacts:
    """What a policy looks at.

    Attributes:
        queries: every query of the plan.
        model: kind of the model.
        t_min: sites that must contribute.
        colluding: c, tolerated colluding members.
        unverified: roster members whose fingerprint this site has not confirmed (A1).
        cohort: the site's own patients for training; the number stays here.
        accounts: (account, epsilon, worst-case epsilon) of the whole plan.
        delta: the plan's delta.
        unsafe: the plan is marked for simulation only.
        reply_delay: fixed delay of a masked addend, in seconds.
    """

    queries: tuple[QueryFacts, ...]
    model: str
    t_min: int
    colluding: int
    unverified: int
    cohort: int
    accounts: tuple[tuple[str, float, float], ...]
    delta: float
    unsafe: bool
    reply_delay: float


class Policy(BaseModel):
    """The content of ``policy.toml``."""

    model_config = _STRICT

    caps: Caps = Caps()
    studies: StudyRules = StudyRules()
    hours: Hours | None = None

    def is_open(self, at: datetime) -> bool:
        """Say whether the site computes at ``at``, its local time; always, without hours."""
        return self.hours is None or self.hours.hold(at)

    def refusals(self, facts: PlanFacts, *, simulation: bool = False) -> list[str]:
        """Say why this site does not take part, one line for each reason; empty if it may.

        ``simulation`` is set by a simulation's own composition, never by a file: only then is a
        plan marked unsafe, one without a delay, or one with unverified members, accepted.
        """
        problems = [*self._study_problems(facts), *self._cap_problems(facts)]
        for query in facts.queries:
            problems += self._query_problems(query)
        if not simulation:
            problems += _deployment_problems(facts)
        return problems

    def _study_problems(self, facts: PlanFacts) -> list[str]:
        rules = self.studies
        problems = []
        if facts.model not in rules.models:
            problems.append(f"model '{facts.model}' is not in [studies] models")
        if facts.t_min < rules.minimum_contributors:
            problems.append(
                f"t_min {facts.t_min} is below [studies] minimum_contributors "
                f"{rules.minimum_contributors}"
            )
        if facts.colluding < rules.minimum_colluding:
            problems.append(
                f"c {facts.colluding} is below [studies] minimum_colluding "
                f"{rules.minimum_colluding}"
            )
        if facts.cohort < rules.minimum_cohort:
            problems.append(
                f"this site's cohort is below [studies] minimum_cohort {rules.minimum_cohort}"
            )
        return problems

    def _cap_problems(self, facts: PlanFacts) -> list[str]:
        problems = []
        for account in ACCOUNTS:  # until both are filled in, every plan is refused
            problems += self.caps.of(account).problems(f"[caps.{account}]")
        for account, epsilon, worst in facts.accounts:
            cap = self.caps.of(account)
            table = f"[caps.{account}]"
            if 0.0 < cap.epsilon < epsilon:
                problems.append(f"epsilon {epsilon:.4g} is above {table} epsilon {cap.epsilon:.4g}")
            if cap.epsilon_worst_case is not None and 0.0 < cap.epsilon_worst_case < worst:
                problems.append(
                    f"worst-case epsilon {worst:.4g} is above {table} epsilon_worst_case "
                    f"{cap.epsilon_worst_case:.4g}"
                )
            if facts.delta > cap.delta:
                problems.append(f"delta {facts.delta:.3g} is above {table} delta {cap.delta:.3g}")
        return problems

    def _query_problems(self, query: QueryFacts) -> list[str]:
        rules = self.studies
        listed = query.name in rules.queries
        found = (
            None if listed else "is not in [studies] queries",
            rules.clip.problem("clip", query.clip),
            rules.noise_multiplier.problem("noise_multiplier", query.noise_multiplier),
            rules.sampling_rate.problem("sampling_rate", query.sampling_rate),
        )
        return [f"query '{query.name}': {problem}" for problem in found if problem]


def _deployment_problems(facts: PlanFacts) -> list[str]:
    problems = []
    if facts.unsafe:  # A1
        problems.append("the plan is marked unsafe_for_simulation: a hospital never takes part")
    if facts.reply_delay <= 0:  # B2
        problems.append(
            "the plan has no reply_delay_seconds: when an answer leaves would tell of the patients"
        )
    if facts.colluding < 1:  # A1
        problems.append("the plan tolerates no colluding site: a deployment needs c of at least 1")
    if facts.unverified > facts.colluding:  # A1
        problems.append(
            f"{facts.unverified} members of the roster are unverified, more than the "
            f"{facts.colluding} tolerated: confirm their fingerprints hospital to hospital"
        )
    return problems
