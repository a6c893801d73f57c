"""Who takes part in a step is an independent draw for every patient and round (B1, B8).

In a trial of its own whose noise is small, an addend shows which canaries were sampled. The
accountant's subsampling needs each of them in with probability q, independently: everybody at
once, batches of a fixed size and batches dealt in turn all give it less noise than it counts on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, gamma

from fedward_client.privacy_audit.finding import FALSE_ALARMS, Finding
from fedward_client.privacy_audit.trial import (
    Door,
    Randomness,
    Recording,
    Stage,
    Terms,
    everybody_in,
    record,
)

QUIET = 0.1
"""Noise multiplier of the trial: a canary stands seven deviations from its absence, or more."""

ROUNDS = 40
_TESTS = 4


@dataclass(frozen=True)
class SamplingEvidence:
    """Who took part, against Poisson sampling; each p is the probability of being this far off.

    Attributes:
        rate: Share of canaries and rounds that took part; ``claimed`` is q.
        batches: Variance of the size of batches over that of a binomial.
        turns: The same of how often a canary took part.
        repeated: Share of draws that were the same when a round was run again.
        p_values: Of these four, by name.
    """

    rate: float
    claimed: float
    batches: float
    turns: float
    repeated: float
    p_values: dict[str, float]

    @property
    def finding(self) -> Finding:
        """The verdict: it says which property does not hold."""
        reasons = {
            "rate": f"{self.rate:.3f} took part instead of {self.claimed:.3f}",
            "batches": f"batch sizes vary {self.batches:.2f} times as much as they should",
            "turns": f"canaries' turns vary {self.turns:.2f} times as much as they should",
            "repeated": f"a repeated round draws {self.repeated:.1%} the same",
        }
        broken = [reasons[name] for name, p in self.p_values.items() if p < FALSE_ALARMS / _TESTS]
        verdict = (
            f"{self.rate:.3f} took part, the plan says {self.claimed:.3f}; every draw is on its own"
            if not broken
            else f"the sampling is NOT Poisson: {'; '.join(broken)}"
        )
        figures = {
            "sampled": self.rate,
            "sampling_rate": self.claimed,
            "variance_of_batches": self.batches,
            "variance_of_turns": self.turns,
            "repeated": self.repeated,
            "false_alarm_rate": FALSE_ALARMS,
        }
        return Finding("sampling", not broken, verdict, figures)


def quiet(terms: Terms) -> Terms:
    """The same sampling and clip with next to no noise: for invented patients only."""
    return replace(terms, noise_multiplier=QUIET, rounds=ROUNDS)


def record_sampling(
    terms: Terms, doors: Sequence[Door], canaries: int, randomness: Randomness, stage: Stage
) -> tuple[Recording, Recording]:
    """Run the trial of sampling, and its first rounds once more."""
    trial = everybody_in(quiet(terms), len(doors), canaries)
    once = record(trial, doors, randomness, stage=stage)
    return once, record(trial, doors, randomness, rounds=2)


def observe_sampling(once: Recording, again: Recording) -> SamplingEvidence:
    """Read off who took part, and test the rate, the batches, the turns and the repetition."""
    took, retook = _part(once), _part(again)
    rate = once.trial.task.sampling_rate
    rounds, places, people = took.shape
    sure = rate >= 1.0  # nothing is drawn then
    p_values = {"rate": _binomial(int(took.sum()), took.size, rate)}
    batches = turns = repeated = 1.0
    if not sure:
        variance = rate * (1 - rate)
        sizes, counts = took.sum(axis=2), took.sum(axis=0)
        batches = float(np.square(sizes - people * rate).mean() / (people * variance))
        turns = float(np.square(counts - rounds * rate).mean() / (rounds * variance))
        same = took[: len(retook)] == retook
        repeated = float(same.mean())
        p_values |= {
            "batches": _dispersion(batches, rounds * places, people, rate),
            "turns": _dispersion(turns, places * people, rounds, rate),
            "repeated": _binomial(int(same.sum()), same.size, 1 - 2 * variance),
        }
    return SamplingEvidence(float(took.mean()), rate, batches, turns, repeated, p_values)


def _part(recording: Recording) -> NDArray[np.bool_]:
    """Who took part: bool (rounds, places, people)."""
    trial = recording.trial
    shares = trial.shares(recording.addends)
    people = trial.canaries // trial.places
    own = [shares[:, place, place :: trial.places][:, :people] for place in range(trial.places)]
    return np.stack(own, axis=1) > 0.5


def _binomial(count: int, draws: int, rate: float) -> float:
    """Two-sided p-value of ``count`` successes."""
    tails = binom.cdf(count, draws, rate), binom.sf(count - 1, draws, rate)
    return float(min(1.0, 2 * min(tails)))


def _dispersion(ratio: float, groups: int, draws: int, rate: float) -> float:
    """Two-sided p-value of a mean squared deviate of ``groups`` binomials of ``draws`` each.

    A gamma of the true mean, 1, and the true variance: the fourth moment of a binomial gives
    (2 + (1 - 6 q (1 - q)) / (draws q (1 - q))) / groups.
    """
    spread = rate * (1 - rate)
    variance = (2.0 + (1 - 6 * spread) / (draws * spread)) / groups
    law = gamma(1 / variance, scale=variance)
    return float(min(1.0, 2 * min(law.cdf(ratio), law.sf(ratio))))
