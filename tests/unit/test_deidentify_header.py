"""What leaves the de-identifier's header rules, and what does not."""

from __future__ import annotations

import re
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.dicom_cases import (
    OTHER_SECRET,
    SECRET,
    TOKEN,
    clean,
    ct,
    encoded,
    image,
    lenient,
    noise,
)

from fedward_client.deidentify import table
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Action, Quarantined, Reason
from fedward_client.deidentify.profile import Profile
from fedward_common.errors import OperatorError
from fedward_common.secret import SecretBytes

TEXT = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
PIXEL_MODULE = {"SOPClassUID", "Modality", "PhotometricInterpretation", "SpecificCharacterSet"}
ENTERED = (0x52009229, 0x52009230, 0x00289110)  # sequences that the allow-list enters


def nested(inner, depth):
    for level in range(depth):
        outer = Dataset()
        outer.add_new(ENTERED[level % 3], "SQ", Sequence([inner]))
        inner = outer
    return inner


def text_attributes():
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in TEXT and tag >> 16 > 4 and keyword not in PIXEL_MODULE:
            yield tag, vr


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_no_text_attribute_of_the_dictionary_carries_a_token(depth):
    inner = Dataset()
    for tag, vr in text_attributes():
        inner.add(DataElement(tag, vr, TOKEN, validation_mode=0))
    ds = ct()
    for element in nested(inner, depth):
        ds.add(element)
    ds.PatientID = f"{TOKEN}1"
    outcome, _ = clean(encoded(ds))
    assert TOKEN.encode() not in outcome.data


@pytest.mark.parametrize("depth", [0, 3])
def test_every_row_of_the_standard_table_is_obeyed(depth):
    """A value planted under every row of E.1-1 is gone, or shifted, or replaced."""
    planted = {
        "UI": "1.2.3.987654321", "DA": "19800102", "TM": "010203.987654", "DT": "19800102010203",
        "IS": "987654", "DS": "9876.54", "AS": "033Y", "US": 54321, "UL": 987654321, "SL": 987654,
        "SS": 4321, "FL": 987.5, "FD": 98765.25, "OB": b"987654321 ", "UN": b"987654321 ",
    }  # fmt: skip
    inner = Dataset()
    for row in table.rows():
        entry = DicomDictionary.get(row.tag)
        if entry is None or row.tag >> 16 in (0, 2, 4):
            continue
        vr = entry[0].split(" or ")[0]
        value = planted.get(vr, f"{TOKEN}")
        if vr == "SQ":
            item = Dataset()
            item.PatientComments = TOKEN
            value = Sequence([item])
        if depth or entry[4] != "SOPInstanceUID":
            inner.add(DataElement(row.tag, vr, value, validation_mode=0))
    ds = ct()
    for element in nested(inner, depth):
        ds.add(element)
    outcome, cleaned = clean(encoded(ds))
    for secret in (TOKEN, "987654", "19800102", "033Y"):
        if secret == "987654":  # the fraction of a second of a shifted time is kept
            body = re.sub(rb"\d{6}\.987654", b"", outcome.data)
            assert secret.encode() not in body
        else:
            assert secret.encode() not in outcome.data
    numbers = {54321, 987654321, 4321, 987.5, 98765.25}
    assert not numbers & {e.value for e in cleaned.iterall() if isinstance(e.value, int | float)}


def test_the_same_key_gives_the_same_file_and_another_key_another():
    first, again = clean(encoded(ct()))[0], clean(encoded(ct()))[0]
    other, _ = clean(encoded(ct()), secret=OTHER_SECRET)
    assert first.data == again.data
    ours, theirs = first.identifiers, other.identifiers
    for name in ("patient", "study", "series", "instance"):
        assert getattr(ours, name) != getattr(theirs, name)


def test_identifiers_are_replaced_consistently():
    ds = ct()
    reference = Dataset()
    reference.ReferencedSOPClassUID = ds.SOPClassUID
    reference.ReferencedSOPInstanceUID = ds.SOPInstanceUID
    ds.SourceImageSequence = Sequence([reference])
    outcome, cleaned = clean(encoded(ds))
    who = outcome.identifiers
    assert cleaned.PatientID == cleaned.PatientName == who.patient
    assert cleaned.SOPInstanceUID == cleaned.file_meta.MediaStorageSOPInstanceUID == who.instance
    assert cleaned.SourceImageSequence[0].ReferencedSOPInstanceUID == who.instance
    assert (cleaned.StudyInstanceUID, cleaned.SeriesInstanceUID) == (who.study, who.series)
    for uid in (who.study, who.series, who.instance):
        assert re.fullmatch(r"2\.25\.[1-9]\d{20,38}", uid)


def test_blanks_around_a_patient_identifier_do_not_matter():
    pixels = noise((16, 16))
    one, other = image(pixels, patient="P7"), image(pixels, patient=" P7 ")
    patients = {clean(encoded(ds))[0].identifiers.patient for ds in (one, other)}
    assert len(patients) == 1


