"""Every row of PS3.15 table E.1-1, under every option and pair of options, at depth 0 and 3.

What is expected is computed here from the reference table and the standard's letters; the package's
own copy of the table is not looked at. One data set carries a value under every row at once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations

import pytest
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.dicom_cases import clean, ct, encoded

from fedward_client.deidentify.profile import Profile

COLUMNS = {
    "private": "rtnSafePrivOpt", "uids": "rtnUIDsOpt", "device": "rtnDevIdOpt",
    "institution": "rtnInstIdOpt", "patient": "rtnPatCharsOpt", "full": "rtnLongFullDatesOpt",
    "modified": "rtnLongModifDatesOpt", "descriptors": "cleanDescOpt",
    "structured": "cleanStructContOpt", "graphics": "cleanGraphOpt",
}  # fmt: skip
DATES = {"rtnLongFullDatesOpt", "rtnLongModifDatesOpt"}
PAIRS = [pair for pair in combinations(COLUMNS, 2) if set(pair) != {"full", "modified"}]
SINGLE = [(name,) for name in COLUMNS]
WRAPPERS = (0x00289110, 0x52009230, 0x52009229)  # innermost first: sequences that are entered
TEXTS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT", "UR"}
ODD_VALUES = {
    "PatientSex": "M", "PatientSexNeutered": "ALTERED", "SmokingStatus": "NO",
    "PregnancyStatus": 2, "EthnicGroup": "ASIAN", "TimezoneOffsetFromUTC": "+0100",
    "PatientSize": "1.75", "PatientWeight": "70.5", "PatientID": "QJPATIENT",
}  # fmt: skip
BY_VR = {
    "DA": "19991230", "TM": "123456.25", "DT": "19991230123456.25", "AS": "045Y", "DS": "4.5",
    "IS": "7", "US": 54321, "OB": b"QJBYTES!", "UN": b"QJBYTES!", "PN": "QJNAME^Q",
    "UR": "https://qjurl.example/1",
}  # fmt: skip
PUBLIC, HOSTILE = "CT CHEST", "QJTOKEN 4711"
BYTES = {"OB", "UN"}
DUMMY_KINDS = {
    "DA": r"\d{8}", "TM": r"\d{6}(\.\d+)?", "DT": r"\d{14}(\.\d+)?", "AS": r"\d{3}[DWMY]",
    "UI": r"2\.25\.\d+",
}  # fmt: skip


def profile_of(choice):
    dates = next((name for name in ("full", "modified") if name in choice), "none")
    return Profile.model_validate(
        {
            "retain": {
                "uids": "uids" in choice,
                "device": "device" in choice,
                "institution": "institution" in choice,
                "patient_characteristics": "patient" in choice,
                "safe_private": "private" in choice,
                "dates": dates,
            },
            "clean": {
                "descriptors": "descriptors" in choice,
                "structured_content": "structured" in choice,
                "graphics": "geometry" if "graphics" in choice else "remove",
            },
        }
    )


@pytest.fixture(scope="module")
def rows(shared_dir):
    """The rows of the reference that name one attribute: (tag, VR, keyword, row)."""
    listed = json.loads((shared_dir / "reference" / "ps3.15_table_e1-1.json").read_text())
    assert len(listed) == 656
    found = []
    for row in listed:
        if re.fullmatch(r"\([0-9A-F]{4},[0-9A-F]{4}\)", row["tag"]):
            tag = int(row["tag"][1:5] + row["tag"][6:10], 16)
            vr = dictionary_VR(tag) if dictionary_has_tag(tag) else "LO"
            found.append((tag, vr, keyword_for_tag(tag), row))
    assert len(found) == 652
    return found


def planted(tag, vr, keyword, row, text):
    """A plausible value of the VR; text is ``text``, which is public words or a secret.

    What no option keeps holds another text: kept text may not repeat a person's name or address.
    """
    if not set(COLUMNS.values()) & row.keys():
        text = "QJOTHER"
    if vr == "UI":
        return f"1.2.3.4711.{tag}"
    if vr == "SQ":
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "51185008", "SCT", HOSTILE
        item.PatientName = "QJNAME^Q"
        item.ReferencedSOPInstanceUID = "1.2.3.4711.1"
        return Sequence([item])
    return ODD_VALUES.get(keyword, BY_VR.get(vr, text))


def cleaned_rows(rows, choice, depth, text):
    """Plant a value under every row, clean, and return the data set that held them."""
    inner = Dataset()
    for tag, vr, keyword, row in rows:
        if depth or tag >> 16 not in (0, 2):  # which pydicom refuses to write at the top
            value = planted(tag, vr, keyword, row, text)
            inner.add(DataElement(tag, vr, value, validation_mode=0))
    ds = ct()
    for level in range(depth):
        outer = Dataset()
        outer.add_new(WRAPPERS[level], "SQ", Sequence([inner]))
        inner = outer
    for element in inner:
        ds.add(element)
    outcome, here = clean(encoded(ds), profile_of(choice))
    for level in reversed(range(depth)):
        here = here[WRAPPERS[level]].value[0]
    return outcome, here


def letters_of(row, choice):
    """The letters that the options in force ask for, else the basic profile's.

    A device's dates go with the dates: none is kept beside a mark that says they were removed.
    """
    if DATES & row.keys() and not DATES & {COLUMNS[name] for name in choice}:
        return basic_of(row)
    chosen = {row[COLUMNS[name]] for name in choice if COLUMNS[name] in row}
    return chosen or basic_of(row)


def basic_of(row):
    return {letter.rstrip("*") for letter in row["basicProfile"].split("/")}


def obeys(letter, element, original, vr, text):
    """Is ``element`` (None: absent) what the standard's letter asks for instead of the original?"""
    if vr == "SQ":
        return obeys_sequence(letter, element)
    if element is None:
        return letter in "XZ"
    if letter == "Z" and element.is_empty:
        return True
    value = element.value
    return {
        "X": False,
        "Z": value != original and is_dummy(value, vr),
        "K": str(value) == str(original),
        "D": not element.is_empty and value != original and is_dummy(value, vr),
        "U": re.fullmatch(DUMMY_KINDS["UI"], str(value)) is not None,
        "C": obeys_clean(value, original, vr, text),
    }[letter]


