"""What ``bench utility`` is asked for: scenarios, variants of their plans, methods, seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedward_common.errors import OperatorError
from fedward_simulations.scenario import Federation, Scenario, load_scenario

METHODS = ("federated", "pooled_private", "local_fedavg", "alone", "pooled")
DROPOUT = (6, 1)
"""t_min and c of the variant that tolerates dropouts and a colluding member."""

Split = Literal["test", "val"]


@dataclass(frozen=True)
class Variant:
    """A scenario's plan at one epsilon; ``t_min`` and ``colluding`` are its own or others."""

    epsilon: float
    t_min: int | None
    colluding: int

    @property
    def name(self) -> str:
        """Names its folder."""
        members = "all" if self.t_min is None else str(self.t_min)
        return f"eps{self.epsilon:g}-t{members}-c{self.colluding}"

    def of(self, scenario: Scenario, seed: int) -> Scenario:
        """The scenario in this variant at one seed."""
        return scenario.model_copy(
            update={
                "seed": seed,
                "budget": scenario.budget.model_copy(update={"epsilon": self.epsilon}),
                "federation": Federation(t_min=self.t_min, colluding=self.colluding),
            }
        )


@dataclass(frozen=True)
class Request:
    """What to measure: ``epsilons``, the first with every method, and the images to score on."""

    scenarios: Mapping[str, Scenario]
    images: Path
    epsilons: Sequence[float]
    seeds: Sequence[int]
    methods: Sequence[str] = METHODS
    dropout: tuple[int, int] | None = None
    split: Split = "test"


def make_request(
    scenarios: Sequence[str],
    images: Path,
    *,
    epsilons: Sequence[float],
    seeds: str,
    methods: Sequence[str] | None,
    dropout: bool,
    split: Split,
) -> Request:
    """Read the command line's words; ``seeds`` is a number or a range such as ``0-4``.

    Raises:
        OperatorError: no such scenario or method, or seeds of another form.
    """
    form = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", seeds)
    if form is None or int(form[2] or form[1]) < int(form[1]):
        raise OperatorError(f"--seeds: {seeds!r} is neither a number nor a range such as 0-4")
    unknown = [method for method in methods or () if method not in METHODS]
    if unknown:
        raise OperatorError(f"--method: {unknown[0]!r} is not one of {', '.join(METHODS)}")
    return Request(
        scenarios={Path(name).stem: load_scenario(name)[0] for name in scenarios},
        images=images,
        epsilons=epsilons,
        seeds=range(int(form[1]), int(form[2] or form[1]) + 1),
        methods=methods or METHODS,
        dropout=DROPOUT if dropout else None,
        split=split,
    )


def stages(request: Request) -> list[tuple[Variant, list[str]]]:
    """Which methods are trained in which variant, in order."""
    own = [Variant(epsilon, None, 0) for epsilon in request.epsilons]
    later = ("alone", "pooled")
    found = [(own[0], [m for m in METHODS if m not in later])]
    found += [(variant, ["federated"]) for variant in own[1:]]
    if request.dropout is not None:
        found.append((Variant(own[0].epsilon, *request.dropout), ["federated"]))
    found.append((own[0], list(later)))
    found += [(variant, ["pooled_private", "local_fedavg", "alone"]) for variant in own[1:]]
    asked = [(variant, [m for m in some if m in request.methods]) for variant, some in found]
    return [(variant, methods) for variant, methods in asked if methods]
