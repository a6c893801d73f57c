"""Can whoever sees the sums tell which canaries were in, and how well (B8)?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward_client.privacy_audit.finding import Finding
from fedward_client.privacy_audit.one_run import (
    ERROR_RATE,
    Guesses,
    gaussian_lower_bound,
    shapeless_lower_bound,
)
from fedward_client.privacy_audit.trial import Recording
from fedward_common.privacy.statement import account_epsilon

GUESSED = 0.2
"""Share of the canaries about which a guess is made: those that stand out most.

Fixed in advance. Fewer guesses are surer and weigh less; at epsilon 2 a fifth tells most."""


@dataclass(frozen=True)
class CanaryEvidence:
    """What the sums tell of the canaries.

    Attributes:
        scores: Each canary's share summed over the rounds, less half of what it expects if it is
            in, in deviations of the noise: float64 (m,).
        present: Who was in, bool (m,).
        gap: How far apart those who are in and those who are out should stand, in deviations.
        guesses: How many guesses were right.
        lower: Lower bound on epsilon at the confidence of :data:`~..one_run.ERROR_RATE`.
        shapeless: The same without the presumption that the curve is a Gaussian's.
        claimed: Epsilon of the trial's rounds according to the accountant.
        delta: Of both.
    """

    scores: NDArray[np.float64]
    present: NDArray[np.bool_]
    gap: float
    guesses: Guesses
    lower: float
    shapeless: float
    claimed: float
    delta: float

    @property
    def finding(self) -> Finding:
        """The verdict."""
        made, right = self.guesses.made, self.guesses.correct
        told = f"{right} of {made} guesses who took part were right"
        bound = f"epsilon is at least {self.lower:.2f} with {1 - ERROR_RATE:.0%} confidence"
        passed = self.lower <= self.claimed
        verdict = (
            f"{told}: {bound}, the plan claims at most {self.claimed:.2f}"
            if passed
            else f"{told}: {bound}, MORE than the {self.claimed:.2f} that the plan claims"
        )
        figures = {
            "canaries": self.guesses.canaries,
            "guesses": made,
            "correct": right,
            "epsilon_lower_bound": self.lower,
            "epsilon_lower_bound_any_shape": self.shapeless,
            "epsilon_claimed": self.claimed,
            "delta": self.delta,
            "confidence": 1 - ERROR_RATE,
        }
        return Finding("canaries", passed, verdict, figures)


def observe_canaries(recording: Recording) -> CanaryEvidence:
    """Guess from the sums alone who was in, and bound epsilon by how often that is right."""
    trial = recording.trial
    mechanism = trial.study.mechanism(trial.task)
    rounds = len(recording.sums)
    total = trial.shares(recording.sums).sum(axis=0)
    noise = mechanism.site_sigma * np.sqrt(trial.places * rounds)
    deviation = noise / (trial.query.scale * trial.task.clip)
    expected = rounds * trial.task.sampling_rate
    scores = (total - expected / 2) / deviation
    made = max(1, round(GUESSED * trial.canaries))
    surest = np.argsort(-np.abs(scores), kind="stable")[:made]
    correct = int(np.sum((scores[surest] > 0) == trial.present[surest]))
    guesses = Guesses(trial.canaries, made, correct)
    delta = trial.study.plan.privacy.delta
    return CanaryEvidence(
        scores=scores,
        present=trial.present,
        gap=expected / deviation,
        guesses=guesses,
        lower=gaussian_lower_bound(guesses, delta),
        shapeless=shapeless_lower_bound(guesses, delta),
        claimed=account_epsilon([mechanism], delta, 0, mechanism.honest),
        delta=delta,
    )