def is_dummy(value, vr):
    form = DUMMY_KINDS.get(vr)
    if form is not None:
        return re.fullmatch(form, str(value)) is not None
    return "QJ" not in str(value) and b"QJ" not in (value if isinstance(value, bytes) else b"")


def obeys_clean(value, original, vr, text):
    if vr in ("DA", "DT"):
        is_whole = re.fullmatch(DUMMY_KINDS[vr], value) is not None
        return is_whole and 2099 <= int(value[:4]) <= 2200
    if vr == "TM":
        return value.endswith(".25") and value != original
    if vr == "AE":
        return re.fullmatch(r"AE[0-9A-F]{14}", value) is not None
    return text == PUBLIC and value == original


def obeys_sequence(letter, element):
    """A sequence is never kept with a name, a foreign code meaning or, unless kept, its UID."""
    if letter == "X":
        return element is None
    if letter == "Z":
        return element is None or not element.value
    if element is None or not element.value:
        return False
    shown = str(element)
    if letter == "D":
        return "QJ" not in shown and "4711" not in shown and "51185008" not in shown
    if letter in "KC":
        return "QJNAME" not in shown
    return letter == "U" and "4711" not in shown


CANNOT = {
    ("C", "OB"), ("K", "OB"),  # bytes of which nobody knows the meaning: the basic profile's action
    ("C", "SH", "TimezoneOffsetFromUTC"),  # an offset beside shifted times says nothing: removed
}  # fmt: skip


def may_do_basic(letter, vr, keyword, text):
    """Cleaning what cannot be cleaned ends as in the basic profile."""
    return (
        (letter, vr) in CANNOT
        or (letter, vr, keyword) in CANNOT
        or (letter == "C" and text == HOSTILE and vr in TEXTS - {"AE"})
        or (letter in "KC" and vr == "SQ")
    )


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("choice", [(), *SINGLE], ids=lambda choice: "+".join(choice) or "none")
def test_every_row_is_obeyed(rows, choice, depth):
    check_rows(rows, choice, depth, PUBLIC)


@pytest.mark.parametrize("choice", PAIRS, ids="+".join)
def test_every_row_is_obeyed_under_two_options(rows, choice):
    """Where their letters differ, either of them; never less than one asks for."""
    check_rows(rows, choice, PAIRS.index(choice) % 2 * 3, PUBLIC)


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("choice", [*SINGLE, tuple(sorted(COLUMNS))], ids="+".join)
def test_every_row_is_obeyed_when_text_is_hostile(rows, choice, depth):
    check_rows(rows, choice, depth, HOSTILE)


WITHHELD = ("PatientAge",)
"""Emptied where the table asks for removal: the one deviation, asked for by the project."""


