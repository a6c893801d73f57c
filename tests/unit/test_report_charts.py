from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import report_samples as samples

from fedward_server.report.charts import Line, Rule, axis, line_chart
from fedward_server.report.figures import (
    auc_chart,
    calibration_chart,
    epsilon_chart,
    norm_chart,
    unit_axis,
)

FINITE = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_an_axis_covers_its_values_with_a_few_round_ticks(values):
    result = axis("x", values)
    slack = 1e-6 * (result.high - result.low)
    assert result.low - slack <= min(values) <= max(values) <= result.high + slack
    assert 2 <= len(result.ticks) <= 8
    steps = np.diff(result.ticks)
    assert np.allclose(steps, steps[0])
    written = [f"{tick:.{result.digits}f}" for tick in result.ticks]
    assert len(set(written)) == len(written)


def test_lines_stay_inside_the_frame_and_skip_what_is_not_finite():
    line = Line("a", [0.0, 0.5, 1.0, 2.0], [0.0, math.nan, 0.7, 9.0])
    chart = line_chart("id", "text", unit_axis("x"), unit_axis("y"), [line], size=(400.0, 300.0))
    drawn = [e for e in ET.fromstring(str(chart)) if "line" in e.get("class", "")]
    numbers = drawn[0].get("d").lstrip("M").split()
    assert len(numbers) == 6
    assert all(0.0 <= float(number) <= 400.0 for number in numbers)


def test_long_lines_are_thinned_but_keep_both_ends():
    x = list(np.linspace(0.0, 1.0, 5001))
    chart = str(line_chart("id", "text", unit_axis("x"), unit_axis("y"), [Line("a", x, x)]))
    assert len(chart) < 12_000
    ends = line_chart("id", "text", unit_axis("x"), unit_axis("y"), [Line("a", [0, 1], [0, 1])])
    path = ET.fromstring(str(ends))[-1].get("d").lstrip("M").split()
    thinned = ET.fromstring(chart)[-1].get("d").lstrip("M").split()
    assert thinned[:2] == path[:2]
    assert thinned[-2:] == path[-2:]


def test_names_and_descriptions_are_escaped():
    chart = line_chart(
        "id", samples.HOSTILE, unit_axis(samples.HOSTILE), unit_axis("y"),
        [Line(samples.HOSTILE, [0.0, 1.0], [0.0, 1.0])], rule=Rule(0.5, samples.HOSTILE),
    )  # fmt: skip
    root = ET.fromstring(str(chart))
    assert {element.tag for element in root.iter()} <= {"svg", "desc", "path", "text", "title"}
    assert root[0].text == samples.HOSTILE


def test_each_chart_says_in_words_what_it_shows():
    points = samples.rounds()
    assert "ends at 0.9" in str(auc_chart(points))
    assert "plan guarantees 2.00" in str(epsilon_chart(points, 1.998))
    for chart in (norm_chart(points), calibration_chart(samples.metrics().calibration)):
        root = ET.fromstring(str(chart))
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == root[0].get("id")


@pytest.mark.parametrize("chart", [auc_chart, norm_chart])
def test_charts_without_two_points_are_left_out(chart):
    assert chart(()) is None
    assert chart(samples.rounds(1)[:2]) is None


def test_no_rounds_and_no_bins_give_no_chart():
    assert epsilon_chart((), 2.0) is None
    assert calibration_chart(()) is None
