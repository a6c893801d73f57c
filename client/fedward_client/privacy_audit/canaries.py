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
"""Share of the canaries about which a guess is made: the highest are said to have been in, as many
of the lowest to have been out.

Fixed in advance. Fewer guesses are surer and weigh less; at epsilon 2 a fifth tells most."""

CONVICTS = 0.01
"""Error rate of the verdict. At 95 % confidence the bound exceeds a claim that is true and small in
three audits of a hundred (measured at epsilon 0.03 and 0.16; never in 400 at 0.9 and above)."""


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
        sure: The same at the error rate of the verdict, :data:`CONVICTS`.
        shapeless: As ``lower``, without the presumption that the curve is a Gaussian's.
        claimed: Epsilon of the trial's rounds according to the accountant.
        delta: Of both.
    """

    scores: NDArray[np.float64]
    present: NDArray[np.bool_]
    gap: float
    guesses: Guesses
    lower: float
    sure: float
    shapeless: float
    claimed: float
    delta: float

    @property
    def finding(self) -> Finding:
        """The verdict."""
        made, right = self.guesses.made, self.guesses.correct
        told = f"{right} of {made} guesses who took part were right"
        passed = self.sure <= self.claimed
        verdict = (
            f"{told}: epsilon is at least {self.lower:.2f} with {1 - ERROR_RATE:.0%} confidence, "
            f"the plan claims at most {self.claimed:.2f}"
            if passed
            else f"{told}: epsilon is at least {self.sure:.2f} with {1 - CONVICTS:.0%} confidence, "
            f"MORE than the {self.claimed:.2f} that the plan claims"
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
            "epsilon_lower_bound_for_the_verdict": self.sure,
            "false_alarm_rate": CONVICTS,
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
    half = max(1, round(GUESSED * trial.canaries / 2))
    order = np.argsort(scores, kind="stable")
    correct = int((~trial.present[order[:half]]).sum() + trial.present[order[-half:]].sum())
    guesses = Guesses(trial.canaries, 2 * half, correct)
    delta = trial.study.plan.privacy.delta
    return CanaryEvidence(
        scores=scores,
        present=trial.present,
        gap=expected / deviation,
        guesses=guesses,
        lower=gaussian_lower_bound(guesses, delta),
        sure=gaussian_lower_bound(guesses, delta, CONVICTS),
        shapeless=shapeless_lower_bound(guesses, delta),
        claimed=account_epsilon([mechanism], delta, 0, mechanism.honest),
        delta=delta,
    )