def check_rows(rows, choice, depth, text):
    outcome, here = cleaned_rows(rows, choice, depth, text)
    checked, wrong = Counter(), []
    for tag, vr, keyword, row in rows:
        if tag < 0x00080000:  # commands, file meta and directories: no part of a data set
            assert tag not in here
            continue
        letters = letters_of(row, choice)
        if keyword in WITHHELD and letters == {"X"}:
            assert here[tag].is_empty
            continue
        if any(may_do_basic(letter, vr, keyword, text) for letter in letters):
            letters |= basic_of(row)
        original = planted(tag, vr, keyword, row, text)
        element = here.get(tag)
        done = [one for one in letters if obeys(one, element, original, vr, text)]
        checked.update(done)
        if not done:
            wrong.append(f"{row['tag']} {keyword} {vr}: {sorted(letters)}, got {element!r}")
    assert not wrong, "\n".join(wrong)
    assert set("XZDU") - ({"U"} if "uids" in choice else set()) <= checked.keys()
    assert b"QJNAME" not in outcome.data
    assert b"QJBYTES" not in outcome.data


EFFECTS = {
    "uids": ("StudyInstanceUID", "FrameOfReferenceUID"),
    "device": ("DeviceSerialNumber", "StationName", "DetectorID", "PlateID"),
    "institution": ("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName"),
    "patient": ("PatientSex", "PatientAge", "PatientSize", "PatientWeight", "EthnicGroup"),
    "full": ("StudyDate", "AcquisitionDateTime", "ContentTime", "TimezoneOffsetFromUTC"),
    "descriptors": ("StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments"),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_an_option_keeps_what_the_others_do_not(rows, name):
    """Not every letter is satisfied by removal: what an option is for stays, and only then."""
    by_keyword = {keyword: (tag, vr, keyword, row) for tag, vr, keyword, row in rows}
    _, kept = cleaned_rows(rows, (name,), 0, PUBLIC)
    _, bare = cleaned_rows(rows, (), 0, PUBLIC)
    for keyword in EFFECTS[name]:
        original = planted(*by_keyword[keyword], PUBLIC)
        assert str(kept[keyword].value) == str(original), keyword
        assert str(bare.get(keyword, "")) != str(original), keyword


@pytest.mark.parametrize("depth", [0, 3])
def test_uids_are_mapped_the_same_everywhere(rows, depth):
    _, here = cleaned_rows(rows, (), depth, PUBLIC)
    again, top = cleaned_rows(rows, (), 0, PUBLIC)
    mapped = {tag: here[tag].value for tag, vr, _, _ in rows if vr == "UI" and tag in here}
    assert len(mapped) > 50
    assert len(set(mapped.values())) == len(mapped)
    assert all(top[tag].value == value for tag, value in mapped.items())
    assert again.identifiers.instance == top.SOPInstanceUID


def test_the_file_meta_names_the_new_instance(rows):
    assert any(tag == 0x00020003 for tag, *_ in rows)
    outcome, cleaned = clean(encoded(ct()))
    assert cleaned.file_meta.MediaStorageSOPInstanceUID == outcome.identifiers.instance


@pytest.mark.parametrize("choice", [(), *SINGLE], ids=lambda choice: "+".join(choice) or "none")
@pytest.mark.parametrize("depth", [0, 3])
def test_repeating_and_private_groups_are_removed(choice, depth):
    """Rows (50XX,XXXX), (60XX,3000), (60XX,4000) and the odd groups."""
    inner = Dataset()
    for group in (0x5000, 0x5002, 0x501E):
        inner.add_new(group << 16 | 0x0022, "LO", "QJTOKEN")
        inner.add_new(group << 16 | 0x3000, "OW", b"QJTOKEN!")
    for group in (0x6000, 0x6002, 0x601E):
        inner.add_new(group << 16 | 0x0010, "US", 8)
        inner.add_new(group << 16 | 0x3000, "OW", b"QJTOKEN!")
        inner.add_new(group << 16 | 0x4000, "LT", "QJTOKEN")
    for group in (0x0009, 0x0011, 0x0029, 0x7FE1):
        inner.add_new(group << 16 | 0x0010, "LO", "QJCREATOR")
        inner.add_new(group << 16 | 0x1001, "LO", "QJTOKEN")
    ds = ct()
    for level in range(depth):
        outer = Dataset()
        outer.add_new(WRAPPERS[level], "SQ", Sequence([inner]))
        inner = outer
    for element in inner:
        ds.add(element)
    outcome, cleaned = clean(encoded(ds), profile_of(choice))
    assert b"QJ" not in outcome.data
    groups = {element.tag.group for element in cleaned.iterall()}
    repeating = {group for group in groups if group & 0xFF00 in (0x5000, 0x6000)}
    odd = {group for group in groups if group & 1}
    assert not repeating
    assert not odd or "private" in choice
