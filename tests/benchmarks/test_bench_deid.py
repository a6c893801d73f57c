"""``fedward-simulate bench deid`` measures the real programs and says what it measured."""

from __future__ import annotations

import json
import sys

import numpy as np
import pydicom
import pytest
from tests.dicom_cases import ct
from typer.testing import CliRunner

from fedward_common.errors import OperatorError
from fedward_simulations.bench.cli import app
from fedward_simulations.bench.deid import (
    BAR_ANONYMIZER,
    BAR_DICOGNITO,
    Result,
    Speed,
    compare,
    make_slices,
    measure_growth,
)
from fedward_simulations.bench.deidentifiers import (
    COPY,
    FULL,
    HEADER,
    PEERS,
    PYDICOM,
    contenders,
)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return make_slices(tmp_path_factory.mktemp("bench") / "in", 3)


def test_the_slices_are_ct_with_a_real_header(slices):
    read = [pydicom.dcmread(path) for path in slices]
    assert len({ds.SOPInstanceUID for ds in read}) == 3
    for ds in read:
        assert ds.pixel_array.shape == (512, 512)
        assert ds.pixel_array.dtype == np.int16
        assert len(ds) == len(ct())
        assert ds.PatientName == ct().PatientName


@pytest.mark.parametrize("one", contenders(peers=True), ids=lambda one: one.name)
def test_every_contender_does_its_work(one, slices, tmp_path):
    """It writes the slice; all but pydicom and the copy have taken the name out."""
    if one.clean is None:
        pytest.skip(one.reason)
    source, target = slices[0], tmp_path / slices[0].name
    one.clean(source, target)
    before, after = pydicom.dcmread(source), pydicom.dcmread(target)
    np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
    kept = str(after.get("PatientName", "")) == str(before.PatientName)
    assert kept == (one.name in (PYDICOM, COPY))


def test_a_run_and_its_document():
    done = CliRunner().invoke(app, ["deid", "--slices", "4", "--no-peers", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [s["name"] for s in document["speeds"]] == [HEADER, FULL, PYDICOM, COPY]
    assert all(s["slices_per_second"] > 0 for s in document["speeds"])
    assert set(document["ratios"]) == {FULL, PYDICOM}
    assert [g["slices"] for g in document["growth"]] == [1, 2, 4]
    assert document["versions"]["pydicom"] == pydicom.__version__


def test_memory_does_not_grow_with_the_files(tmp_path):
    """Half a slice a file would be 6 MB more."""
    files = make_slices(tmp_path / "in", 32)
    few, many = (measure_growth(files[:count]).working_bytes for count in (8, 32))
    assert many - few < 24 * 512 * 512 * 2 // 2


def test_the_bar_is_speed_or_both_ratios():
    def result(ours, anonymizer, dicognito):
        speeds = (
            Speed(HEADER, ours),
            Speed("dicom-anonymizer", anonymizer),
            Speed("dicognito", dicognito),
        )
        return Result(500, speeds, ())

    assert result(150.0, 149.0, 149.0).passes
    assert result(100.0, 100 / BAR_ANONYMIZER, 100 / BAR_DICOGNITO).passes
    assert not result(100.0, 90 / BAR_ANONYMIZER, 110 / BAR_DICOGNITO).passes
    assert not Result(500, (Speed(HEADER, 100.0),), ()).passes


def test_a_peer_that_is_missing_is_said_so(monkeypatch):
    for package in PEERS.values():
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"{package}.anonymizer", raising=False)
    missing = {one.name: one.reason for one in contenders(peers=True) if one.clean is None}
    assert set(missing) == set(PEERS)
    assert all("pip install fedward[bench]" in reason for reason in missing.values())
    with pytest.raises(OperatorError, match=r"pip install fedward\[bench\]"):
        compare(1, peers=True, notice=lambda _: None)
