"""``fedward-client deidentify`` and ``describe``: every file accounted for, names keyed."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from tests.cli_world import client, ok, run
from tests.dicom_cases import FILES, SECRET, TOKEN, ct, encoded, image, noise

from fedward_client.deidentify.decoding import PIXEL_DATA
from fedward_client.deidentify.outcome import Action, Reason
from fedward_client.deidentify.places import LOCK, STAGING
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.release import release_folder
from fedward_client.deidentify.workers import Method
from fedward_common.errors import OperatorError


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef" * 4)
    path.chmod(0o600)
    return path


@pytest.fixture
def source(tmp_path):
    """Two usable files in a folder, one of them twice, and three that are refused."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    first = image(noise((20, 20), 1), patient="P1")
    (folder / f"{TOKEN}_P1.dcm").write_bytes(encoded(first))
    (folder / "deep" / "again.dcm").write_bytes(encoded(first))
    (folder / "deep" / "ct").write_bytes(encoded(ct()))
    (folder / "note.txt").write_text("hello")
    (folder / "report.dcm").write_bytes((FILES / "test-SR.dcm").read_bytes())
    (folder / "dangling.dcm").symlink_to(folder / "nowhere")
    return folder


def lines(report):
    return {(x := json.loads(line))["input"]: x for line in report.read_text().splitlines()}


def test_every_file_is_written_or_refused_with_a_reason(source, key, tmp_path):
    out, report = tmp_path / "out", tmp_path / "report.jsonl"
    done = run(
        "fedward-client", "deidentify", source, out, "--key-file", key, "--report", report, "--json"
    )
    counts = done.json
    assert (counts["found"], counts["written"]) == (6, 2)
    said = lines(report)
    assert set(said) == {
        f.relative_to(source).as_posix() for f in source.rglob("*") if not f.is_dir()
    }
    refused = {name: x["reason"] for name, x in said.items() if x["status"] == "refused"}
    assert refused["note.txt"] == Reason.NOT_DICOM
    assert refused["report.dcm"] == Reason.UNKNOWN_SOP_CLASS
    assert refused["dangling.dcm"] == "cannot be read"
    assert "earlier file" in refused["deep/again.dcm"]
    assert all(x["status"] == "written" for name, x in said.items() if name not in refused)
    assert sum(counts["refused"].values()) == len(refused) == 4
    assert counts["actions"]["removed"] > 0
    assert stat.S_IMODE(report.stat().st_mode) == 0o600


