"""What the integer grid costs: noise is discrete, the accountant's is continuous (B3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedward_common.errors import PlanError

GRID_SHARE = 0.01
"""Share of delta that the grid may use up (B3): calibration and filters leave it free."""

_RATIO_FACTOR = 2.0 * 24.0 * 24.0**2
_MAX_RATIO_CHARGE = 0.01
_MAX_RATIO_EPSILON = 150.0


@dataclass(frozen=True)
class GridCharge:
    """What to take from ``delta`` before the accountant, and to add to ``epsilon`` after it."""

    delta: float
    epsilon: float


def grid_charge(epsilon: float, delta: float, divergence: float, *, strict: bool) -> GridCharge:
    """Charge the difference between integer and continuous noise.

    B3 charges delta_grid = (1 + e^epsilon) sqrt(divergence / 2), at most delta / 100.

    Where epsilon is large (all others colluding) the factor e^epsilon makes that useless, so with
    ``strict`` off the log-ratio of the two densities may be bounded instead. Per coordinate it is
    at most max(1, x^2) / (24 sigma_grid^2), x = k / sigma_grid: Jensen's inequality below,
    sinh(a)/a <= exp(a^2 / 6) above. Over |x| <= 24, Azuma's inequality at 24 deviations gives
    24 * 24^2 * sqrt(divergence) for all runs, except with probability e^-250. Going to the
    continuous noise and back adds it to epsilon twice, and e^150 * e^-250 to delta.

    Args:
        epsilon: an upper bound on epsilon at delta * (1 - GRID_SHARE).
        delta: the whole delta.
        divergence: KL divergence between the two noises, summed over all runs
            (:meth:`~fedward_common.privacy.parameters.MechanismParameters.grid_divergence_of`).
        strict: guarantee (i) of B4, for which only the charge to delta is accepted.

    Raises:
        PlanError: the charge would be too large.
    """
    delta_grid = (1.0 + math.exp(min(epsilon, 700.0))) * math.sqrt(divergence / 2.0)
    if delta_grid <= GRID_SHARE * delta:
        return GridCharge(delta=delta_grid, epsilon=0.0)
    ratio = _RATIO_FACTOR * math.sqrt(divergence)
    if not strict and ratio <= _MAX_RATIO_CHARGE and epsilon <= _MAX_RATIO_EPSILON:
        return GridCharge(delta=GRID_SHARE * delta, epsilon=ratio)
    problem = (
        f"the integer grid takes delta {delta_grid:.3g}, more than a hundredth of {delta:.3g}: "
        "raise scale, noise_multiplier or delta, or lower epsilon"
    )
    raise PlanError("privacy", [problem])
