"""The ledger, gone through once more by other means (B5, B6, B8).

Both epsilons of every account are recomputed from the debits by dp_accounting's own accountant,
without any of this project's accounting code, and what was seen to leave is held against the
debits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from fedward_client.debit import Debit
from fedward_client.policy import ACCOUNTS
from fedward_client.privacy_audit.finding import Finding
from fedward_client.site import Site
from fedward_client.spending import Spent
from fedward_common.messages import MaskOrder

Attempt = tuple[bytes, int]
"""(study, e)."""

TOLERANCE = 1e-3
"""How far two exact figures may differ: the accountant rounds losses to multiples of 1e-4."""

GRID_DELTA = 0.01
"""Share of delta, at most, that integer noise takes up; it may add as much to epsilon (B3)."""

INTERVAL = 1e-4


@dataclass(frozen=True)
class Recomputed:
    """One epsilon of one account, as the ledger states it and between what bounds it must lie."""

    account: str
    adversary: str
    stated: float
    lowest: float
    highest: float

    @property
    def agrees(self) -> bool:
        """Whether the ledger states what the accountant finds."""
        return self.lowest - TOLERANCE <= self.stated <= self.highest + TOLERANCE


@dataclass(frozen=True)
class ReplayEvidence:
    """What the replay of one site's ledger showed.

    Attributes:
        debits: How many there are.
        epsilons: Every account's figures.
        undebited: Attempts that left without a debit.
        twice: Attempts that were debited more than once.
        seen: How many attempts were seen to leave.
    """

    debits: int
    epsilons: tuple[Recomputed, ...]
    undebited: tuple[Attempt, ...]
    twice: int
    seen: int

    @property
    def finding(self) -> Finding:
        """The verdict."""
        wrong = [item for item in self.epsilons if not item.agrees]
        shown = "; ".join(
            f"{item.account}, {item.adversary}: ledger {item.stated:.3f}, "
            f"accountant {item.lowest:.3f}"
            for item in (wrong or self.epsilons)
            if item.stated
        )
        problems = [f"epsilon does NOT agree ({shown})"] if wrong else []
        if self.undebited:
            problems.append(f"{len(self.undebited)} of {self.seen} addends left WITHOUT a debit")
        if self.twice:
            problems.append(f"{self.twice} attempts were debited twice")
        verdict = "; ".join(problems) or (
            f"{self.debits} debits cover the {self.seen} addends that left"
            + (f"; {shown}" if shown else "")
        )
        figures: dict[str, float | int | str | None] = {
            "debits": self.debits,
            "seen": self.seen,
            "undebited": len(self.undebited),
            "debited_twice": self.twice,
        }
        for item in self.epsilons:
            key = f"epsilon_{item.account}_{item.adversary.replace(' ', '_')}"
            figures[key] = None if math.isinf(item.stated) else item.stated
            figures[f"{key}_recomputed"] = None if math.isinf(item.lowest) else item.lowest
        return Finding("ledger", not problems, verdict, figures)


def attempts_in_log(site: Site) -> set[Attempt]:
    """The attempts at which the site's own log says that an addend left."""
    return {(e.study, e.e) for e in site.audit.entries() if e.kind == MaskOrder.TAG}


def replay(site: Site, seen: Collection[Attempt]) -> ReplayEvidence:
    """Go through the ledger of ``site``; ``seen`` are attempts that were seen to leave.

    Raises:
        IntegrityError: the ledger's chain does not hold.
    """
    caps = site.policy.caps
    stated = {account: site.ledger.spent(account, caps) for account in ACCOUNTS}
    return compare(site.ledger.entries(), stated, seen)


def compare(
    debits: Collection[Debit], stated: dict[str, Spent], seen: Collection[Attempt]
) -> ReplayEvidence:
    """Hold ``stated`` figures of accounts and what was ``seen`` against the ``debits``."""
    booked = Counter((debit.study, debit.e) for debit in debits)
    return ReplayEvidence(
        debits=len(debits),
        epsilons=tuple(
            item
            for account, spent in stated.items()
            for item in _account([d for d in debits if d.account == account], account, spent)
        ),
        undebited=tuple(sorted(set(seen) - set(booked))),
        twice=sum(count > 1 for count in booked.values()),
        seen=len(seen),
    )


def exact_epsilon(runs: Iterable[tuple[float, float]], delta: float) -> float:
    """Epsilon of Poisson-subsampled Gaussian ``runs`` (sigma, q), by dp_accounting alone."""
    return float(_accountant(tuple(sorted(Counter(runs).items()))).get_epsilon(delta))


@lru_cache(maxsize=16)
def _accountant(runs: tuple[tuple[tuple[float, float], int], ...]) -> PLDAccountant:
    accountant = PLDAccountant(
        NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=INTERVAL
    )
    for (noise, rate), count in runs:
        event = GaussianDpEvent(noise)
        accountant.compose(event if rate >= 1.0 else PoissonSampledDpEvent(rate, event), count)
    return accountant


def _account(debits: list[Debit], account: str, spent: Spent) -> Iterable[Recomputed]:
    """Both adversaries of B4: sigma, and sigma / sqrt(t_min - c)."""
    runs_of = [debit for debit in debits for _ in range(debit.steps)]
    server = [(d.noise_multiplier, d.sampling_rate) for d in runs_of]
    worst = [(d.worst_noise_multiplier, d.sampling_rate) for d in runs_of]
    for adversary, runs, stated in (
        ("server", server, spent.epsilon_fixed),
        ("worst case", worst, spent.epsilon_worst_case_fixed),
    ):
        if math.isinf(stated):  # past any bound: no accountant has a figure
            yield Recomputed(account, adversary, stated, stated, stated)
            continue
        lowest = exact_epsilon(runs, spent.delta) if runs else 0.0
        highest = exact_epsilon(runs, spent.delta * (1 - GRID_DELTA)) if runs else 0.0
        allowed = GRID_DELTA if adversary == "worst case" else 0.0
        yield Recomputed(account, adversary, stated, lowest, highest + allowed)
