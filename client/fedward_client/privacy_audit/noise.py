"""Where the true value is zero, what leaves is noise: how much, and never the same twice (B8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import chi2

from fedward_client.privacy_audit.finding import FALSE_ALARMS, Finding
from fedward_client.privacy_audit.trial import Recording


@dataclass(frozen=True)
class NoiseEvidence:
    """Measured over claimed variance of the noise.

    ``sites`` is of each site's addends and ``total`` of their sums, of which |U2| sites' noise is
    claimed; ``claim`` is what the sums must have at least, that of t_min - c sites, on the same
    scale. All honest ratios lie within ``site_limits`` and ``limits``.
    """

    sites: tuple[float, ...]
    total: float
    claim: float
    site_limits: tuple[float, float]
    limits: tuple[float, float]

    @property
    def finding(self) -> Finding:
        """The verdict: it names the sites that are silent, or louder than they should be."""
        low, high = self.site_limits
        odd = [place + 1 for place, ratio in enumerate(self.sites) if not low <= ratio <= high]
        passed = not odd and self.limits[0] <= self.total <= self.limits[1]
        if passed:
            verdict = (
                f"the sums carry {self.total:.3f} of the variance that their sites claim; honest "
                f"noise lies between {self.limits[0]:.3f} and {self.limits[1]:.3f}"
            )
        elif odd:
            shown = ", ".join(f"{place} ({self.sites[place - 1]:.3f})" for place in odd)
            verdict = f"the noise of site {shown} is NOT of the variance that it claims"
        else:
            verdict = f"the sums carry {self.total:.3f} of the variance claimed: NOT what they must"
        figures = {
            "variance_over_claim": self.total,
            "least_variance_needed": self.claim,
            "lower_limit": self.limits[0],
            "upper_limit": self.limits[1],
            "smallest_site": min(self.sites),
            "largest_site": max(self.sites),
            "false_alarm_rate": FALSE_ALARMS,
        }
        return Finding("noise", passed, verdict, figures)


def observe_noise(recording: Recording) -> NoiseEvidence:
    """Compare the variance on axes that belong to nobody with the claim of B3.

    A sum of N squares of normal deviates has the chi-square distribution with N degrees of
    freedom; noise on the integer grid is normal as far as that shows (sigma_i is 1000 or more).
    """
    trial = recording.trial
    mechanism = trial.study.mechanism(trial.task)
    variance = mechanism.site_sigma**2
    sites = trial.blanks(recording.addends)
    sums = trial.blanks(recording.sums)
    share = FALSE_ALARMS / (trial.places + 1)
    return NoiseEvidence(
        sites=tuple(float(v) for v in np.square(sites).mean(axis=(0, 2)) / variance),
        total=float(np.square(sums).mean() / (variance * trial.places)),
        claim=mechanism.honest / trial.places,
        site_limits=_limits(sites[:, 0].size, share),
        limits=_limits(sums.size, share),
    )


@dataclass(frozen=True)
class RepeatEvidence:
    """How alike noise vectors are: correlations over axes, of every pair of addends or sums.

    Attributes:
        matrix: Correlations of the first sums, float64 (rounds, rounds), for a picture.
        largest: The largest of any two addends in absolute value; sites, rounds and runs.
        limit: What honest noise stays below.
        mean: The mean over all pairs of sums: a part that is the same in all of them.
        mean_limit: What its absolute value stays below.
        culprits: The two that are most alike.
    """

    matrix: NDArray[np.float64]
    largest: float
    limit: float
    mean: float
    mean_limit: float
    culprits: str

    @property
    def finding(self) -> Finding:
        """The verdict."""
        passed = self.largest <= self.limit and abs(self.mean) <= self.mean_limit
        verdict = (
            f"no two noise vectors are alike: the largest correlation is {self.largest:.3f}, "
            f"chance gives up to {self.limit:.3f}"
            if passed
            else f"noise is USED TWICE: {self.culprits} correlate by {self.largest:.3f}, "
            f"chance gives up to {self.limit:.3f}"
        )
        figures = {
            "largest_correlation": self.largest,
            "limit": self.limit,
            "mean_correlation_of_sums": self.mean,
            "mean_limit": self.mean_limit,
            "false_alarm_rate": FALSE_ALARMS,
        }
        return Finding("repeats", passed, verdict, figures)


def observe_repeats(recording: Recording, again: Recording) -> RepeatEvidence:
    """Compare the noise of every round, site and run with every other.

    ``again`` is the same trial run once more, from its first round: noise from a known or stored
    seed comes back there. Correlations of independent noise are normal with variance 1 / axes.
    """
    vectors, names = _vectors(recording, again)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, 0.0)
    first, second = divmod(int(np.argmax(np.abs(alike))), len(alike))
    sums = _unit(recording.trial.blanks(recording.sums))
    matrix = sums @ sums.T
    pairs = len(sums) * (len(sums) - 1)
    axes = vectors.shape[1]
    return RepeatEvidence(
        matrix=matrix,
        largest=float(abs(alike[first, second])),
        limit=_normal_limit(len(alike) * (len(alike) - 1) / 2) / math.sqrt(axes),
        mean=float((matrix.sum() - np.trace(matrix)) / max(pairs, 1)),
        mean_limit=_normal_limit(1.0) / math.sqrt(axes * max(pairs, 1) / 2),
        culprits=f"{names[first]} and {names[second]}",
    )


def _vectors(*recordings: Recording) -> tuple[NDArray[np.float64], Sequence[str]]:
    """Unit noise vectors of all addends, float64 (addends, axes), and what each is."""
    parts, names = [], []
    for run, recording in enumerate(recordings, start=1):
        noise = recording.trial.blanks(recording.addends)
        parts.append(noise.reshape(-1, noise.shape[2]))
        names += [
            f"run {run}, round {e + 1}, site {place + 1}"
            for e in range(noise.shape[0])
            for place in range(noise.shape[1])
        ]
    return _unit(np.concatenate(parts)), names


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length one; one that is all zero stays so, for the variance will tell."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = vectors / np.where(lengths > 0, lengths, 1.0)
    return scaled


def _limits(count: int, error: float) -> tuple[float, float]:
    """Where the mean of ``count`` squares lies but for ``error``."""
    return (
        float(chi2.ppf(error / 2, count) / count),
        float(chi2.isf(error / 2, count) / count),
    )


def _normal_limit(tests: float) -> float:
    """What none of ``tests`` normal deviates exceeds but for half the false alarms."""
    return float(-ndtri(FALSE_ALARMS / 4 / max(tests, 1.0)))
