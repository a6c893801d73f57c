"""The growth of ``bench deployment`` as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INCHES = (12.0, 3.8)
DOTS = 120
COLOURS = {"server": "#0b6e4f", "daemons": "#c8553d"}


def draw(costs: Sequence[dict[str, Any]]) -> bytes:
    """Return a PNG: seconds, CPU and memory of a round by daemons, beside linear growth."""
    figure = Figure(figsize=INCHES, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    sizes = [cost["daemons"] for cost in costs]
    seconds = [cost["median_seconds"] for cost in costs]
    left.plot(sizes, seconds, color=COLOURS["server"], marker="o", label="median")
    linear = [seconds[0] * size / sizes[0] for size in sizes]
    left.plot(sizes, linear, color="#777777", linestyle="--", label="linear growth")
    for side, colour in COLOURS.items():
        cpu = [cost["cpu"][side] for cost in costs]
        middle.plot(sizes, cpu, color=colour, marker="o", label=side)
        memory = [cost["memory"][side] / 1e6 for cost in costs]
        right.plot(sizes, memory, color=colour, marker="o", label=side)
    titles = ("seconds a round", "CPU seconds a round", "memory, MB")
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.set(xlabel="daemons", ylim=(0, None))
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(visible=True, color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8)
    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png", dpi=DOTS, metadata={"Software": None})
    return data.getvalue()
