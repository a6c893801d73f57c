"""A lower bound on epsilon from one run in which many canaries were in or out by coin flips.

m canaries are each in with probability 1/2, independently. Whoever sees the output makes a fixed
number r of guesses; c of them are right. If the mechanism is f-DP, then for every j

    sum_{n >= j} (n / m) P[n right] <= 1 - f( sum_{n >= j-1} ((r - n) / m) P[n right] )

(Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-differential privacy in one run", theorem 3.2
for two choices, in the single run of Steinke, Nasr and Jagielski 2023, "Privacy auditing with one
(1) training run"). Turning one coin maps 'canary right, n right in all' to 'canary wrong, n - 1
right'; f bounds how much likelier that makes an event, and 1 - f is concave, so that the bound
holds for the average over canaries, whichever of them are guessed.

Confidence: suppose P[c or more right] is at least the error rate. The recursion of the paper's
algorithm 3 then gives the least probabilities that fewer are right; if everything adds up to more
than 1, the mechanism is not f-DP, except with that error rate. The bound is the largest member of
a family of f that is refuted so.

Two families: the curves of Gaussian differential privacy (Dong, Roth and Su 2022), which is what a
sum with Gaussian noise has, and (epsilon, delta) alone, which presumes no shape and sees less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from fedward_common.errors import MisuseError

ERROR_RATE = 0.05
"""One minus the confidence of a lower bound."""

MAX_EPSILON = 50.0
_MAX_MU = 20.0
_STEPS = 24

Inverse = Callable[[float], float]
"""x -> the least probability of an event under one neighbour if the other gives it x."""


@dataclass(frozen=True)
class Guesses:
    """``correct`` of ``made`` guesses about ``canaries`` canaries were right."""

    canaries: int
    made: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.made <= self.canaries or self.made == 0:
            raise MisuseError(f"not a count of guesses: {self}")


def gaussian_lower_bound(guesses: Guesses, delta: float, error: float = ERROR_RATE) -> float:
    """Epsilon at ``delta`` that a mechanism of a Gaussian's curve exceeds; 0 if none is refuted."""
    mu = _largest_refuted(guesses, _gaussian, _MAX_MU, error)
    return gaussian_epsilon(mu, delta) if mu > 0 else 0.0


def shapeless_lower_bound(guesses: Guesses, delta: float, error: float = ERROR_RATE) -> float:
    """Epsilon at ``delta`` that any mechanism exceeds; 0 if none is refuted."""
    return _largest_refuted(guesses, lambda e: _approximate(e, delta), MAX_EPSILON, error)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of mu-GDP at ``delta`` (Dong, Roth and Su 2022, corollary 2.13)."""

    def excess(epsilon: float) -> float:
        beyond = math.exp(epsilon) * float(ndtr(-epsilon / mu - mu / 2))
        return float(ndtr(-epsilon / mu + mu / 2)) - beyond - delta

    highest = mu * mu / 2 + mu * 40.0
    return float(brentq(excess, 0.0, highest)) if excess(0.0) > 0 else 0.0


def refuted(guesses: Guesses, inverse: Inverse, error: float) -> bool:
    """Whether so many right guesses have probability below ``error`` under f (algorithm 3).

    Args:
        guesses: What was observed.
        inverse: The inverse of 1 - f.
        error: Error rate of the refutation.
    """
    m, r, c = guesses.canaries, guesses.made, guesses.correct
    right, wrong = error * c / m, error * (r - c) / m
    for n in range(c - 1, -1, -1):
        needed = max(wrong, inverse(right))
        right += n / (r - n) * (needed - wrong)
        wrong = needed
        if right + wrong > r / m:
            return True
    return False


def _largest_refuted(
    guesses: Guesses, family: Callable[[float], Inverse], highest: float, error: float
) -> float:
    """The largest parameter in (0, ``highest``) that is refuted, or 0."""
    low, high = 0.0, highest
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if refuted(guesses, family(middle), error):
            low = middle
        else:
            high = middle
    return low


def _gaussian(mu: float) -> Inverse:
    return lambda x: 1.0 if x >= 1.0 else float(ndtr(ndtri(x) - mu))


def _approximate(epsilon: float, delta: float) -> Inverse:
    """1 - f(x) = min(delta + e^epsilon x, 1 - e^-epsilon (1 - delta - x)) of (epsilon, delta)."""

    def inverse(x: float) -> float:
        few = (x - delta) * math.exp(-epsilon)
        many = 1.0 - delta - (1.0 - x) * math.exp(epsilon)
        return max(few, many, 0.0)

    return inverse
