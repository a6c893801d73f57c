"""Epsilon of a plan: exact composition of fixed mechanisms (B5).

Privacy loss distributions of dp_accounting (Koskela et al. 2020; connect-the-dots, Doroshenko et
al. 2022), always rounded pessimistically, for add-or-remove neighbours (B1). They hold for
adaptive public inputs because a plan fixes every (sigma, q, rounds) before it starts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld

from fedward_common.errors import MisuseError, OperatorError
from fedward_common.privacy.grid import GRID_SHARE
from fedward_common.privacy.renyi import Array, epsilon_of_cost, renyi_cost

INTERVAL = 1e-4
"""Width of the grid on which privacy losses are rounded up."""

COARSE_INTERVAL = 1e-3
"""Coarser grid, for searches and for the operational 'spent so far'."""

MAX_EPSILON = 100.0
"""Largest epsilon that can be asked for; beyond it nothing is protected."""

UNBOUNDED_EPSILON = 1000.0
"""Rényi epsilon above which no figure is worked out."""

_RELATIVE_STEP = 1e-4
_MAX_NOISE = 1e5


@dataclass(frozen=True)
class Mechanism:
    """``rounds`` rounds of a Poisson-subsampled Gaussian query.

    Attributes:
        noise_multiplier: noise deviation over sensitivity, above 0.
        sampling_rate: q in (0, 1].
        rounds: at least 1.
        steps: runs in each round, at least 1.

    Raises:
        MisuseError: a value is out of range.
    """

    noise_multiplier: float
    sampling_rate: float
    rounds: int
    steps: int = 1

    def __post_init__(self) -> None:
        valid = (
            0.0 < self.noise_multiplier < math.inf
            and 0.0 < self.sampling_rate <= 1.0
            and min(self.rounds, self.steps) >= 1
        )
        if not valid:
            raise MisuseError(f"not a mechanism: {self}")


def epsilon(mechanisms: Iterable[Mechanism], delta: float, *, interval: float = INTERVAL) -> float:
    """Smallest epsilon at ``delta`` of all the runs of ``mechanisms`` together; 0 for none.

    Raises:
        MisuseError: ``delta`` is not in (0, 1).
        OperatorError: beyond :data:`UNBOUNDED_EPSILON`, where the grid of losses would not fit
            into memory.
    """
    if not 0.0 < delta < 1.0:
        raise MisuseError(f"delta is {delta}, must be in (0, 1)")
    merged = _merged(mechanisms)
    if rdp_epsilon(merged, delta) > UNBOUNDED_EPSILON:
        raise OperatorError(
            f"the queries cost an epsilon above {UNBOUNDED_EPSILON:g}: raise their noise_multiplier"
        )
    return float(_composed(merged, interval).get_epsilon_for_delta(delta))


def epsilon_curve(
    schedule: Sequence[Mechanism], delta: float, steps: Sequence[int]
) -> tuple[float, ...]:
    """Epsilon spent after each of ``steps`` rounds of ``schedule``, in its order.

    Operational only: the guarantee is that of the whole plan (B5). On the coarse grid, so a few
    thousandths above :func:`epsilon`.
    """
    return tuple(
        epsilon(_prefix(schedule, count), delta, interval=COARSE_INTERVAL) for count in steps
    )


def rdp_epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Epsilon at ``delta`` by Rényi composition, as if fixed in advance; 0 for none.

    A few percent above :func:`epsilon` and three orders of magnitude faster.
    """
    cost = composed_cost(mechanisms)
    return epsilon_of_cost(cost, delta) if cost.any() else 0.0


def composed_cost(mechanisms: Iterable[Mechanism]) -> Array:
    """Sum of the Rényi costs of all runs, float64 over :data:`~..renyi.ORDERS`."""
    total = np.zeros_like(renyi_cost(1.0, 1.0))
    for item in mechanisms:
        total += item.rounds * item.steps * renyi_cost(item.noise_multiplier, item.sampling_rate)
    return total


def extra_attempts(rounds: int, maximum_attempts: int) -> int:
    """Attempts that a plan of ``rounds`` allows for retries.

    Raises:
        OperatorError: ``maximum_attempts`` is below ``rounds``.
    """
    if maximum_attempts < rounds:
        raise OperatorError(
            f"maximum_attempts is {maximum_attempts}, below the plan's {rounds} rounds: "
            "raise it to at least that"
        )
    return maximum_attempts - rounds


