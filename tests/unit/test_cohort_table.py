"""``fedward-client describe-cohort``: groups of five or more, and nothing that names a patient."""

from __future__ import annotations

import csv
import stat

import pytest
from tests.cli_world import client, ok
from tests.dicom_cases import TOKEN, encoded, image, noise

from fedward_client import cohort_table
from fedward_client.cohort_table import COLUMNS, describe_cohort
from fedward_client.intake.add import add_folder
from fedward_client.site_folder import create_site, open_site
from fedward_common.errors import OperatorError

CHARACTERISTICS = "[retain]\npatient_characteristics = true\n"


def site_of(tmp_path, people, profile=""):
    """A site of one image a patient; ``people``: (sex, age, manufacturer)."""
    path, pacs = tmp_path / "site", tmp_path / "pacs"
    create_site(path, "north")
    pacs.mkdir()
    for number, (sex, age, manufacturer) in enumerate(people):
        ds = image(noise((16, 16), number), patient=f"{TOKEN}{number}")
        ds.PatientSex, ds.PatientAge, ds.Manufacturer = sex, age, manufacturer
        (pacs / f"{number:02}.dcm").write_bytes(encoded(ds))
    if profile:
        (path / "p.toml").write_text(profile)
        config = path / "config.toml"
        config.write_text(config.read_text().replace('profile = ""', 'profile = "p.toml"'))
    with open_site(path) as site:
        add_folder(site, pacs)
    return path


def table(out):
    header, *rows = csv.reader(out.read_text().splitlines())
    assert header == [*COLUMNS, "patients"]
    return {tuple(key): int(count) for *key, count in rows}


def test_small_groups_lose_cells_and_no_patient_is_lost(tmp_path):
    people = [("F", "045Y", "SIEMENS")] * 6 + [
        ("M", f"{20 + 10 * n:03}Y", "PHILIPS") for n in range(5)
    ]
    people += [("O", "091Y", f"{TOKEN} BUILD")]
    path, out = site_of(tmp_path, people, CHARACTERISTICS), tmp_path / "cohort.csv"
    said = ok(client("describe-cohort", out, "--site", path)).out
    assert table(out) == {("CR", "SIEMENS", "unknown", "F", "40-49"): 6, ("*",) * 5: 6}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "6 patients in 1 groups of 5 or more, 6 in none" in said
    assert TOKEN not in out.read_text() + said


def test_what_was_suppressed_is_said(tmp_path):
    people = [("F", f"{20 + 10 * (n % 3):03}Y", "SIEMENS") for n in range(9)]
    path, out = site_of(tmp_path, people, CHARACTERISTICS), tmp_path / "cohort.csv"
    done = client("describe-cohort", out, "--site", path, "--json").json
    assert table(out) == {("CR", "SIEMENS", "unknown", "F", "*"): 9}
    assert done["suppressed"] == {**dict.fromkeys(COLUMNS, 0), "age": 9}
    assert done["hidden"] == 0
    client("describe-cohort", out, "--site", path).refused(2, out, "exists")


def test_the_default_profile_leaves_no_sex_and_no_age_to_tell(tmp_path):
    path, out = site_of(tmp_path, [("F", "045Y", TOKEN)] * 5), tmp_path / "cohort.csv"
    with open_site(path) as site:
        describe_cohort(site, out)
    assert table(out) == {("CR", "unknown", "unknown", "unknown", "unknown"): 5}


@pytest.mark.parametrize("count", [1, 4])
def test_fewer_than_five_are_no_table(tmp_path, count):
    path, out = site_of(tmp_path, [("F", "045Y", "SIEMENS")] * count), tmp_path / "cohort.csv"
    with open_site(path) as site, pytest.raises(OperatorError, match="no table"):
        describe_cohort(site, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("age", "decade"),
    [("045Y", "40-49"), ("090Y", "90+"), ("006M", "00-09"), ("999M", "80-89"), ("014D", "00-09"),
     ("520W", "00-09"), ("", "unknown"), ("4711", "unknown")],
)  # fmt: skip
def test_ages_are_decades(age, decade):
    assert cohort_table._decade(age) == decade
