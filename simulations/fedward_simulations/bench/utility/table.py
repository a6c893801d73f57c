"""The cells of ``bench utility`` as a table: means over seeds, standard errors, paired differences.

A difference is taken seed by seed between two methods of the same variant, then averaged; its
standard error is that of the paired differences.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedward_simulations.bench.utility.models import Cell
from fedward_simulations.bench.utility.request import METHODS, Request, Variant
from fedward_simulations.bench.versions import version_of

PEERS = ("pooled_private", "local_fedavg")
"""What ours is compared with, seed by seed."""

TITLES = {
    "federated": "fedward",
    "pooled_private": "pooled DP-SGD",
    "local_fedavg": "local-DP FedAvg",
    "alone": "a site alone, DP",
    "pooled": "pooled, no privacy",
}

NOTE = (
    "fedward: the sites' own integer addends (clipped, rounded, noised), added without the masks, "
    "which cancel in the sum. Settings come from the scenario. Epsilon is of the whole plan at its "
    "delta, every query on training patients included; the search of settings on validation data "
    "is not charged. accuracy: at 0.5. balanced: accuracy at the threshold that the plan's count "
    "query gives, the noised share of the class."
)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its standard error, None for a single seed."""

    mean: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Over one or more values."""
        if len(values) == 1:
            return cls(values[0], None)
        return cls(statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True)
class Line:
    """One method in one variant, over ``seeds``; ``over`` holds what it is ahead of others in AUC.

    ``epsilon`` and ``epsilon_worst_case`` are None without privacy.
    """

    scenario: str
    method: str
    variant: Variant
    seeds: tuple[int, ...]
    epsilon: float | None
    epsilon_worst_case: float | None
    auc: Mean
    accuracy: Mean
    balanced: Mean
    over: dict[str, Mean]


def lines(cells: Sequence[Cell]) -> list[Line]:
    """The table, a line for each scenario, variant and method, in a fixed order."""
    groups: dict[tuple[str, Variant, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.scenario, cell.variant, cell.method), []).append(cell)
    found = [_line(group, groups) for group in groups.values()]
    return sorted(found, key=_place)


def document(cells: Sequence[Cell], request: Request) -> dict[str, Any]:
    """What ``--json`` prints: plain values only."""
    return {
        "scored_on": "test images" if request.split == "test" else "validation images",
        "note": NOTE,
        "versions": {name: version_of(name) for name in ("fedward", "torch", "numpy")},
        "lines": [asdict(line) for line in lines(cells)],
        "cells": [
            {"scenario": c.scenario, "method": c.method, "variant": c.variant.name}
            | {"seed": c.seed, "auc": c.auc, "accuracy": c.accuracy, "balanced": c.balanced}
            for c in cells
        ],
    }


def _line(group: list[Cell], groups: dict[tuple[str, Variant, str], list[Cell]]) -> Line:
    first = group[0]
    private = math.isfinite(first.epsilon)
    over = {}
    if first.method == "federated":
        for peer in PEERS:
            paired = _paired(group, groups.get((first.scenario, first.variant, peer), []))
            if paired:
                over[peer] = Mean.of(paired)
    return Line(
        scenario=first.scenario,
        method=first.method,
        variant=first.variant,
        seeds=tuple(cell.seed for cell in group),
        epsilon=first.epsilon if private else None,
        epsilon_worst_case=first.epsilon_worst_case if private else None,
        auc=Mean.of([cell.auc for cell in group]),
        accuracy=Mean.of([cell.accuracy for cell in group]),
        balanced=Mean.of([cell.balanced for cell in group]),
        over=over,
    )


def _paired(ours: list[Cell], theirs: list[Cell]) -> list[float]:
    """Differences of AUC, seed by seed."""
    by_seed = {cell.seed: cell.auc for cell in theirs}
    return [cell.auc - by_seed[cell.seed] for cell in ours if cell.seed in by_seed]


def _place(line: Line) -> tuple[str, float, int, int]:
    """Without privacy last; thresholds of one's own before others."""
    epsilon = math.inf if line.epsilon is None else line.variant.epsilon
    return line.scenario, epsilon, line.variant.colluding, METHODS.index(line.method)
