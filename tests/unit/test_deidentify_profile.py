"""Profiles: strict TOML, careful by default, and the table under the standard's options."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from tests.dicom_cases import clean, ct, encoded

from fedward_client.deidentify import describe, private, table
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


MASK = '[[mask]]\nmodality = "CR"\nrows = 10\ncolumns = 20\nrectangles = [{}]'


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
    assert not set(profile.pixels.model_dump().values()) & {"keep", "off"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("typo = 1", "typo"),
        ("[retain]\nuid = true", "retain.uid"),
        ('[pixels]\ntext = "maybe"', "pixels.text"),
        ("schema = 2", "schema"),
        ("not toml", "not TOML"),
        ('[[mask]]\nmodality = "CR"\nrows = 1\ncolumns = 1\nrectangles = []', "rectangles"),
        (MASK.format("[20, 0, 0, 2]"), "blanks nothing"),
        (MASK.format("[0, 2, 20, 2]"), "blanks nothing"),
        (MASK.format("[0, 0, 20, 2], [20, 0, 30, 2]"), "blanks nothing"),
        (MASK.format("[0, 10, 20, 12]"), "blanks nothing"),
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


def test_the_documented_profile_is_the_default():
    text = (Path(__file__).parents[2] / "docs" / "deidentification.md").read_text()
    shown = tomllib.loads(text.split("```toml")[1].split("```")[0])
    assert Profile.model_validate(shown) == Profile()
    assert shown["retain"].keys() == Profile().retain.model_dump().keys()
    assert shown["pixels"].keys() == Profile().pixels.model_dump().keys()
    assert shown["clean"].keys() == Profile().clean.model_dump().keys()
    creators = {creator for creator, _, _ in private.safe_attributes()}
    assert f"{len(private.safe_attributes())} attributes of {len(creators)} creators" in text


def test_a_real_date_never_stands_beside_shifted_ones():
    row = next(row for row in table.rows() if row.name == "Date of Last Calibration")
    assert row.action(frozenset(("device",))) == row.basic == "X"
    assert row.action(frozenset(("device", "dates-modified"))) == "C"
    assert row.action(frozenset(("device", "dates-full"))) == "K"


def test_every_attribute_is_described_with_its_rule_and_options():
    effects = {one.keyword: one for one in describe.attributes(Profile())}
    study = effects["StudyDate"]
    assert (study.effect, study.otherwise) == ("shifted in time", "emptied")
    assert (study.rule, study.options) == ("E.1-1 C", "dates-full K, dates-modified C")
    assert effects["OtherPatientIDs"].rule == "E.1-1 X"
    assert effects["Rows"].rule == "allow-list"
    assert effects["SeriesDescription"].effect == "removed"
    words = Profile.model_validate({"clean": {"descriptors": True}})
    cleaned = {one.keyword: one for one in describe.attributes(words)}["SeriesDescription"]
    assert (cleaned.effect.split(":")[0], cleaned.otherwise) == ("cleaned", "removed")
    assert {row.tag for row in table.rows()} >= {
        int(one.tag[1:5] + one.tag[6:10], 16) for one in effects.values() if "E.1-1" in one.rule
    }


def test_the_summary_names_every_option_and_code():
    everything = Profile.model_validate(
        {
            "retain": {
                "uids": True, "device": True, "institution": True, "safe_private": True,
                "patient_characteristics": True, "dates": "full",
            },
            "clean": {"descriptors": True, "structured_content": True, "graphics": "geometry"},
        }
    )  # fmt: skip
    options, codes, *_ = describe.summary(everything)
    assert {"uids", "device", "institution", "patient", "private", "dates-full", "descriptors",
            "structured", "graphics"} <= set(re.findall(r"[\w-]+", options))  # fmt: skip
    named = {"113100", "113101", *map(str, range(113103, 113113))} - {"113107"}
    assert set(re.findall(r"\d{6}", codes)) == named


def test_the_audit_of_a_file_holds_rules_actions_and_tags_only():
    outcome, _ = clean(encoded(ct()))
    entries = describe.audit(Counter(outcome.log), Profile())
    assert entries.total() == len(outcome.log)
    patient = [one for one in entries if one.tag == "(0010,0020)"]
    assert {one.rule for one in patient} == {"E.1-1 Z/D"}
    assert Counter(one.action for one in entries)["removed"] > 50
    values = {str(e.value) for e in ct() if e.VR in ("PN", "LO", "SH") and len(str(e.value)) > 3}
    assert not values & {text for one in entries for text in vars(one).values()}
