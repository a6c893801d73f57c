"""Rényi differential privacy: composition over adaptively chosen parameters, and its filter.

Within a plan the parameters are fixed and the privacy loss distribution of
:mod:`fedward_common.privacy.accounting` is tighter. Over a site's life each plan may depend on
the results of earlier ones: there only a *filter* bounds the total (B5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

ORDERS: tuple[float, ...] = (
    *(quarter / 4.0 for quarter in range(8, 40)),
    *map(float, range(10, 64)),
    *(72.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0),
)
"""Rényi orders at which every cost is kept."""

_LADDER = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 63.0, 96.0, 256.0, 1024.0)
_MAIN_SHARE = 0.9

Array = npt.NDArray[np.float64]


@lru_cache(maxsize=4096)
def renyi_cost(noise_multiplier: float, sampling_rate: float) -> Array:
    """Rényi divergence of one Poisson-subsampled Gaussian step at every order of :data:`ORDERS`.

    Add-or-remove neighbours (Mironov, Talwar and Zhang 2019, by dp_accounting).

    Returns:
        float64 of shape (len(ORDERS),), read-only.
    """
    accountant = RdpAccountant(orders=ORDERS)
    accountant.compose(PoissonSampledDpEvent(sampling_rate, GaussianDpEvent(noise_multiplier)))
    cost = np.asarray(accountant.rdp, dtype=np.float64)
    cost.setflags(write=False)
    return cost


def epsilon_of_cost(cost: Array, delta: float) -> float:
    """Epsilon at ``delta`` of a composed cost whose parameters were fixed in advance.

    The best order may be chosen afterwards, because nothing was adaptive. Canonne, Kamath and
    Steinke 2020, proposition 12.
    """
    return max(0.0, float(np.min(cost + _conversion(delta))))


@dataclass(frozen=True)
class RenyiFilter:
    """A cap of (``epsilon``, ``delta``) on a cost whose parameters are chosen adaptively.

    Feldman and Zrnic 2021, the Rényi filter: for an order and a budget fixed in advance, refusing
    what would exceed the budget bounds the Rényi divergence of all that was let through. Several
    orders are watched at once, each with its own share of delta, and a step is let through while
    one of them has room: the privacy loss at the end is then the loss of a run that this order's
    filter alone would have let through, so the shares add up to delta. Nine tenths go to the order
    that is best for Gaussian noise at this cap, the rest to a fixed ladder for other regimes.
    """

    epsilon: float
    delta: float
    _offset: Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        orders = np.array(ORDERS)
        room = (self.epsilon - _conversion(_MAIN_SHARE * self.delta)) / orders
        shares = np.zeros(len(ORDERS))
        shares[[ORDERS.index(order) for order in _LADDER]] = (1 - _MAIN_SHARE) / len(_LADDER)
        shares[int(np.argmax(room))] += _MAIN_SHARE
        offset = np.full(len(ORDERS), math.inf)
        watched = shares > 0
        offset[watched] = _conversion(shares[watched] * self.delta, orders[watched])
        object.__setattr__(self, "_offset", offset)

    def epsilon_of(self, cost: Array) -> float:
        """Epsilon that this filter accounts for a composed ``cost``; inf if no order bounds it."""
        if not cost.any():
            return 0.0
        return max(0.0, float(np.min(cost + self._offset)))


def _conversion(delta: float | Array, orders: Array | None = None) -> Array:
    """What proposition 12 adds to a Rényi divergence to make it epsilon at ``delta``."""
    alpha = np.array(ORDERS) if orders is None else orders
    return np.asarray(np.log1p(-1.0 / alpha) - np.log(delta * alpha) / (alpha - 1.0))
