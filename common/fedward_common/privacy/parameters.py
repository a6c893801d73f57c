"""The numbers that fix what one query of a plan costs in privacy (A5, B3, B4).

Everything is counted on the integer grid: a site's addend is its clipped sum times ``scale``,
rounded at random, clamped to the ring bound and noised. Parameters that would wrap the ring, use
too coarse a grid or leave too few honest sites cannot be constructed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedward_common.errors import PlanError

MODULUS = 2**32
"""Size of the ring Z_{2^32} of A5."""

MIN_SITE_SIGMA = 1000.0
"""Least standard deviation of one site's noise, in grid units (B3)."""

_WRAP_DEVIATIONS = 10.0
_MAX_SITES = 200
_MAX_DIMENSION = 2**28


@dataclass(frozen=True, kw_only=True)
class MechanismParameters:
    """One query of a plan, as a noised sum over the sites.

    Attributes:
        query: name of the query in the plan, for messages.
        dimension: d, coordinates of the vector.
        clip: C, largest L2 norm of one patient's vector, in the vector's own units.
        noise_multiplier: sigma, noise deviation over sensitivity against the server and c others.
        sampling_rate: q, probability that a patient takes part in a step (B1).
        rounds: how often the query runs, retries not counted.
        scale: s, grid units per unit of the vector.
        ring_bound: R, clamp of every coordinate of a site's rounded sum, in grid units.
        slack: g, relative allowance for floating point in the clip (B3).
        sites: n, size of the roster.
        t_min: sites that must contribute.
        colluding: c, sites that may collude with the server.
        local_steps: 0 where the noise of t_min - c sites together carries the claim; else each
            site's own does, at each of so many steps a round (docs/adr/0020).

    Raises:
        PlanError: lists every value that is out of range, with what to do.
    """

    query: str
    dimension: int
    clip: float
    noise_multiplier: float
    sampling_rate: float
    rounds: int
    scale: float
    ring_bound: int
    slack: float
    sites: int
    t_min: int
    colluding: int
    local_steps: int = 0

    def __post_init__(self) -> None:
        problems = self._range_problems() or self._grid_problems()
        if problems:
            raise PlanError(f"query '{self.query}'", problems)

    @property
    def honest(self) -> int:
        """t_min - c: contributing sites whose noise together carries the claim."""
        return self.t_min - self.colluding

    @property
    def sensitivity(self) -> float:
        """Delta = s C (1 + g) + sqrt(d): L2 sensitivity in grid units, rounding included (B3)."""
        return self.scale * self.clip * (1.0 + self.slack) + math.sqrt(self.dimension)

    @property
    def site_sigma(self) -> float:
        """sigma_i = sigma Delta / sqrt(t_min - c): noise of one site, in grid units (B3).

        At a local step a site is alone: sigma Delta.
        """
        return self.noise_multiplier * self.sensitivity / math.sqrt(self._carriers(self.honest))

    @property
    def steps(self) -> int:
        """Runs of the mechanism that one round is: its local steps, or 1."""
        return max(1, self.local_steps)

    @property
    def noise_overhead(self) -> float:
        """Noise that slack and rounding add, relative to sigma s C."""
        return self.sensitivity / (self.scale * self.clip) - 1.0

    def noise_multiplier_of(self, honest: int) -> float:
        """Noise multiplier that the noise of ``honest`` sites carries (B4).

        ``self.honest`` gives guarantee (i), 1 gives (ii), all others colluding. No other site's
        noise is in a local step: there the two are the same.
        """
        return self.noise_multiplier * math.sqrt(
            self._carriers(honest) / self._carriers(self.honest)
        )

    def grid_divergence_of(self, honest: int) -> float:
        """KL divergence per round between grid noise and a rounded continuous Gaussian.

        d / (576 sigma_grid^4) with sigma_grid^2 = honest * sigma_i^2; by Pinsker, T rounds give
        the sqrt(d T / 1152) / sigma_grid^2 of B3. A round of local steps has that of each of them.
        """
        variance = self._carriers(honest) * self.site_sigma**2
        return self.steps * self.dimension / (576.0 * variance**2)

    def sum_bound(self, contributors: int, largest_batch: int) -> float:
        """Largest L2 norm, in grid units, that an honest sum has in all but 1e-20 of cases (A3.5).

        Args:
            contributors: |U2|, sites in the sum.
            largest_batch: most patients of one site in a step, a public constant of the plan.
        """
        signal = self.scale * self.clip * (1.0 + self.slack) * largest_batch
        rounding = math.sqrt(self.dimension)
        noise = self.site_sigma * math.sqrt(contributors) * (rounding + _WRAP_DEVIATIONS)
        return contributors * (signal + rounding) + noise

    def _carriers(self, honest: int) -> int:
        """Of ``honest`` sites, those whose noise is in what the claim is about."""
        return 1 if self.local_steps else honest

    def _range_problems(self) -> list[str]:
        checks = (
            ("dimension", self.dimension, 1 <= self.dimension <= _MAX_DIMENSION, "1 to 2^28"),
            ("clip", self.clip, 0.0 < self.clip < math.inf, "a positive number"),
            (
                "noise_multiplier",
                self.noise_multiplier,
                0.0 < self.noise_multiplier < math.inf,
                "a positive number",
            ),
            ("sampling_rate", self.sampling_rate, 0.0 < self.sampling_rate <= 1.0, "in (0, 1]"),
            ("rounds", self.rounds, self.rounds >= 1, "at least 1"),
            ("scale", self.scale, 0.0 < self.scale < math.inf, "a positive number"),
            ("ring_bound", self.ring_bound, 1 <= self.ring_bound < MODULUS // 2, "1 to 2^31 - 1"),
            ("slack", self.slack, 0.0 <= self.slack < 1.0, "in [0, 1)"),
            ("sites", self.sites, 3 <= self.sites <= _MAX_SITES, f"3 to {_MAX_SITES}"),
            ("t_min", self.t_min, 2 <= self.t_min <= self.sites, "2 to the number of sites"),
            ("colluding", self.colluding, 0 <= self.colluding <= self.t_min - 2, "0 to t_min - 2"),
            ("local_steps", self.local_steps, self.local_steps >= 0, "0 or more"),
        )
        return [f"{name} is {value}, must be {rule}" for name, value, ok, rule in checks if not ok]

    def _grid_problems(self) -> list[str]:
        problems = []
        if self.scale * self.clip > self.ring_bound:
            problems.append(
                f"ring_bound is {self.ring_bound}, below scale * clip = "
                f"{self.scale * self.clip:.6g}: one patient would be clamped; raise ring_bound"
            )
        if self.site_sigma < MIN_SITE_SIGMA:  # B3
            problems.append(
                f"scale is {self.scale:.6g}, so one site's noise is {self.site_sigma:.4g} grid "
                f"units, below {MIN_SITE_SIGMA:.0f}: raise scale or noise_multiplier"
            )
        sites = self._carriers(self.sites)
        noise = self.site_sigma * math.sqrt(sites)
        needed = sites * self.ring_bound + _WRAP_DEVIATIONS * noise
        if needed >= MODULUS // 2:  # A5
            problems.append(
                f"ring_bound is {self.ring_bound} and scale {self.scale:.6g}: {sites} sites "
                f"and their noise need {needed:.6g} of 2^31 and may wrap; lower scale or ring_bound"
            )
        return problems


def largest_batch(patients: int, sampling_rate: float) -> int:
    """Most patients of one site in a step, in all but 1e-12 of steps (Bernstein's inequality).

    Args:
        patients: the plan's nominal number of patients of a site, never a true count (B1).
        sampling_rate: q.
    """
    mean = patients * sampling_rate
    tail = 10.0 + math.sqrt(56.0 * mean * (1.0 - sampling_rate) + 100.0)
    return min(patients, math.ceil(mean + tail))


def float_slack(batch: int) -> float:
    """Slack g of B3 for float32 per-patient vectors: 2^-18 times the largest batch."""
    return 2.0**-18 * batch


def choose_ring(
    *,
    dimension: int,
    clip: float,
    noise_multiplier: float,
    sampling_rate: float,
    slack: float,
    sites: int,
    t_min: int,
    colluding: int,
    expected_patients_per_site: int,
) -> tuple[float, int]:
    """Choose the scale and the ring bound of a query.

    The scale is the largest power of two with which the sum cannot wrap although every patient of
    the largest batch points along one coordinate; the bound takes all of the ring that is left.
    An honest batch is therefore never clamped, and rounding adds as little noise as it can: for
    8 sites, batches of 200 and 10^6 coordinates about 0.1 %.

    Returns:
        (scale, ring_bound).

    Raises:
        PlanError: no scale fits: the noise alone would fill the ring, or a value is out of range.
    """
    honest = t_min - colluding
    if min(dimension, clip, noise_multiplier, honest, expected_patients_per_site) <= 0:
        raise PlanError("ring", ["every value must be positive and t_min above colluding"])
    batch = max(1, largest_batch(expected_patients_per_site, sampling_rate))
    spread = _WRAP_DEVIATIONS * noise_multiplier * math.sqrt(sites / honest)
    reach = clip * (1.0 + slack)
    # Two units a site: random rounding moves a coordinate by up to one, the bound is rounded down.
    room = MODULUS // 2 - 1 - 2 * sites - spread * math.sqrt(dimension)
    if room <= 0:
        raise PlanError("ring", [f"noise_multiplier is {noise_multiplier}: lower it, 2^31 is full"])
    scale = 2.0 ** math.floor(math.log2(room / (reach * (sites * batch + spread))))
    noise = spread * (scale * reach + math.sqrt(dimension))
    return scale, math.floor((MODULUS // 2 - 1 - noise) / sites)
