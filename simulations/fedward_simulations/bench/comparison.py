"""All cases of ``bench secagg``, their ratios, and the document that is written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedward_simulations.bench.memory import Peak, measure_peak
from fedward_simulations.bench.peers import (
    Bare,
    Peer,
    bare_additions,
    ckks,
    encoding_and_noise,
    flower,
)
from fedward_simulations.bench.secagg import STEPS, Case, Cost, measure

REPEATS = 3
LARGE_ROUND = 10**9
"""Mask elements of a round (sites squared times parameters) above which one round must do."""

LARGE_SUM = 10**8
"""Addend elements of a round above which a case is left out of a grid of cases."""

PACKAGES = ("fedward", "numpy", "cryptography", "flwr", "tenseal")

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """One case: our cost, the peers', and one bare addition. Seconds are CPU seconds."""

    case: Case
    ours: Cost
    encoding_seconds: float
    noise_seconds: float
    peak: Peak
    bare: Bare
    peers: tuple[Peer, ...]

    @property
    def ratios(self) -> dict[str, float]:
        """How many times what our client spends a peer's does; what a mask costs in bare additions.

        A site adds as many masks as there are sites: its own and one for each peer.
        """
        ours = self.ours.client_seconds
        ratios = {peer.name: peer.client_seconds / ours for peer in self.peers}
        masks = self.case.sites
        return ratios | {"bare additions per mask": ours / (masks * self.bare.uint32_seconds)}


def make_cases(
    sites: Sequence[int], parameters: Sequence[int], dropout: Sequence[float]
) -> tuple[list[Case], list[str]]:
    """Every combination once, and one line for each that is too large to measure in a minute.

    A dropout is a fraction of the sites, rounded down.
    """
    cases: dict[Case, None] = {}
    left_out: list[str] = []
    for n in sites:
        for d in parameters:
            if n * d > LARGE_SUM:
                left_out.append(f"{n} sites of {d:,} parameters: left out, too large")
                continue
            cases |= dict.fromkeys(Case(n, d, int(fraction * n)) for fraction in dropout)
    return list(cases), left_out


def compare(cases: Iterable[Case], *, peers: bool, notice: Notice) -> list[Result]:
    """Measure every case; ``notice`` is told what runs. Peers are measured without dropouts.

    A dropout changes nothing for a peer's client, and next to nothing for ours.
    """
    results = []
    for case in cases:
        notice(f"{case.sites} sites, {case.parameters:,} parameters, {case.dropouts} dropouts")
        large = case.sites**2 * case.parameters > LARGE_ROUND
        others = peers and not case.dropouts
        results.append(_measure(case, 1 if large else REPEATS, peers=others))
    return results


def document(results: Sequence[Result]) -> dict[str, Any]:
    """What ``--json`` prints: plain values only."""
    return {
        "unit": "CPU seconds of one process; bytes",
        "versions": {name: _version(name) for name in PACKAGES},
        "results": [
            {
                "sites": result.case.sites,
                "parameters": result.case.parameters,
                "dropouts": result.case.dropouts,
                "client_seconds": result.ours.client_seconds,
                "client_steps": dict(result.ours.steps),
                "encoding_seconds": result.encoding_seconds,
                "noise_seconds": result.noise_seconds,
                "server_seconds": result.ours.server_seconds,
                "upload_bytes": result.ours.upload_bytes,
                "download_bytes": result.ours.download_bytes,
                "client_peak_bytes": result.peak.client,
                "server_peak_bytes": result.peak.server,
                "bare": asdict(result.bare),
                "peers": [asdict(peer) for peer in result.peers],
                "ratios": result.ratios,
            }
            for result in results
        ],
    }


def _measure(case: Case, repeats: int, *, peers: bool) -> Result:
    """Bare additions before and after, so that a change of pace of the machine shows in both."""
    bare = [bare_additions(case.parameters)]
    ours = _median([measure(case) for _ in range(repeats)])
    bare.append(bare_additions(case.parameters))
    prepared = [encoding_and_noise(case.parameters) for _ in range(REPEATS)]
    others: list[Peer | None] = []
    if peers:
        others = [
            flower(case.sites, case.parameters, repeats),
            ckks(case.parameters, REPEATS),
        ]
    return Result(
        case=case,
        ours=ours,
        encoding_seconds=statistics.median(seconds for seconds, _ in prepared),
        noise_seconds=statistics.median(seconds for _, seconds in prepared),
        peak=measure_peak(case),
        bare=Bare(
            statistics.fmean(one.float32_seconds for one in bare),
            statistics.fmean(one.uint32_seconds for one in bare),
        ),
        peers=tuple(peer for peer in others if peer),
    )


def _median(costs: Sequence[Cost]) -> Cost:
    """The medians over rounds; the bytes do not vary but for the ledger's counts."""
    return Cost(
        steps={step: statistics.median(cost.steps[step] for cost in costs) for step in STEPS},
        client_seconds=statistics.median(cost.client_seconds for cost in costs),
        server_seconds=statistics.median(cost.server_seconds for cost in costs),
        upload_bytes=max(cost.upload_bytes for cost in costs),
        download_bytes=max(cost.download_bytes for cost in costs),
    )


def _version(name: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
