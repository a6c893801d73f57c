"""``fedward-simulate bench secagg`` measures the real machines and says what it measured."""

from __future__ import annotations

import json
import struct
from importlib.util import find_spec

import numpy as np
import pytest
from tests.protocol_document import FORMATS
from typer.testing import CliRunner

from fedward_common.errors import OperatorError
from fedward_common.secagg.messages import MAX_BYTES
from fedward_simulations.bench import secagg
from fedward_simulations.bench.cli import app
from fedward_simulations.bench.comparison import REPEATS, compare, document, make_cases
from fedward_simulations.bench.flower import measure_flower
from fedward_simulations.bench.memory import measure_peak
from fedward_simulations.bench.plot import draw
from fedward_simulations.bench.secagg import STEPS, Case, measure

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
UP = [form for form in FORMATS if form.way == "site to server"]
DOWN = [form for form in FORMATS if form.way == "server to site"]


@pytest.fixture(scope="module")
def results():
    cases, _ = make_cases([3, 10], [50, 2000], [0.0, 0.2])
    return compare(cases, peers=True, notice=[].append)


@pytest.mark.parametrize("case", [Case(3, 100), Case(10, 1000), Case(10, 1000, 3)], ids=str)
def test_the_bytes_are_those_of_the_messages(case):
    cost = measure(case)
    # The document's sizes have every number at its largest and `missing` full.
    slack = 60 * case.sites + 200
    up = sum(len(form.largest(case.sites, case.parameters)) for form in UP)
    down = sum(len(form.largest(case.sites, case.parameters)) for form in DOWN)
    assert 4 * case.parameters < cost.upload_bytes <= up
    assert cost.upload_bytes > up - slack
    assert 0.5 * down < cost.download_bytes <= down


def test_the_upload_grows_by_four_bytes_a_parameter_and_dropouts_do_not_change_it():
    sizes = [measure(Case(10, d)).upload_bytes for d in (1000, 2000)]
    assert sizes[1] - sizes[0] == 4000
    assert measure(Case(10, 1000, 3)).upload_bytes == sizes[0]


def test_a_step_that_is_not_paid_for_would_show():
    cost = measure(Case(5, 20_000))
    assert set(cost.steps) == set(STEPS)
    assert all(seconds > 0 for seconds in cost.steps.values())
    assert cost.client_seconds > cost.steps["A3.2 mask"]
    assert cost.server_seconds > 0


def test_a_wrong_sum_gives_no_figure(monkeypatch):
    total = secagg.Server.total.fget
    monkeypatch.setattr(secagg.Server, "total", property(lambda self: total(self) + np.uint32(1)))
    with pytest.raises(Exception, match="not the sum"):
        measure(Case(3, 10))


def test_more_dropouts_than_the_protocol_survives_are_refused():
    assert Case(10, 100, 3)
    with pytest.raises(OperatorError, match="7 must stay"):
        Case(10, 100, 4)


def test_the_servers_memory_grows_with_parameters_and_hardly_with_sites():
    few, many, large = (
        measure_peak(Case(n, d)) for n, d in ((5, 50_000), (20, 50_000), (5, 100_000))
    )
    assert few.server > 2 * 4 * 50_000
    assert large.server - few.server >= 2 * 4 * 50_000
    assert many.server - few.server < 8 * MAX_BYTES
    assert large.client > few.client > 4 * 50_000


def test_cases_come_once_and_too_large_ones_are_named():
    cases, left_out = make_cases([3, 100], [100, 10**7], [0.0, 0.2])
    assert cases == [Case(3, 100), Case(3, 10**7), Case(100, 100), Case(100, 100, 20)]
    assert left_out == ["100 sites of 10,000,000 parameters: left out, too large"]


def test_the_document_holds_every_case_and_its_ratios(results):
    record = json.loads(json.dumps(document(results)))
    found = [(r["sites"], r["parameters"], r["dropouts"]) for r in record["results"]]
    assert found == [
        (3, 50, 0),
        (3, 2000, 0),
        (10, 50, 0),
        (10, 50, 2),
        (10, 2000, 0),
        (10, 2000, 2),
    ]
    assert record["versions"]["flwr"].startswith("1.41.")
    for result in record["results"]:
        names = {peer["name"] for peer in result["peers"]}
        expected = {"flower-secagg+"} | ({"tenseal-ckks"} if find_spec("tenseal") else set())
        assert names == (set() if result["dropouts"] else expected)
        assert set(result["ratios"]) == names | {"bare additions per mask"}
        assert min(result["ratios"].values()) > 0
        assert result["encoding_seconds"] > 0
        assert result["noise_seconds"] > 0


def test_flower_sends_eight_bytes_a_parameter():
    sizes = [measure_flower(5, d).upload_bytes for d in (1000, 2000)]
    assert sizes[1] - sizes[0] == 8000


def test_the_picture_is_a_png_of_three_panels(results):
    picture = draw(results)
    assert picture.startswith(PNG_SIGNATURE)
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 3 * height > 900


def test_the_command_prints_json_only_and_writes_both_files(tmp_path):
    small = ["--sites", "3", "--parameters", "64", "--dropout", "0", "--no-peers"]
    done = CliRunner().invoke(app, ["secagg", *small, "--json", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert json.loads((tmp_path / "secagg.json").read_text()) == record
    assert (tmp_path / "secagg.png").read_bytes().startswith(PNG_SIGNATURE)
    shown = CliRunner().invoke(app, ["secagg", *small])
    assert "One private sum" in shown.stdout
    assert " 64" in shown.stdout or "6e+01" in shown.stdout
    assert REPEATS > 1
