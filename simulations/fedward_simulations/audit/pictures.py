"""The pictures of an audit, each a PNG: canaries, noise, and what an attacker reconstructs."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import norm

from fedward_client.privacy_audit.canaries import CanaryEvidence
from fedward_client.privacy_audit.noise import NoiseEvidence, RepeatEvidence
from fedward_simulations.audit.reconstruction import Reconstruction, shown

OURS, WARM, GREY = "#0b6b75", "#b3480f", "#8a949c"
DOTS = 130
SHOWN = 8
"""Patients in the panel of the reconstruction."""

ROWS = (
    "a patient's image",
    "read from a plain sum",
    "read from the private sum",
)


def draw_canaries(evidence: CanaryEvidence) -> bytes:
    """Where canaries stand that were in and that were out, and where they would at the claim."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    reach = max(4.0, float(np.abs(evidence.scores).max()))
    bins = np.linspace(-reach, reach, 61)
    places = np.linspace(-reach, reach, 400)
    for present, colour, name, middle in (
        (False, GREY, "was not in", -evidence.gap / 2),
        (True, OURS, "was in", evidence.gap / 2),
    ):
        own = evidence.scores[evidence.present == present]
        axes.hist(own, list(bins), density=True, color=colour, alpha=0.45, label=name)
        axes.plot(places, norm.pdf(places, middle), color=colour, linewidth=1.8)
    axes.set(xlabel="what the sums say of a canary, in deviations of the noise", yticks=[])
    axes.set_title(
        f"{evidence.guesses.canaries:,} canaries: the two groups must stay hard to tell apart",
        fontsize=10,
        loc="left",
    )
    axes.legend(frameon=False, fontsize=9, title="canary", alignment="left")
    return _png(figure, axes)


def draw_noise(noise: NoiseEvidence, repeats: RepeatEvidence) -> bytes:
    """Each site's noise against its claim, and how alike the noise of different rounds is."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    names = [f"{place}" for place in range(1, len(noise.sites) + 1)] + ["sum"]
    ratios = np.array([*noise.sites, noise.total])
    lows = np.array([noise.site_limits[0]] * len(noise.sites) + [noise.limits[0]])
    highs = np.array([noise.site_limits[1]] * len(noise.sites) + [noise.limits[1]])
    within = (ratios >= lows) & (ratios <= highs)
    places = np.arange(len(names))
    left.vlines(places, lows, highs, color=GREY, alpha=0.35, linewidth=9)
    left.axhline(1.0, color=GREY, linewidth=0.8)
    left.scatter(places, ratios, c=np.where(within, OURS, WARM), zorder=3, s=36)
    left.set_xticks(places, names)
    left.set(xlabel="site", ylabel="variance over claim")
    left.set_title("Noise: measured, and where honest noise lies", fontsize=10, loc="left")
    alike = right.imshow(repeats.matrix, vmin=-1, vmax=1, cmap="RdBu", interpolation="nearest")
    right.set(xlabel="round", ylabel="round")
    right.set_title("Is a round's noise used again?", fontsize=10, loc="left")
    figure.colorbar(alike, ax=right, label="correlation", shrink=0.85)
    return _png(figure, left)


def draw_pictures(found: Reconstruction) -> bytes:
    """Patients as they are, as read from a plain sum, and as read from the private sum."""
    chosen = shown(found, SHOWN)
    figure = Figure(figsize=(1.32 * len(chosen), 4.35), layout="constrained")
    grid = figure.subplots(3, len(chosen), squeeze=False)
    for column, patient in enumerate(chosen):
        truth = found.originals[patient]
        low, high = float(truth.min()), float(truth.max())
        _show(grid[0][column], truth, low, high)
        _show(grid[1][column], found.plain[patient], low, high)
        noisy = found.private[patient]
        _show(grid[2][column], noisy, float(noisy.min()), float(noisy.max()))
    for row, name in enumerate(ROWS):
        axes = grid[row][0]
        axes.set_title(name, fontsize=10, loc="left", color=WARM if row == 1 else "#16212b")
    return _png(figure, None)


def _show(axes: Axes, image: NDArray[np.float32], low: float, high: float) -> None:
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _png(figure: Figure, axes: Axes | None) -> bytes:
    if axes is not None:
        axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png", dpi=DOTS, metadata={"Software": None})
    return data.getvalue()
