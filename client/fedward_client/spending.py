"""What composed queries have cost the patients of an account: pure arithmetic for the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from fedward_client.policy import AccountCap
from fedward_common.errors import PlanError
from fedward_common.privacy.accounting import (
    INTERVAL,
    MAX_EPSILON,
    Mechanism,
    composed_cost,
    epsilon,
)
from fedward_common.privacy.grid import GRID_SHARE, grid_charge
from fedward_common.privacy.renyi import Array, RenyiFilter, epsilon_of_cost, renyi_cost

CLOSED = "it is closed for good: debits were lost, and nobody knows what its patients have paid"
"""Why a closed account pays for nothing."""


class Run(NamedTuple):
    """One attempt of a query as one adversary sees it: its noise, its rate, what the grid adds.

    ``steps``: how often the mechanism runs in it, 1 but for local training; ``grid_divergence`` is
    that of all of them.
    """

    noise_multiplier: float
    sampling_rate: float
    grid_divergence: float
    steps: int = 1


@dataclass(frozen=True)
class Spent:
    """What an account has cost its patients, at ``delta``.

    Attributes:
        debits: attempts debited.
        epsilon: guarantee (i) of B4, as the cap's filter counts it.
        epsilon_fixed: guarantee (i), as if every parameter had been fixed in advance.
        epsilon_worst_case: guarantee (ii), as the cap's filter counts it; None without such a cap.
        epsilon_worst_case_fixed: guarantee (ii), as if fixed in advance; inf past any bound.
        delta: the account's delta.
    """

    debits: int
    epsilon: float
    epsilon_fixed: float
    epsilon_worst_case: float | None
    epsilon_worst_case_fixed: float
    delta: float


@dataclass(frozen=True)
class Tally:
    """Composed runs against one adversary, over every plan of the site's life.

    ``runs`` counts runs by (noise multiplier, rate); ``cost`` is their Rényi cost.
    """

    runs: Mapping[tuple[float, float], int] = field(default_factory=dict)
    cost: Array = field(default_factory=lambda: composed_cost(()))
    divergence: float = 0.0

    def plus(self, run: Run, times: int) -> Tally:
        """Return this tally with ``times`` more attempts."""
        pair, runs = (run.noise_multiplier, run.sampling_rate), times * run.steps
        return Tally(
            runs={**self.runs, pair: self.runs.get(pair, 0) + runs},
            cost=self.cost + runs * renyi_cost(*pair),
            divergence=self.divergence + times * run.grid_divergence,
        )

    def filtered(self, cap: float, delta: float) -> float:
        """Epsilon as the filter of a cap of (``cap``, ``delta``) counts it; inf past any bound."""
        if not self.runs:
            return 0.0
        try:
            charge = grid_charge(cap, delta, self.divergence, strict=False)
        except PlanError:
            return math.inf
        return _filter(cap, delta * (1.0 - GRID_SHARE)).epsilon_of(self.cost) + charge.epsilon

    def fixed(self, delta: float, interval: float = INTERVAL) -> float:
        """Epsilon at ``delta`` as if every parameter had been fixed in advance (PLD)."""
        if not self.runs:
            return 0.0
        reserved = epsilon_of_cost(self.cost, delta * (1.0 - GRID_SHARE))
        if reserved > MAX_EPSILON:
            return math.inf
        mechanisms = [Mechanism(*pair, rounds=count) for pair, count in self.runs.items()]
        try:
            charge = grid_charge(reserved, delta, self.divergence, strict=False)
        except PlanError:
            return math.inf
        return epsilon(mechanisms, delta - charge.delta, interval=interval) + charge.epsilon


@dataclass(frozen=True)
class Account:
    """One account against both adversaries of B4; of a ``closed`` one nobody knows what it cost."""

    debits: int = 0
    closed: bool = False
    server: Tally = field(default_factory=Tally)
    worst: Tally = field(default_factory=Tally)

    def plus(self, server: Run, worst: Run, times: int = 1) -> Account:
        """Return this account with ``times`` more attempts of one query."""
        return replace(
            self,
            debits=self.debits + times,
            server=self.server.plus(server, times),
            worst=self.worst.plus(worst, times),
        )

    def spent(self, cap: AccountCap, interval: float = INTERVAL) -> Spent:
        """Return every figure; the PLD ones take up to a second, less on a coarser interval."""
        worst = cap.epsilon_worst_case
        if self.closed:
            enforced = None if worst is None else math.inf
            return Spent(self.debits, math.inf, math.inf, enforced, math.inf, cap.delta)
        return Spent(
            debits=self.debits,
            epsilon=self.server.filtered(cap.epsilon, cap.delta),
            epsilon_fixed=self.server.fixed(cap.delta, interval),
            epsilon_worst_case=None if worst is None else self.worst.filtered(worst, cap.delta),
            epsilon_worst_case_fixed=self.worst.fixed(cap.delta, interval),
            delta=cap.delta,
        )

    def excess(self, cap: AccountCap) -> str | None:
        """Say which cap this account would pass, or None; takes microseconds."""
        if self.closed:
            return CLOSED
        after = self.server.filtered(cap.epsilon, cap.delta)
        if after > cap.epsilon:
            return f"epsilon would become {after:.4g}, the cap is {cap.epsilon:.4g}"
        limit = cap.epsilon_worst_case
        if limit is None:
            return None
        after = self.worst.filtered(limit, cap.delta)
        if after > limit:
            return f"worst-case epsilon would become {after:.4g}, the cap is {limit:.4g}"
        return None


@lru_cache(maxsize=16)
def _filter(cap: float, delta: float) -> RenyiFilter:
    return RenyiFilter(cap, delta)