def test_names_are_those_of_the_cleaned_content(source, key, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    shown = ok(client("deidentify", source, out, "--key-file", key)).out
    assert "files found: 6, written: 2" in shown
    assert "attributes replaced by a keyed pseudonym: 4" in shown
    log = Method(SECRET, Profile()).engine().deidentify(encoded(ct())).log
    assert (PIXEL_DATA, Action.REMOVED) not in log  # they are rebuilt
    files = [file for file in out.rglob("*") if file.is_file()]
    assert len(files) == 2
    for file in files:
        ds = pydicom.dcmread(file)
        expected = (ds.PatientID, ds.StudyInstanceUID, f"{ds.SOPInstanceUID}.dcm")
        assert file.relative_to(out).parts == expected
        assert TOKEN.encode() not in file.read_bytes()
    again = tmp_path / "again"
    ok(client("deidentify", source, again, "--key-file", key))
    assert {f.relative_to(out) for f in files} == {
        f.relative_to(again) for f in again.rglob("*") if f.is_file()
    }


def test_places_that_would_mix_or_leak_are_refused(source, key, tmp_path):
    out = tmp_path / "out"
    with_key = ("--key-file", key)
    client("deidentify", source, source / "out", *with_key).refused(2, "outside")
    client("deidentify", source, source, *with_key).refused(2, "outside")
    client("deidentify", source, tmp_path, *with_key).refused(2, "outside")
    inside = ("--report", out / "report.jsonl")
    client("deidentify", source, out, *with_key, *inside).refused(2, "report.jsonl", "not in")
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("keep")
    client("deidentify", source, out, *with_key).refused(2, out, "not empty")
    assert [file.name for file in out.iterdir()] == ["mine"]


@pytest.mark.parametrize("option", ["--report", "--contact-sheet"])
def test_a_report_or_sheet_replaces_nothing_that_is_needed(source, key, tmp_path, option):
    profile, pipe, link = tmp_path / "p.toml", tmp_path / "pipe", tmp_path / "link"
    profile.write_text("[retain]\n")
    os.mkfifo(pipe)
    link.symlink_to(key)
    taken = (key, link, profile, pipe, source / "deep" / "ct", source / "new")
    before = {f: f.read_bytes() for f in (key, profile, source / "deep" / "ct")}
    where = ("--key-file", key, "--profile", profile, option)
    for path in taken:
        client("deidentify", source, tmp_path / "out", *where, path).refused(2, path)
    assert {f: f.read_bytes() for f in before} == before
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()
    assert not (source / "new").exists()
    assert not (tmp_path / "out").exists()


def test_the_audit_says_which_rule_did_what_and_no_value(source, key, tmp_path):
    out, audit = tmp_path / "out", tmp_path / "audit.jsonl"
    where = ("--key-file", key, "--audit", audit)
    counts = client("deidentify", source, out, *where, "--json").json
    entries = [json.loads(line) for line in audit.read_text().splitlines()]
    assert stat.S_IMODE(audit.stat().st_mode) == 0o600
    assert {tuple(entry) for entry in entries} == {("rule", "action", "tag", "count")}
    by_action = Counter()
    for entry in entries:
        by_action[entry["action"]] += entry["count"]
    assert by_action == counts["actions"]
    row = {"rule": "E.1-1 Z/D", "tag": "(0010,0020)", "count": 2}
    assert row | {"action": "replaced by a keyed pseudonym"} in entries
    values = {str(e.value) for e in ct() if e.VR in ("PN", "LO", "SH", "UI", "DA") and e.value}
    said = {str(part) for entry in entries for part in entry.values()}
    assert not values & said
    assert TOKEN not in audit.read_text()
    inside = ("--key-file", key, "--audit", tmp_path / "new" / "a.jsonl")
    client("deidentify", source, tmp_path / "new", *inside).refused(2, "a.jsonl", "not in")


@pytest.mark.parametrize(
    ("modality", "rows", "met"), [("CR", 20, True), ("CR", 21, False), ("MR", 20, False)]
)
def test_a_mask_that_meets_no_image_is_told(source, key, tmp_path, modality, rows, met):
    profile = tmp_path / "profile.toml"
    profile.write_text(
        f'[[mask]]\nmodality = "{modality}"\nrows = {rows}\ncolumns = 20\n'
        "rectangles = [[0, 0, 20, 9]]\n"
    )
    where = ("--key-file", key, "--profile", profile)
    shown = ok(client("deidentify", source, tmp_path / "out", *where)).out
    assert ("met no image: check its numbers" in shown) == (not met)
    assert ("CR with 20 rows and 20 columns: 1 images" in shown) == (modality == "CR" and not met)
    told = client("deidentify", source, tmp_path / "again", *where, "--json").json["warnings"]
    assert bool(told) == (not met)


def test_a_mask_of_an_unknown_modality_is_refused(source, key, tmp_path):
    profile = tmp_path / "profile.toml"
    profile.write_text(
        '[[mask]]\nmodality = "us"\nrows = 9\ncolumns = 9\nrectangles = [[0, 0, 9, 9]]\n'
    )
    where = ("--key-file", key, "--profile", profile)
    client("deidentify", source, tmp_path / "out", *where).refused(2, profile, "modality", "US")


def test_two_calls_do_not_share_a_folder(source, tmp_path):
    """The second is refused while the first is at work, and leaves its files alone."""
    out, seen = tmp_path / "out", []
    method = Method(SECRET, Profile())

    def progress(_done, _total):
        with pytest.raises(OperatorError, match="another call"):
            release_folder(source, out, method)
        seen.append(sorted(f.name for f in out.iterdir()))

    assert release_folder(source, out, method, progress=progress).written == 2
    assert set(map(tuple, seen)) == {(LOCK, STAGING)}
    assert len([f for f in out.rglob("*") if f.is_file()]) == 2


def test_the_contact_sheet_says_nothing_of_a_patient(key, tmp_path):
    """The parser complains of odd values and quotes them; the sheet parses a file once more."""
    source = tmp_path / "in"
    source.mkdir()
    ds = image(lettered(3))
    ds.NumberOfFrames = 1
    ds.SpecificCharacterSet = "ISO_IR 100"
    odd = encoded(ds).replace(b"ISO_IR 100", b"DOE^JOHN62")
    (source / "a.dcm").write_bytes(odd)
    where = ("--key-file", key, "--contact-sheet", tmp_path / "sheet.png", "--json")
    done = run("fedward-client", "deidentify", source, tmp_path / "out", *where)
    assert done.json["actions"][Action.TEXT] >= 1
    assert "DOE" not in done.err


def test_what_a_kill_left_is_replaced(source, key, tmp_path):
    out = tmp_path / "out"
    (out / STAGING / "patient").mkdir(parents=True)
    (out / STAGING / "patient" / "half.dcm").write_bytes(b"half")
    ok(client("deidentify", source, out, "--key-file", key))
    assert len([f for f in out.rglob("*") if f.is_file()]) == 2
    assert not (out / STAGING).exists()


def test_a_folder_of_which_nothing_can_be_used(key, tmp_path):
    source, out, report = tmp_path / "in", tmp_path / "out", tmp_path / "report.jsonl"
    source.mkdir()
    where = ("--key-file", key, "--report", report)
    client("deidentify", source, out, *where).refused(2, source, "holds no file")
    (source / "a.dcm").write_text("text")
    client("deidentify", source, out, *where).refused(2, source, "not a DICOM file: 1")
    assert not out.exists()
    assert lines(report)["a.dcm"]["reason"] == Reason.NOT_DICOM


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("ab" * 31, 0o600, "31 bytes"),
        ("xy" * 32, 0o600, "hexadecimal"),
        ("ab" * 32, 0o644, "chmod 600"),
        (None, 0o600, "cannot read"),
    ],
    ids=["short", "no hexadecimal", "readable by others", "missing"],
)
def test_a_bad_key_file(source, tmp_path, content, mode, words):
    key, out = tmp_path / "bad.key", tmp_path / "out"
    if content is not None:
        key.write_text(content)
        key.chmod(mode)
    done = client("deidentify", source, out, "--key-file", key).refused(2, key, words)
    assert "abab" not in done.err
    assert not out.exists()


