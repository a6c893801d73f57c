"""The plan as a whole: reading it, its canonical bytes and its digest.

TOML is for people to write; the canonical JSON (sorted keys, no spaces, shortest floats) is what
is hashed and signed, and people can read it too.
"""

from __future__ import annotations

import json
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from fedward_common.codec import digest
from fedward_common.errors import OperatorError, PlanError
from fedward_common.plan import sections
from fedward_common.plan.sections import Query, Section

MAX_PLAN_BYTES = 1 << 20


class Plan(Section):
    """A study, completely described. Two plans are the same study iff their digests are equal."""

    schema_version: Annotated[Literal[3], Field(alias="schema")] = 3
    study: sections.Study
    protocol: sections.Protocol = sections.Protocol()
    roster: sections.Roster
    cohort: sections.Cohort = sections.Cohort()
    preprocess: sections.Preprocess = sections.Preprocess()
    model: sections.Model
    queries: Annotated[tuple[Query, ...], Field(min_length=1, max_length=64)]
    privacy: sections.Privacy
    secagg: sections.SecureAggregation
    schedule: sections.Schedule
    release: sections.Release = sections.Release()

    @cached_property
    def canonical(self) -> bytes:
        """The one encoding that is hashed and signed."""
        document = self.model_dump(mode="json", by_alias=True)
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode(
            "ascii"
        )

    @cached_property
    def digest(self) -> bytes:
        """H(plan): 32 bytes."""
        return digest("plan", self.canonical)


def parse_plan(document: dict[str, Any], source: str) -> Plan:
    """Validate a plan from TOML's or JSON's data types.

    Raises:
        PlanError: every defect at once, each with its field, value and remedy.
    """
    try:
        # JSON mode lets a list stand for a tuple while everything else stays strict.
        plan = Plan.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise PlanError(source, [describe_problem(problem) for problem in error.errors()]) from None
    except (TypeError, ValueError) as error:
        raise PlanError(source, ["the plan holds a value that JSON cannot express"]) from error
    return plan


def load_plan(path: Path) -> Plan:
    """Read a plan from a TOML file."""
    return parse_plan(read_toml(path), str(path))


def plan_from_canonical(data: bytes) -> Plan:
    """Decode canonical bytes, refusing any other encoding of the same plan."""
    if len(data) > MAX_PLAN_BYTES:
        raise PlanError("plan", [f"{len(data)} bytes exceed the limit of {MAX_PLAN_BYTES}"])
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PlanError("plan", ["not JSON"]) from error
    if not isinstance(document, dict):
        raise PlanError("plan", ["not a JSON object"])
    plan = parse_plan(document, "plan")
    if plan.canonical != data:
        raise PlanError("plan", ["not in canonical form"])
    return plan


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file for a person: one-line errors."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OperatorError(f"{path}: no such file; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot be read as UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise OperatorError(f"{path}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise OperatorError(f"{path}: nested too deeply; this is not a plan") from error


def describe_problem(problem: Any) -> str:
    """Turn one pydantic error into ``field = value: what is wrong; remedy``."""
    field = ".".join(str(part) for part in problem["loc"]) or "plan"
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{field}: unknown key; remove it or correct its spelling"
    if kind == "missing":
        return f"{field}: missing; add it"
    message = str(problem["msg"])
    message = message[:1].lower() + message[1:]
    return f"{field} = {_short(problem.get('input'))}: {message}; change it"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