def test_intervals_between_dates_of_a_patient_are_exact():
    dates = [("19990228", "233000"), ("20000229", "001500"), ("20040101", "120000")]
    moments = []
    for date, time in dates:
        ds = image(noise((16, 16)))
        ds.StudyDate, ds.StudyTime, ds.AcquisitionDateTime = date, time, date + time
        _, cleaned = clean(encoded(ds))
        assert cleaned.AcquisitionDateTime == cleaned.StudyDate + cleaned.StudyTime
        moments.append(np.datetime64(_iso(cleaned.AcquisitionDateTime)))
    real = [np.datetime64(_iso(date + time)) for date, time in dates]
    assert list(np.diff(moments)) == list(np.diff(real))
    assert moments[0] - real[0] > np.timedelta64(99 * 365, "D")


def _iso(text):
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[8:10]}:{text[10:12]}:{text[12:14]}"


def test_values_smuggled_into_kept_attributes_are_removed():
    ds = image(noise((16, 16)))
    ds.ImageType = ["ORIGINAL", "PRIMARY", TOKEN]
    ds.BodyPartExamined, ds.SeriesNumber, ds.KVP = TOKEN, 700482913, "7482913.5"
    ds.Manufacturer, ds.PatientOrientation = TOKEN, ["L", TOKEN]
    outcome, cleaned = clean(encoded(ds))
    assert TOKEN.encode() not in outcome.data
    for keyword in ("ImageType", "BodyPartExamined", "SeriesNumber", "KVP", "Manufacturer"):
        assert keyword not in cleaned
    assert outcome.counts[Action.INVALID] >= 6


def test_plausible_values_are_kept_exactly():
    ds = ct()
    _, cleaned = clean(encoded(ds))
    for keyword in (
        "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
        "SliceThickness", "RescaleSlope", "RescaleIntercept", "KVP", "ImageType", "Modality",
        "InstanceNumber", "SeriesNumber", "PixelPaddingValue", "Manufacturer",
    ):  # fmt: skip
        assert cleaned[keyword].value == ds[keyword].value, keyword
    assert cleaned.PixelData == ds.PixelData


def test_the_container_is_rebuilt():
    ds = ct()
    ds.preamble = TOKEN.encode().ljust(128, b"\0")
    ds.file_meta.SourceApplicationEntityTitle = TOKEN
    ds.file_meta.PrivateInformationCreatorUID = "1.2.3"
    ds.file_meta.PrivateInformation = TOKEN.encode()
    ds.add_new(0xFFFCFFFC, "OB", TOKEN.encode())
    ds.private_block(0x0029, TOKEN, create=True).add_new(1, "LO", TOKEN)
    ds.add_new(0x60003000, "OW", b"\1" * 2048)
    ds.add_new(0x60004000, "LT", TOKEN)
    ds.add_new(0x50000022, "LO", TOKEN)
    icon = Dataset()
    icon.PatientComments = TOKEN
    ds.IconImageSequence = Sequence([icon])
    outcome, cleaned = clean(encoded(ds))
    assert outcome.data[:132] == bytes(128) + b"DICM"
    assert TOKEN.encode() not in outcome.data
    assert not [e.tag for e in cleaned if e.tag.is_private or e.tag.group in (0x5000, 0x6000)]


