"""The site's own rules: what it may be asked, and how much privacy it may ever spend (G7, G9).

``policy.toml`` belongs to the hospital. A new one has empty caps and empty lists: it refuses every
study and says how to change that. A plan is checked as :class:`PlanFacts`, plain numbers and names,
so that the rules can be read on their own.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedward_common.errors import OperatorError

ACCOUNTS = ("train", "holdout")
"""The two accounts of a site, for its life: a patient is in exactly one (B6)."""

NO_CAP = "none"
"""What a person writes for a worst case that is deliberately not capped."""

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
_MINUTES = 24 * 60


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


Window = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$")]
"""Part of a day, such as "08:00-18:30"; one that ends at or before its start ends a day later."""


class Hours(BaseModel):
    """When the site computes, by its own clock; a weekday without windows is closed."""

    model_config = _STRICT

    monday: list[Window] = []
    tuesday: list[Window] = []
    wednesday: list[Window] = []
    thursday: list[Window] = []
    friday: list[Window] = []
    saturday: list[Window] = []
    sunday: list[Window] = []

    def hold(self, at: datetime) -> bool:
        """Say whether ``at``, the site's local time, lies in a window."""
        minute = 60 * at.hour + at.minute
        days: tuple[list[str], ...] = tuple(getattr(self, day) for day in type(self).model_fields)
        yesterday, today = days[at.weekday() - 1], days[at.weekday()]
        return any(start <= minute < end for start, end in map(_minutes, today)) or any(
            minute < end - _MINUTES for _, end in map(_minutes, yesterday)
        )


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
        plan marked unsafe, or one with unverified members, accepted.
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


def load_policy(path: Path) -> Policy:
    """Read and validate ``policy.toml``; a cap that is missing is an empty one.

    Raises:
        OperatorError: unreadable, not TOML, an unknown key or a bad value; every defect is named.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return Policy.model_validate(_with_empty_caps(document))
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot read the policy; check the file") from error
    except tomllib.TOMLDecodeError as error:
        raise OperatorError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        lines = (
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise OperatorError(f"{path}: {'; '.join(lines)}") from error


def default_policy_text() -> str:
    """Return the ``policy.toml`` that ``init`` writes: it refuses everything (G9)."""
    return _DEFAULT


def _with_empty_caps(document: dict[str, Any]) -> dict[str, Any]:
    """Both caps of both accounts have to be decided on: what is left out refuses (G9)."""
    caps = document.get("caps", {})
    if not isinstance(caps, dict):
        return document
    empty = {"epsilon": "", "epsilon_worst_case": ""}
    tables = {name: caps.get(name, {}) for name in ACCOUNTS}
    filled = {n: {**empty, **table} for n, table in tables.items() if isinstance(table, dict)}
    return {**document, "caps": {**caps, **filled}}


def _minutes(window: str) -> tuple[int, int]:
    """The window in minutes from its day's midnight; the end lies above the start."""
    (h1, m1), (h2, m2) = (map(int, time.split(":")) for time in window.split("-"))
    start, end = 60 * h1 + m1, 60 * h2 + m2
    return start, end if end > start else end + _MINUTES


def _deployment_problems(facts: PlanFacts) -> list[str]:
    problems = []
    if facts.unsafe:  # A1
        problems.append("the plan is marked unsafe_for_simulation: a hospital never takes part")
    if facts.colluding < 1:  # A1
        problems.append("the plan tolerates no colluding site: a deployment needs c of at least 1")
    if facts.unverified > facts.colluding:  # A1
        problems.append(
            f"{facts.unverified} members of the roster are unverified, more than the "
            f"{facts.colluding} tolerated: confirm their fingerprints hospital to hospital"
        )
    return problems


_DEFAULT = """\
# What this hospital agrees to. As written here, every study is refused: fill in what you allow.

# The most privacy that may ever be spent on one patient, over all studies of this hospital's life;
# nothing is ever refunded. Both caps must be filled in, for patients who are trained on and for
# patients who are held out for evaluation. Smaller is safer: patients together with the server and
# up to c colluding hospitals learn at most epsilon about one, and epsilon_worst_case is what
# remains if all other hospitals work against this one ("none": not capped).
# An example to compare with: 200 training steps over 8 hospitals, of which 6 must contribute and 1
# may collude, with sampling rate 0.2, noise multiplier 5.8, delta 1e-5 and 20 attempts to spare,
# cost epsilon 2.10 and in the worst case 5.52.
[caps.train]
epsilon = ""
epsilon_worst_case = ""
delta = 1e-5

[caps.holdout]
epsilon = ""
epsilon_worst_case = ""
delta = 1e-5

[studies]
queries = []                 # for example ["count", "moments", "gradient", "histogram"]
models = []                  # for example ["cnn", "svm"]
minimum_contributors = 3     # hospitals whose sum may be opened, at least (t_min)
minimum_colluding = 1        # colluding hospitals that a plan must tolerate, at least (c)
minimum_cohort = 50          # patients of this hospital, at least
audit_share = 0.05           # share of the published sums that this site recomputes itself
clip = { min = 0.0, max = 1e6 }
noise_multiplier = { min = 0.3, max = 1e5 }
sampling_rate = { min = 0.0, max = 1.0 }

# When this hospital computes, by its own clock; remove the marks to use it. A day that is not
# listed is closed, and a window that ends before it begins ends on the next day.
# [hours]
# monday = ["18:00-06:00"]
# saturday = ["00:00-24:00"]
"""
