"""The charts of a report, each from the facts that it shows."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fedward_server.report.charts import Axis, Line, Rule, axis, line_chart
from fedward_server.report.model import CalibrationBin, RoundPoint
from fedward_server.report.text import epsilon, figure

FEW_POINTS = 40
SQUARE = (380.0, 370.0)


def auc_chart(rounds: Sequence[RoundPoint], reference: Rule | None = None) -> Markup | None:
    """AUC over rounds, or None where fewer than two rounds brought an estimate."""
    points = [(point.round, point.auc) for point in rounds if point.auc is not None]
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    low = 0.5 if min(values) >= 0.5 else max(0.0, min(values))
    description = (
        f"AUC over {rounds[-1].round} rounds: it begins at {figure(values[0])} "
        f"and ends at {figure(values[-1])}."
    )
    weights = [0.0] * len(points) if len(points) <= FEW_POINTS else None
    return line_chart(
        "chart-auc",
        description,
        _rounds_axis(rounds),
        axis("AUC (0.5 is chance)", values, low=low, high=1.0),
        [Line("AUC", [float(index) for index, _ in points], values, "ours", weights)],
        rule=reference,
    )


def norm_chart(rounds: Sequence[RoundPoint]) -> Markup | None:
    """Length of the model's step over rounds, or None where fewer than two rounds moved it."""
    points = [(p.round, p.update_norm) for p in rounds if p.update_norm is not None]
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    return line_chart(
        "chart-norm",
        f"Length of the model's step, from {figure(values[0])} to {figure(values[-1])}.",
        _rounds_axis(rounds),
        axis("length of the model's step", values, low=0.0),
        [Line("step", [float(index) for index, _ in points], values)],
    )


def epsilon_chart(rounds: Sequence[RoundPoint], limit: float) -> Markup | None:
    """Privacy spent over rounds against the plan's guarantee, or None without rounds."""
    if not rounds:
        return None
    x = [0.0, *(float(point.round) for point in rounds)]
    y = [0.0, *(point.epsilon_spent for point in rounds)]
    return line_chart(
        "chart-epsilon",
        f"Privacy spent grows to epsilon {epsilon(y[-1])}; the plan guarantees {epsilon(limit)}.",
        _rounds_axis(rounds),
        axis("ε spent", [*y, limit * 1.1], low=0.0),
        [Line("ε spent", x, y, "warm")],
        rule=Rule(limit, f"guarantee of the plan: {epsilon(limit)}"),
    )


def calibration_chart(bins: Sequence[CalibrationBin]) -> Markup | None:
    """Predicted against observed frequency, or None without bins."""
    used = [item for item in bins if item.share > 0]
    if not used:
        return None
    return line_chart(
        "chart-calibration",
        "Observed frequency against predicted probability; the diagonal is perfect calibration.",
        unit_axis("predicted probability"),
        unit_axis("observed frequency"),
        [
            Line(
                "calibration",
                [item.predicted for item in used],
                [item.observed for item in used],
                "ours",
                [item.share for item in used],
            )
        ],
        diagonal=True,
        size=SQUARE,
    )


def unit_axis(label: str) -> Axis:
    """An axis from 0 to 1."""
    return axis(label, (), low=0.0, high=1.0)


def _rounds_axis(rounds: Sequence[RoundPoint]) -> Axis:
    last = float(max(1, rounds[-1].round))
    return axis("round", [0.0, last], low=0.0, high=last)
