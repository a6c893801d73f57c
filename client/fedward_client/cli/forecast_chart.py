"""The picture of a forecast: what is spent, where a plan would take it, and the caps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedward_client.ledger import Ledger
from fedward_client.outlook import Outlook, guarantees
from fedward_client.policy import Caps
from fedward_client.spending import Spent
from fedward_common.errors import OperatorError, StorageError

POINTS = 24
FORMATS = (".png", ".svg")
ENFORCED, FIXED, CAP, RETRIES = "#0b5394", "#6fa8dc", "#b45309", "#f1f1f1"
TITLES = (
    "against the server, outsiders and up to c hospitals",
    "worst case: all other hospitals collude",
)


def check_picture(path: Path) -> None:
    """Refuse a name before seconds are spent on the figures.

    Raises:
        OperatorError: the ending is not that of a picture, or the folder does not exist.
    """
    if path.suffix.lower() not in FORMATS:
        raise OperatorError(f"{path}: end the picture's name in {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise OperatorError(f"{path}: the folder does not exist; make it first")


def draw_forecast(
    path: Path, title: str, ledger: Ledger, caps: Caps, accounts: Sequence[Outlook]
) -> None:
    """Write the picture: a row for each account, a column for each guarantee of B4.

    Raises:
        StorageError: it cannot be written.
    """
    height = 0.6 + 2.9 * len(accounts)
    figure = Figure(figsize=(9.6, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(accounts), len(TITLES), squeeze=False)
    for row, outlook in zip(grid, accounts, strict=True):
        steps = _steps(outlook.rounds + outlook.extra)
        course = ledger.course(outlook.account, outlook.queries, outlook.extra, caps, steps)
        for which, axes in enumerate(row):
            _panel(axes, outlook, which, steps, course)
    for axes, text in zip(grid[0], TITLES, strict=True):
        axes.set_title(text, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("attempts of this plan", fontsize=9)
    try:
        with mpl.rc_context({"svg.hashsalt": "fedward", "svg.fonttype": "none"}):
            figure.savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written; check rights and space") from error


def _panel(
    axes: Any, outlook: Outlook, which: int, steps: Sequence[int], course: Sequence[Spent]
) -> None:
    """One guarantee of one account over the plan's attempts."""
    points = [guarantees(spent, outlook.cap)[which] for spent in course]
    before, cap = guarantees(outlook.before, outlook.cap)[which], points[0].cap
    enforced = [_drawn(point.enforced) for point in points]
    fixed = [_drawn(point.fixed) for point in points]
    if outlook.extra:
        axes.axvspan(outlook.rounds, steps[-1], color=RETRIES, label="retries it allows")
    spent = before.fixed if before.enforced is None else before.enforced
    if 0.0 < spent < math.inf:
        axes.axhline(spent, color="grey", linestyle=":", linewidth=1, label="spent so far")
    if cap is not None:
        axes.axhline(cap, color=CAP, linewidth=1.6, label=f"cap {cap:g}")
        axes.plot(steps, enforced, color=ENFORCED, linewidth=1.8, label="enforced")
    axes.plot(steps, fixed, color=FIXED, linestyle="--", label="as if fixed in advance")
    shown = [value for value in (*enforced, *fixed, cap or 0.0) if math.isfinite(value)]
    # Above three times the cap nothing is worth seeing: the plan is refused.
    top = 1.15 * max(shown, default=1.0)
    axes.set_ylim(0.0, min(top, 3.0 * cap) if cap else top)
    axes.set_xlim(0, steps[-1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"{outlook.account}: epsilon at delta {outlook.cap.delta:g}", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, loc="lower right", framealpha=0.9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _drawn(epsilon: float | None) -> float:
    """Matplotlib leaves a gap for what is not a number."""
    return math.nan if epsilon is None or math.isinf(epsilon) else epsilon


def _steps(total: int) -> list[int]:
    """At most POINTS numbers from 0 to ``total``, evenly spread."""
    count = min(POINTS, total)
    return [round(total * index / count) for index in range(count + 1)]
