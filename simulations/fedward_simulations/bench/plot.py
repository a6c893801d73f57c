"""The figures of ``bench secagg`` as one picture."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedward_simulations.bench.comparison import Result

NAMES = {
    "fedward": "fedward",
    "flower-secagg+": "Flower SecAgg+",
    "tenseal-ckks": "TenSEAL CKKS",
    "bare": "bare uint32 additions",
}
STYLES: dict[str, dict[str, Any]] = {
    "fedward": {"color": "#0b6e4f", "linewidth": 2.4, "marker": "o"},
    "flower-secagg+": {"color": "#c8553d", "marker": "s"},
    "tenseal-ckks": {"color": "#6a4c93", "marker": "^"},
    "bare": {"color": "#777777", "linestyle": "--", "marker": "."},
}
SIZES = ("#7fb7a4", "#0b6e4f", "#04382a")
INCHES = (13.0, 4.2)
DOTS = 120

Points = dict[str, dict[int, float]]


def draw(results: Sequence[Result]) -> bytes:
    """Return a PNG: client CPU by sites, client CPU by parameters, server memory by sites."""
    kept = [result for result in results if not result.case.dropouts]
    sites = _nearest({result.case.sites for result in kept}, 10)
    parameters = _nearest({result.case.parameters for result in kept}, 10**6)
    figure = Figure(figsize=INCHES, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    by_sites = [result for result in kept if result.case.parameters == parameters]
    _client(left, by_sites, "sites", f"{parameters:,} parameters")
    by_parameters = [result for result in kept if result.case.sites == sites]
    _client(middle, by_parameters, "parameters", f"{sites} sites")
    _memory(right, kept)
    left.legend(fontsize=8)
    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png", dpi=DOTS, metadata={"Software": None})
    return data.getvalue()


def _client(axes: Axes, results: Sequence[Result], along: str, fixed: str) -> None:
    points: Points = defaultdict(dict)
    for result in results:
        x = getattr(result.case, along)
        points["fedward"][x] = result.ours.client_seconds
        points["bare"][x] = result.case.sites * result.bare.uint32_seconds
        for peer in result.peers:
            points[peer.name][x] = peer.client_seconds
    for name, line in points.items():
        axes.plot(*_xy(line), label=NAMES[name], **STYLES[name])
    _finish(axes, along, "CPU seconds of one client, one round", f"Client CPU, {fixed}")


def _memory(axes: Axes, results: Sequence[Result]) -> None:
    lines: dict[int, dict[int, float]] = defaultdict(dict)
    for result in results:
        lines[result.case.parameters][result.case.sites] = result.peak.server / 1e6
    for position, (parameters, line) in enumerate(sorted(lines.items())):
        colour = SIZES[position % len(SIZES)]
        axes.plot(*_xy(line), color=colour, marker="o", label=f"{parameters:,} parameters")
    axes.legend(fontsize=8)
    _finish(axes, "sites", "peak, MB", "Server memory")


def _finish(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    if x == "sites":
        counts = np.unique([x for line in axes.get_lines() for x in np.asarray(line.get_xdata())])
        axes.set_xticks(counts, [f"{count:.0f}" for count in counts])
        axes.set_xticks([], minor=True)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(visible=True, which="major", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)


def _xy(line: dict[int, float]) -> tuple[list[int], list[float]]:
    ordered = sorted(line)
    return ordered, [line[x] for x in ordered]


def _nearest(values: set[int], wanted: int) -> int:
    return min(values, key=lambda value: abs(value - wanted), default=wanted)
