"""The figures of ``bench utility`` as one picture: AUC and accuracy against epsilon."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fedward_simulations.bench.utility.table import TITLES, Line

STYLES = {
    "federated": ("#0b6e4f", "o", "-"),
    "pooled_private": ("#33658a", "s", "--"),
    "local_fedavg": ("#c8553d", "^", "-"),
    "alone": ("#8a817c", "v", ":"),
}
WITHOUT = "pooled"
COLOUR_WITHOUT = "#222222"
ROW_INCHES = (13.0, 3.9)
DOTS = 130
LEAST_SPAN = 0.06
"""Every axis shows at least so much, lest noise looks like a finding."""

STEP = 1.035
"""Factor of epsilon by which methods stand beside each other."""

FIGURES = (
    ("auc", "AUC"),
    ("accuracy", "accuracy at 0.5"),
    ("balanced", "accuracy, balanced"),
)


def draw(lines: Sequence[Line]) -> bytes:
    """Return a PNG with a row for each scenario; bars are a standard error each way."""
    names = sorted({line.scenario for line in lines})
    wide, high = ROW_INCHES
    figure = Figure(figsize=(wide, high * len(names)), layout="constrained")
    panels = figure.subplots(len(names), len(FIGURES), squeeze=False)
    for row, name in zip(panels, names, strict=True):
        mine = [line for line in lines if line.scenario == name]
        for axes, (field, title) in zip(row, FIGURES, strict=True):
            _panel(axes, mine, field)
            axes.set_title(f"{name}: {title}", fontsize=10, loc="left")
    shown: dict[str, Artist] = {}
    for axes in panels.flat:
        handles, labels = axes.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(shown.values()),
        list(shown),
        loc="outside lower center",
        ncols=len(shown),
        frameon=False,
        fontsize=9,
    )
    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png", dpi=DOTS, metadata={"Software": None})
    return data.getvalue()


def _panel(axes: Axes, lines: Sequence[Line], field: str) -> None:
    private = [line for line in lines if line.method != WITHOUT]
    for place, (method, (colour, marker, dash)) in enumerate(STYLES.items()):
        own = [x for x in private if x.method == method and x.variant.t_min is None]
        style = {"color": colour, "marker": marker, "linestyle": dash}
        if own:
            _errors(axes, own, field, TITLES[method], beside=STEP ** (place - 1), **style)
    dropping = [x for x in private if x.variant.t_min is not None]
    for line in dropping:
        label = f"fedward, t_min {line.variant.t_min}, c {line.variant.colluding}"
        colour = STYLES["federated"][0]
        style = {"color": colour, "marker": "D", "mfc": "white", "linestyle": ""}
        _errors(axes, [line], field, label, beside=STEP**-2, **style)
    for line in lines:
        if line.method == WITHOUT:
            level = getattr(line, field).mean
            axes.axhline(level, color=COLOUR_WITHOUT, linewidth=1, label=TITLES[WITHOUT])
    _ticks(axes, sorted({line.variant.epsilon for line in private}))
    low, high = axes.get_ylim()
    more = max(0.0, LEAST_SPAN - (high - low)) / 2
    axes.set_ylim(low - more, high + more)


def _errors(
    axes: Axes, lines: Sequence[Line], field: str, label: str, *, beside: float, **style: Any
) -> None:
    values = [getattr(line, field) for line in lines]
    axes.errorbar(
        [line.variant.epsilon * beside for line in lines],
        [value.mean for value in values],
        [value.error or 0.0 for value in values],
        label=label,
        capsize=3,
        markersize=6,
        linewidth=1.4,
        **style,
    )


def _ticks(axes: Axes, epsilons: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("epsilon of the whole plan (patient level)", fontsize=9)
    axes.set_xlim(epsilons[0] / 1.25, epsilons[-1] * 1.25)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
