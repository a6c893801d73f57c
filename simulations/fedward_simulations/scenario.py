"""A scenario: everything a simulated study needs, in one TOML file, strictly validated.

The ``plan`` table holds sections of a plan as in a deployment; what only a simulation knows (where
the data comes from, how it is split over hospitals, which baselines to run) stands beside it.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from fedward_common.errors import OperatorError, PlanError
from fedward_common.plan.document import describe_problem, read_toml
from fedward_common.plan.sections import Section

PACKAGED = resources.files("fedward_simulations") / "scenarios"


class Data(Section):
    """Where patients come from and how they are spread over ``sites`` hospitals.

    ``images`` reads an image array file (given on the command line or as ``path``), ``phantom``
    draws ``patients`` images of ``size`` pixels, ``breast-cancer`` is scikit-learn's table with
    ``held_out`` of its patients for testing, in no hospital.
    """

    source: Literal["images", "phantom", "breast-cancer"]
    path: str | None = None
    sites: Annotated[int, Field(ge=1, le=200)]
    partition: str = "iid"
    images_per_patient: Annotated[int, Field(ge=1, le=64)] = 1
    plain: bool = False
    patients: Annotated[int, Field(ge=20, le=100_000)] = 1000
    size: Annotated[int, Field(ge=28, le=512)] = 64
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Federation(Section):
    """Thresholds; ``t_min`` is every site unless it is given."""

    t_min: int | None = None
    colluding: int = 0


class Budget(Section):
    """The privacy asked for. Noise multipliers that the plan leaves out are chosen to fit."""

    epsilon: float
    delta: Annotated[float, Field(gt=0, lt=0.01)]
    patients_per_site: Annotated[int, Field(ge=1)]


class Baselines(Section):
    """What is trained beside the federation, with the same model, views and number of steps.

    ``local_learning_rate`` is that of local-DP FedAvg; the plan's own unless it is given.
    """

    pooled: bool = True
    pooled_private: bool = True
    alone: bool = True
    local_fedavg: bool = True
    fedavg_rounds: Annotated[int, Field(ge=1)] = 10
    local_learning_rate: Annotated[float, Field(gt=0)] | None = None

    @property
    def any(self) -> bool:
        """Whether anything is trained beside the federation."""
        return self.pooled or self.pooled_private or self.alone or self.local_fedavg

    plain_learning_rate: Annotated[float, Field(gt=0)] = 0.1


class Scenario(Section):
    """A simulated study."""

    title: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    reproducible: bool = True
    data: Data
    federation: Federation = Federation()
    budget: Budget
    plan: dict[str, Any]
    baselines: Annotated[Baselines, Field(validate_default=True)] = Baselines()
    evaluate_every: Annotated[int, Field(ge=1)] = 5

    @field_validator("plan")
    @classmethod
    def _sections_are_tables(cls, plan: dict[str, Any]) -> dict[str, Any]:
        """What stands in the sections is checked as a plan, once the simulation completed them."""
        for name, section in plan.items():
            rows = section if name == "queries" else [section]
            if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
                form = f"[[plan.{name}]]" if name == "queries" else f"[plan.{name}]"
                raise ValueError(f"{name} must be written as {form}")
        return plan

    @field_validator("baselines")
    @classmethod
    def _baselines_take_gradient_steps(cls, asked: Baselines, info: ValidationInfo) -> Baselines:
        """A baseline takes the federation's steps one by one, which local training does not."""
        plan = info.data.get("plan", {})
        if asked.any and "fedavg" in [query.get("kind") for query in plan.get("queries", ())]:
            raise ValueError(
                "none can be compared with a fedavg query; set pooled, pooled_private, alone and "
                "local_fedavg to false"
            )
        return asked


def load_scenario(name: str) -> tuple[Scenario, str]:
    """Read a scenario file, or a packaged scenario by its name; returns it and its text.

    Raises:
        OperatorError: no such file, not TOML, or fields that are wrong: all of them named.
    """
    path = find_scenario(name)
    document = read_toml(path)
    return parse_scenario(document, str(path)), path.read_text(encoding="utf-8")


def parse_scenario(document: dict[str, Any], source: str) -> Scenario:
    """Validate a scenario from TOML's data types."""
    try:
        return Scenario.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise PlanError(source, [describe_problem(p) for p in error.errors()]) from None
    except (TypeError, ValueError) as error:
        raise PlanError(source, ["holds a value that a scenario cannot (a date?)"]) from error


def find_scenario(name: str) -> Path:
    """The path of a scenario given as a file or as the name of a packaged one."""
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    packaged = Path(str(PACKAGED / f"{name}.toml"))
    if packaged.is_file():
        return packaged
    raise OperatorError(
        f"{name}: neither a scenario file nor one of {', '.join(packaged_scenarios())}"
    )


def packaged_scenarios() -> list[str]:
    """Names of the scenarios that ship with the package."""
    return sorted(
        Path(str(item)).stem for item in PACKAGED.iterdir() if item.name.endswith(".toml")
    )