def with_retries(
    mechanisms: Sequence[Mechanism], extra: int, delta: float
) -> tuple[Mechanism, ...]:
    """Charge ``extra`` attempts beyond the rounds at the most expensive of ``mechanisms``.

    Every attempt is debited again, whichever query a server makes a site repeat. The most
    expensive query is the one with which the extra attempts bring the total highest; as Rényi
    costs add up, no other way of spending the attempts costs more by that measure.
    """
    if extra == 0 or not mechanisms:
        return tuple(mechanisms)
    candidates = [(*mechanisms, replace(item, rounds=extra)) for item in mechanisms]
    return max(candidates, key=lambda candidate: rdp_epsilon(candidate, delta))


def calibrate(
    target_epsilon: float, delta: float, build: Callable[[float], Sequence[Mechanism]]
) -> float:
    """Find the least noise multiplier with which a plan costs at most ``target_epsilon``.

    Args:
        target_epsilon: the plan's epsilon, above 0; never exceeded by the result.
        delta: the plan's delta, of which :data:`~..grid.GRID_SHARE` is left for the integer grid.
        build: the plan's mechanisms for a noise multiplier, retries included; more noise must
            never cost more. Queries whose noise is fixed may be among them.

    Returns:
        The noise multiplier, within some 1e-4 relative of the least.

    Raises:
        OperatorError: no noise reaches the target.
    """
    if not 0.0 < target_epsilon <= MAX_EPSILON:
        raise OperatorError(f"epsilon is {target_epsilon}: choose it above 0, up to {MAX_EPSILON}")
    share = delta * (1.0 - GRID_SHARE)

    def coarse(noise: float) -> float:
        return epsilon(build(noise), share, interval=COARSE_INTERVAL)

    high = _enough_noise(target_epsilon, share, build)
    low = high
    while low > 1e-3 and coarse(low) <= target_epsilon:
        high, low = low, low * 0.8
    while high / low > 1.0 + _RELATIVE_STEP:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if coarse(middle) <= target_epsilon else (middle, high)
    while epsilon(build(high), share) > target_epsilon:
        high *= 1.0 + _RELATIVE_STEP
    return high


def _enough_noise(
    target_epsilon: float, delta: float, build: Callable[[float], Sequence[Mechanism]]
) -> float:
    """A noise multiplier that meets the target by the fast Rényi bound, not much too high."""
    noise = 0.1
    while rdp_epsilon(build(noise), delta) > target_epsilon:
        noise *= 1.25
        if noise < _MAX_NOISE:
            continue
        cost = epsilon(build(noise), delta, interval=COARSE_INTERVAL)
        if cost > target_epsilon:
            raise OperatorError(
                f"epsilon {target_epsilon} is out of reach: queries whose noise is fixed alone "
                f"cost {cost:.4g}; raise their noise_multiplier, or epsilon"
            )
        break
    return noise


def _merged(mechanisms: Iterable[Mechanism]) -> tuple[Mechanism, ...]:
    """The same runs with equal (sigma, q) added up: composition does not depend on the order."""
    runs: Counter[tuple[float, float]] = Counter()
    for item in mechanisms:
        runs[item.noise_multiplier, item.sampling_rate] += item.rounds * item.steps
    return tuple(Mechanism(*pair, rounds=count) for pair, count in sorted(runs.items()))


def _prefix(schedule: Sequence[Mechanism], steps: int) -> list[Mechanism]:
    taken = []
    for mechanism in schedule:
        rounds = min(mechanism.rounds, steps)
        if rounds > 0:
            taken.append(replace(mechanism, rounds=rounds))
        steps -= rounds
    return taken


@lru_cache(maxsize=32)
def _single(noise_multiplier: float, sampling_rate: float, interval: float) -> Any:
    return pld.from_gaussian_mechanism(
        noise_multiplier,
        pessimistic_estimate=True,
        value_discretization_interval=interval,
        sampling_prob=sampling_rate,
        neighboring_relation=pld.NeighborRel.ADD_OR_REMOVE_ONE,
    )


@lru_cache(maxsize=16)
def _repeated(mechanism: Mechanism, interval: float) -> Any:
    single = _single(mechanism.noise_multiplier, mechanism.sampling_rate, interval)
    return single.self_compose(mechanism.rounds)


@lru_cache(maxsize=4)
def _composed(mechanisms: tuple[Mechanism, ...], interval: float) -> Any:
    total = pld.identity(interval)
    for mechanism in mechanisms:
        total = total.compose(_repeated(mechanism, interval))
    return total