def test_a_profile_changes_what_is_described_and_done(source, key, tmp_path):
    profile, out = tmp_path / "profile.toml", tmp_path / "out"
    profile.write_text('[retain]\nuids = true\n[pixels]\nhead_ct_mr = "keep"\n')
    rows = {r["keyword"]: r["effect"] for r in client("describe", "--json").json["attributes"]}
    assert rows["StudyInstanceUID"] == rows["SOPInstanceUID"] == "replaced by a keyed UID"
    assert rows["PatientID"] == rows["PatientName"] == "replaced by a keyed pseudonym"
    assert rows["StudyDate"] == "shifted in time"
    assert rows["OtherPatientIDs"] == "removed"
    assert rows["Rows"] == "kept"
    kept = client("describe", "--profile", profile, "--json").json
    assert {r["keyword"]: r["effect"] for r in kept["attributes"]}["StudyInstanceUID"] == "kept"
    assert "uids" in kept["summary"][0]
    shown = ok(client("describe", "--profile", profile)).out
    assert "(0020,000d) StudyInstanceUID" in shown
    ok(client("deidentify", source, out, "--key-file", key, "--profile", profile))
    assert str(ct().SOPInstanceUID) in {f.stem for f in out.rglob("*.dcm")}
    profile.write_text("[retain]\nuid = true\n")
    client("describe", "--profile", profile).refused(2, profile, "retain.uid")