def test_the_file_says_how_it_was_cleaned():
    _, cleaned = clean(encoded(ct()))
    assert cleaned.PatientIdentityRemoved == "YES"
    assert cleaned.LongitudinalTemporalInformationModified == "MODIFIED"
    assert cleaned.BurnedInAnnotation == "NO"
    codes = [item.CodeValue for item in cleaned.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113101", "113103", "113107"]


def test_public_attributes_hidden_as_unknown_vr_are_found():
    ds = image(noise((16, 16)))
    for tag in (0x00100010, 0x00100030, 0x00081030, 0x00104000):
        ds.pop(tag, None)
        ds.add_new(tag, "UN", TOKEN.encode())
    outcome, _ = clean(encoded(ds))
    assert TOKEN.encode() not in outcome.data


def test_options_keep_what_they_name():
    ds = ct()
    ds.StudyDate, ds.PatientWeight, ds.DeviceSerialNumber = "20040119", "70", "SN1"
    keep = Profile.model_validate(
        {
            "retain": {
                "uids": True, "dates": "full", "patient_characteristics": True, "device": True,
            }
        }
    )  # fmt: skip
    _, cleaned = clean(encoded(ds), keep)
    assert cleaned.SOPInstanceUID == ds.SOPInstanceUID
    assert (cleaned.StudyDate, cleaned.DeviceSerialNumber) == ("20040119", "SN1")
    assert cleaned.PatientWeight == 70
    assert cleaned.LongitudinalTemporalInformationModified == "UNMODIFIED"
    _, bare = clean(encoded(ds), Profile.model_validate({"retain": {"dates": "none"}}))
    assert not bare.StudyDate
    assert "PatientWeight" not in bare
    assert bare.LongitudinalTemporalInformationModified == "REMOVED"


def test_region_codes_are_rewritten_from_our_own_list():
    ds = image(noise((16, 16)))
    items = []
    for code in ("51185008", "99999999"):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "SCT", TOKEN
        items.append(item)
    ds.AnatomicRegionSequence = Sequence(items)
    outcome, cleaned = clean(encoded(ds))
    assert [item.CodeMeaning for item in cleaned.AnatomicRegionSequence] == ["Chest"]
    assert TOKEN.encode() not in outcome.data


def test_sequences_beyond_the_depth_limit_are_removed():
    inner = Dataset()
    inner.SliceThickness = "5"
    ds = ct()
    for element in nested(inner, 40):
        ds.add(element)
    _, cleaned = clean(encoded(ds))
    depth, here = 0, cleaned
    while sequences := [e for e in here if e.VR == "SQ" and e.tag in ENTERED]:
        depth, here = depth + 1, sequences[0].value[0]
    assert depth <= 8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, Reason.UNKNOWN_SOP_CLASS),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, Reason.ENCAPSULATED_DOCUMENT),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Reason.SECONDARY_CAPTURE),
        ({"PatientID": ""}, Reason.NO_PATIENT_ID),
        ({"StudyInstanceUID": ""}, Reason.NO_UID),
        ({"BodyPartExamined": "HEAD", "Modality": "CT"}, Reason.HEAD),
        ({"Modality": "US"}, Reason.NO_ULTRASOUND_REGIONS),
        ({"BitsAllocated": 32}, Reason.UNSUPPORTED_PIXELS),
        ({"HighBit": 3}, Reason.UNSUPPORTED_PIXELS),
        ({"Rows": 0}, Reason.UNSUPPORTED_PIXELS),
        ({"Rows": 17}, Reason.TRUNCATED),
        ({"Rows": 60000, "Columns": 60000}, Reason.TOO_LARGE),
        ({"PixelData": b""}, Reason.NO_PIXELS),
    ],
)
def test_quarantine_reasons(change, reason):
    ds = image(noise((16, 16)))
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    assert Deidentifier(SECRET).deidentify(encoded(ds)) == Quarantined(reason)


def test_a_missing_patient_may_be_taken_per_study_if_the_profile_says_so():
    ds = image(noise((16, 16)), patient="")
    outcome, _ = clean(encoded(ds), lenient())
    assert len(outcome.identifiers.patient) == 32


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 128 + b"DICM", b"\0" * 5000])
def test_what_is_not_dicom_is_quarantined(data):
    outcome = Deidentifier(SECRET).deidentify(data)
    assert isinstance(outcome, Quarantined)
    assert outcome.reason.is_broken_file


def test_a_file_cut_anywhere_is_broken_or_whole():
    data = encoded(ct())
    for cut in (*range(1, 2000, 37), *range(2000, len(data) - 1, 1999)):
        outcome = Deidentifier(SECRET).deidentify(data[:cut])
        assert isinstance(outcome, Quarantined), cut
        assert outcome.reason.is_broken_file, (cut, outcome.reason)


def test_a_short_secret_is_refused():
    with pytest.raises(OperatorError, match="at least 32"):
        Deidentifier(SecretBytes(b"short"))


def test_the_log_holds_tags_and_actions_only():
    outcome, _ = clean(encoded(ct()))
    assert all(isinstance(t, int) and isinstance(a, Action) for t, a in outcome.log)
    assert outcome.counts[Action.REMOVED] > 100
    assert sum(outcome.counts.values()) == len(outcome.log)


def test_a_data_set_is_cleaned_like_its_file():
    assert clean(ct())[0].data == clean(encoded(ct()))[0].data


def test_the_written_file_is_valid_dicom():
    _, cleaned = clean(encoded(ct()))
    with pydicom.config.strict_reading():
        for element in cleaned.iterall():
            assert element.VR
    assert cleaned.file_meta.FileMetaInformationGroupLength > 0


def test_the_parser_never_quotes_a_value(recwarn, caplog):
    """An unknown character set makes pydicom warn, and log, with the set's name."""
    ds = image(noise((16, 16)), patient="PPPPPPPP")
    ds.SpecificCharacterSet = "ISO_IR 192"
    data = encoded(ds).replace(b"ISO_IR 192", b"QWXTOKEN  ").replace(b"PPPPPPPP", b"P\xff\x80PPPPP")
    recwarn.clear()
    with caplog.at_level("DEBUG"):
        assert pydicom.dcmread(BytesIO(data)).PatientID
        assert TOKEN in str([str(w.message) for w in recwarn.list]) + caplog.text
        recwarn.clear()
        caplog.clear()
        assert clean(data)[0].identifiers.patient
    assert not recwarn.list
    assert not caplog.records
