"""Profiles: strict TOML, careful by default, and the table under the standard's options."""

from __future__ import annotations

import json
import re

import pytest

from fedward_client.deidentify import table
from fedward_client.deidentify.profile import Profile
from fedward_common.errors import OperatorError

FULL = """
schema = 1
missing_patient_id = "study"
[retain]
dates = "full"
uids = true
[pixels]
text = "quarantine"
head_ct_mr = "keep"
[[mask]]
modality = "CR"
rows = 10
columns = 20
rectangles = [[0, 0, 20, 2]]
"""


def test_a_profile_is_read(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(FULL)
    profile = Profile.load(path)
    assert profile.retain.uids
    assert profile.pixels.text == "quarantine"
    assert profile.mask[0].rectangles == ((0, 0, 20, 2),)
    assert profile.options == {"uids", "dates-full"}


def test_defaults_are_careful():
    profile = Profile()
    assert profile.options == {"dates-modified"}
    assert profile.missing_patient_id == "quarantine"
    assert set(profile.pixels.model_dump().values()) <= {"mask", "quarantine"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("typo = 1", "typo"),
        ("[retain]\nuid = true", "retain.uid"),
        ('[pixels]\ntext = "maybe"', "pixels.text"),
        ("schema = 2", "schema"),
        ("not toml", "not TOML"),
        ('[[mask]]\nmodality = "CR"\nrows = 1\ncolumns = 1\nrectangles = []', "rectangles"),
    ],
)
def test_a_bad_profile_is_one_line_that_names_file_and_field(tmp_path, text, complaint):
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(OperatorError) as caught:
        Profile.load(path)
    assert str(path) in str(caught.value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_profile_is_one_line(tmp_path):
    with pytest.raises(OperatorError, match=re.escape("nowhere.toml")):
        Profile.load(tmp_path / "nowhere.toml")


def test_the_table_is_the_reference(shared_dir):
    reference = json.loads((shared_dir / "reference" / "ps3.15_table_e1-1.json").read_text())
    named = {r["tag"]: r["basicProfile"] for r in reference if "X" not in r["tag"].upper()}
    named = {tag: basic for tag, basic in named.items() if "G" not in tag}
    ours = {f"({r.tag >> 16:04X},{r.tag & 0xFFFF:04X})": r.basic for r in table.rows()}
    assert ours == named


def test_options_choose_the_action_of_a_row():
    rows = {row.name: row for row in table.rows()}
    study_date = rows["Study Date"]
    assert study_date.action(frozenset()) == "Z"
    assert study_date.action(frozenset(("dates-modified",))) == "C"
    assert study_date.action(frozenset(("dates-modified", "dates-full"))) == "K"
    assert rows["Device Serial Number"].action(frozenset(("device",))) == "K"
