"""The figures of ``bench training`` as one picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedward_simulations.bench.training import BARS, Measure, Result

COLOURS = {
    "fedward": "#0b6e4f",
    "opacus": "#c8553d",
    "opacus-ew": "#e0a458",
    "opacus-ghost": "#6a4c93",
}
INCHES = (11.0, 4.2)
DOTS = 120
WIDTH = 0.8 / len(COLOURS)


def draw(results: Sequence[Result]) -> bytes:
    """Return a PNG: throughput over plain torch, and peak memory over plain torch's."""
    figure = Figure(figsize=INCHES, layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, results, lambda measure, _: measure.ratio, "Throughput over plain torch")
    _bars(right, results, _memory, "Peak memory over plain torch")
    for position, result in enumerate(results):
        bar = BARS.get(result.case.side)
        if bar is not None:
            left.hlines(bar, position - 0.45, position + 0.45, color="#333333", linestyle="--")
    right.axhline(1.0, color="#777777", linewidth=0.8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png", dpi=DOTS, metadata={"Software": None})
    return data.getvalue()


def _memory(measure: Measure, plain: Measure) -> float:
    """Zero where memory was not measured."""
    if not measure.peak_bytes or not plain.peak_bytes:
        return 0.0
    return measure.peak_bytes / plain.peak_bytes


def _bars(
    axes: Axes,
    results: Sequence[Result],
    height: Callable[[Measure, Measure], float],
    title: str,
) -> None:
    measured = [{measure.mode: measure for measure in result.measures} for result in results]
    for offset, (mode, colour) in enumerate(COLOURS.items()):
        places = [group + (offset - 1.5) * WIDTH for group in range(len(results))]
        heights = [height(modes[mode], modes["plain"]) for modes in measured]
        axes.bar(places, heights, WIDTH, color=colour, label=mode)
    labels = [f"{result.case.side} px\n{result.case.copies} view(s)" for result in results]
    axes.set_xticks(range(len(results)), labels, fontsize=8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