def test_what_describe_says_is_what_is_done(source, key, tmp_path):
    """Each attribute of a real CT ends as its row says."""
    out = tmp_path / "out"
    ok(client("deidentify", source / "deep" / "ct", out, "--key-file", key))
    before, after = ct(), pydicom.dcmread(next(out.rglob("*.dcm")))
    effects = {r["keyword"]: r["effect"] for r in client("describe", "--json").json["attributes"]}
    seen = set()
    for element in before:
        effect = effects.get(element.keyword, "removed")
        if element.keyword in ("PixelData", "FileMetaInformationVersion"):
            continue
        if effect == "removed":
            assert element.tag not in after, element.keyword
        elif effect == "kept" and element.tag in after:
            assert str(after[element.tag].value) == str(element.value), element.keyword
        elif effect != "kept" and element.tag in after and str(element.value):
            assert str(after[element.tag].value) != str(element.value), element.keyword
        seen.add(effect)
    assert {"removed", "kept", "shifted in time", "replaced by a keyed UID"} <= seen


def test_any_number_of_processes_writes_the_same(key, tmp_path):
    """Output files, report, counts and contact sheet are equal to the last byte."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(36):
        ds = image(lettered(number) if number % 9 == 0 else noise((40, 40), number), patient="P1")
        (source / f"{number:02}.dcm").write_bytes(encoded(ds))
    (source / "07.txt").write_text("no DICOM")
    (source / "08.txt").symlink_to(source / "nowhere")
    written, counts = [], []
    for jobs in (1, 2):
        out = tmp_path / f"out-{jobs}"
        report, sheet = tmp_path / f"report-{jobs}", tmp_path / f"sheet-{jobs}.png"
        told = ("--report", report, "--contact-sheet", sheet, "--jobs", jobs, "--json")
        counts.append(client("deidentify", source, out, "--key-file", key, *told).json)
        files = {f.relative_to(out): f.read_bytes() for f in out.rglob("*") if f.is_file()}
        written.append((files, report.read_bytes(), sheet.read_bytes()))
        assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    assert counts[0]["written"] == 36
    assert counts[0]["actions"][Action.TEXT] >= 4
    assert counts[0] == counts[1]
    assert written[0] == written[1]


def test_the_contact_sheet_shows_what_was_blanked(key, tmp_path):
    source, out, sheet = tmp_path / "in", tmp_path / "out", tmp_path / "sheet.png"
    source.mkdir()
    (source / "a.dcm").write_bytes(encoded(image(lettered(3))))
    where = ("--key-file", key, "--contact-sheet")
    ok(client("deidentify", source, out, *where, sheet))
    shown = np.asarray(Image.open(sheet).convert("RGB"))
    assert (shown == (230, 30, 30)).all(axis=-1).any()
    other = tmp_path / "other"
    client("deidentify", source, other, *where, other / "s.png").refused(2, "s.png", "not in")
    both = ("--report", sheet)
    client("deidentify", source, other, *where, sheet, *both).refused(2, sheet, "two")


def lettered(seed):
    """Smooth noise with bright text on it."""
    picture = Image.fromarray(noise((200, 300), seed) // 2)
    draw = ImageDraw.Draw(picture)
    draw.text((20, 20), "MEIER ANNA 1.2.1960", fill=250, font=ImageFont.load_default(18))
    return np.asarray(picture)
