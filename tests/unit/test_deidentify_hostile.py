"""Files that were made to stop the site, or to carry an identity where numbers are expected."""

from __future__ import annotations

import logging
import struct
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.dicom_cases import SECRET, TOKEN, clean, ct, encoded, file_bytes, image, lenient, noise
from tests.dicom_options import profile

from fedward_client.deidentify import checks, engine, parsing
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Quarantined, Reason, RefusalError
from fedward_common.errors import OperatorError

DEFLATED = b"1.2.840.10008.1.2.1.99"
PREFIX = "1.2.840.10008.5.1.4.1.1."


@pytest.mark.parametrize("date", ["99991231", "00010101", "10000101"])
def test_a_date_at_the_end_of_time_is_an_invalid_one(date):
    ds = ct()
    ds.StudyDate = ds.SeriesDate = date
    ds.AcquisitionDateTime = date + "120000"
    cleaned = clean(encoded(ds))[1]
    assert date not in (cleaned.get("StudyDate"), cleaned.get("SeriesDate"))


def test_an_identifier_that_is_a_sequence_is_malformed():
    data = encoded(image(noise((20, 20)), patient="ABCDEFGHIJKLMNOPQRST"))
    at = data.index(b"\x10\x00\x20\x00LO\x14\x00") + 4
    item = b"\xfe\xff\x00\xe0\x08\x00\x00\x00" + b"\x08\x00\x60\x00CS\x00\x00"
    hostile = data[:at] + b"SQ\0\0" + struct.pack("<I", len(item)) + item + data[at + 4 + 20 :]
    assert Deidentifier(SECRET).deidentify(hostile) == Quarantined(Reason.MALFORMED)
    with pytest.raises(RefusalError):
        Deidentifier(SECRET).inspect(hostile)


@pytest.mark.parametrize("error", [MemoryError, RecursionError, KeyError, OverflowError])
def test_whatever_is_raised_quarantines_the_file_and_quotes_nothing(monkeypatch, caplog, error):
    def fails(*_):
        raise error(TOKEN)

    monkeypatch.setattr(engine, "read_pixels", fails)
    monkeypatch.setattr(engine, "check_length", fails)
    with caplog.at_level(logging.DEBUG):
        assert Deidentifier(SECRET).deidentify(encoded(ct())) == Quarantined(Reason.FAILED)
        with pytest.raises(RefusalError) as refused:
            Deidentifier(SECRET).inspect(encoded(ct()))
    assert refused.value.reason is Reason.FAILED
    assert error.__name__ in caplog.text
    assert TOKEN not in caplog.text


def test_what_a_person_must_mend_is_not_taken_for_a_bad_file(monkeypatch):
    def missing(*_):
        raise OperatorError("pixels.ocr: not installed")

    monkeypatch.setattr(engine, "clean_pixels", missing)
    with pytest.raises(OperatorError, match="not installed"):
        Deidentifier(SECRET).deidentify(encoded(ct()))


def hidden_bomb(before, *, implicit=False):
    """A deflated file of 64 MiB whose syntax stands where a careless reader does not find it."""
    value = DEFLATED + b"\0" * (len(DEFLATED) % 2)
    header = struct.pack("<HHI", 2, 0x10, len(value))
    if not implicit:
        header = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value))
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = packer.compress(bytes(64 << 20)) + packer.flush()
    return bytes(128) + b"DICM" + before + header + value + body


@pytest.mark.parametrize(
    "bomb",
    [
        hidden_bomb(struct.pack("<HH2sHI", 2, 2, b"SV", 0, 8) + bytes(8)),
        hidden_bomb(struct.pack("<HH2sHI", 2, 2, b"UV", 0, 8) + bytes(8)),
        hidden_bomb(b"", implicit=True),
    ],
    ids=["SV", "UV", "implicit"],
)
def test_no_header_hides_a_deflate_bomb(bomb):
    tracemalloc.start()
    with pytest.raises(RefusalError):
        parsing.parse(bomb, max_inflated=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_value_may_name_the_deflated_syntax():
    ds = ct()
    ds.add_new(0x00083002, "UI", DEFLATED.decode())
    assert "PixelData" in clean(encoded(ds))[1]


@given(st.sampled_from(["FL", "FD"]), st.data())
def test_no_quantity_is_smaller_than_what_letters_make(vr, data):
    code, lowest, least = {"FL": ("<f", 1e-40, 1e-12), "FD": ("<d", 5e-324, 1e-30)}[vr]
    value = data.draw(st.floats(lowest, least * 0.999))
    check = checks.numbers(vr, -1e6, 1e6)
    for raw in (struct.pack(code, value), struct.pack(code, -value)):
        assert check(raw) is None
    assert check(struct.pack(code, 0.0))
    assert check(struct.pack(code, least * 1.001))


@pytest.mark.parametrize(("vr", "name"), [("FD", "Müller "), ("FL", "Bo  "), ("FD", "Li\tBo   ")])
def test_a_name_is_no_number(vr, name):
    raw = name.encode()
    assert len(raw) in (4, 8)
    assert checks.numbers(vr, -1e6, 1e6)(raw) is None


@given(st.floats(-1e6, 1e6), st.integers(0, 40))
def test_decimal_texts_keep_to_the_length_of_the_standard(value, digits):
    text = f"{value:.{digits}f}"
    kept = checks.numbers("DS", -1e6, 1e6)(text.encode()).decode().strip()
    assert len(kept) <= 16
    assert float(kept) == pytest.approx(float(text), rel=1e-9)
    assert (kept == text) == (len(text) <= 16)


def test_integer_texts_keep_to_the_length_of_the_standard():
    check = checks.numbers("IS", 0, 1e15)
    assert check(b"123456789012") == b"123456789012"
    assert check(b"+12345678901") == b"+12345678901"
    assert check(b"+123456789012") is None
    assert check(b"1\\1234567890123") is None


def test_without_dates_a_devices_dates_are_removed_too():
    ds = ct()
    ds.DateOfLastCalibration = ds.DateOfManufacture = "20010203"
    ds.DeviceSerialNumber = "4711"
    cleaned = clean(encoded(ds), profile(device=True, dates="none"))[1]
    assert cleaned.DeviceSerialNumber == "4711"
    assert cleaned.LongitudinalTemporalInformationModified == "REMOVED"
    assert "DateOfLastCalibration" not in cleaned
    assert "DateOfManufacture" not in cleaned


def test_signed_pixels_stay_signed_beside_a_sequence():
    ds = ct()
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    ds.SourceImageSequence = Sequence([item])
    cleaned = clean(encoded(ds))[1]
    assert "SourceImageSequence" in cleaned
    assert (cleaned.PixelRepresentation, cleaned.PixelPaddingValue) == (1, -2000)
    assert cleaned.PixelData == ds.PixelData


def volume(sop_class, **attributes):
    ds = image(noise((20, 20)), modality="DX")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = PREFIX + sop_class
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return encoded(ds)


@pytest.mark.parametrize(
    ("sop_class", "part"),
    [("13.1.1", "HEAD"), ("13.1.2", "HEAD"), ("13.1.2", ""), ("13.1.2", "JAW")],
)
def test_an_x_ray_volume_of_a_head_is_one(sop_class, part):
    refused = Deidentifier(SECRET).deidentify(volume(sop_class, BodyPartExamined=part))
    assert refused == Quarantined(Reason.HEAD)
    kept = clean(volume(sop_class, BodyPartExamined=part), lenient())[1]
    assert kept.RecognizableVisualFeatures == "YES"
    assert "PixelData" in clean(volume("13.1.1", BodyPartExamined="HEART"))[1]


def test_an_ultrasound_volume_is_ultrasound():
    outcome = Deidentifier(SECRET).deidentify(volume("6.2"))
    assert outcome == Quarantined(Reason.NO_ULTRASOUND_REGIONS)


@pytest.mark.parametrize("patient", ["471199", "0471199", "47-11-99"])
def test_no_quantity_is_an_identifier_of_the_same_file(patient):
    """Numbers within plausible ranges, but the patient's, the order's or a date of birth."""
    ds = ct()
    ds.PatientID, ds.AccessionNumber, ds.PatientBirthDate = patient, "A 8675309", "19620314"
    ds.SeriesNumber, ds.AcquisitionNumber = 471199, 47119
    ds.ExposureInuAs, ds.ActualFrameDuration = 19620314, 14031962
    ds.FrameReferenceTime, ds.ExposureTimeInms = "8675309.0", 471199.0
    cleaned = clean(encoded(ds))[1]
    assert cleaned.AcquisitionNumber == 47119
    for keyword in (
        "SeriesNumber", "ExposureInuAs", "ActualFrameDuration", "FrameReferenceTime",
        "ExposureTimeInms",
    ):  # fmt: skip
        assert keyword not in cleaned
    ds.PatientID, ds.AccessionNumber, ds.PatientBirthDate = "P1", "A1", ""
    assert clean(encoded(ds))[1].SeriesNumber == 471199


def test_an_identifier_has_one_pseudonym_in_every_character_set():
    """ISO 2022 writes Japanese with bytes that look like ASCII."""
    found = set()
    for sets in (["", "ISO 2022 IR 87"], "ISO_IR 192", "GB18030"):
        ds = ct()
        ds.SpecificCharacterSet, ds.PatientID = sets, "山田"
        found.add(clean(encoded(ds))[0].identifiers.patient)
    assert found == {Deidentifier(SECRET).pseudonym("patient", "山田")}


def test_a_directory_of_files_is_no_broken_image():
    refused = Deidentifier(SECRET).deidentify(file_bytes("dicomdirtests/DICOMDIR"))
    assert refused == Quarantined(Reason.UNKNOWN_SOP_CLASS)


def as_big_endian(ds):
    """The file with the same values, big-endian (PS3.5 A.3)."""
    pixels = ds.pixel_array
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    buffer = BytesIO()
    dcmwrite(buffer, ds, implicit_vr=False, little_endian=False, enforce_file_format=True)
    return buffer.getvalue()


def test_a_lookup_table_of_a_big_endian_file_is_kept():
    ds = ct()
    del ds.RescaleSlope, ds.RescaleIntercept
    table = Dataset()
    table.add_new(0x00283002, "US", [256, 0, 12])
    table.ModalityLUTType = "HU"
    table.add_new(0x00283006, "US", list(range(0, 4096, 16)))
    ds.ModalityLUTSequence = Sequence([table])
    little = clean(encoded(ds))[1]
    big = clean(as_big_endian(ds))[1]
    assert big.ModalityLUTSequence[0].LUTData == little.ModalityLUTSequence[0].LUTData
    np.testing.assert_array_equal(big.pixel_array, little.pixel_array)


@pytest.mark.parametrize("vr", ["UN", "OF", "OL", "UT", "OB"])
def test_pixels_under_another_representation_are_the_same(vr):
    data = encoded(ct())
    at = data.rindex(b"\xe0\x7f\x10\x00OW\0\0") + 4
    cleaned = clean(data[:at] + vr.encode() + data[at + 2 :])[1]
    np.testing.assert_array_equal(cleaned.pixel_array, ct().pixel_array)


def test_what_follows_the_data_set_and_what_is_no_image_goes():
    """Waveforms and documents within an image, items within private ones, bytes after the end."""
    ds = ct()
    wave, inner = Dataset(), Dataset()
    wave.add_new(0x54001010, "OW", TOKEN.encode())
    inner.PatientName = f"{TOKEN}^PRIVATE"
    ds.WaveformSequence = Sequence([wave])
    ds.EncapsulatedDocument, ds.DocumentTitle = TOKEN.encode(), TOKEN
    block = ds.private_block(0x29, f"{TOKEN} 1.0", create=True)
    block.add_new(1, "SQ", Sequence([inner]))
    for chosen in (None, profile(safe_private=True, device=True, institution=True)):
        outcome, _ = clean(encoded(ds) + TOKEN.encode() * 3, chosen)
        assert TOKEN.encode() not in outcome.data
        ds.file_meta.TransferSyntaxUID = DEFLATED.decode()
        outcome, _ = clean(encoded(ds) + TOKEN.encode() * 3, chosen)
        assert TOKEN.encode() not in outcome.data


@pytest.mark.parametrize("start", [128, 132], ids=["no preamble", "no file meta marker"])
def test_a_file_without_its_beginning_is_refused(start):
    assert Deidentifier(SECRET).deidentify(encoded(ct())[start:]) == Quarantined(Reason.NOT_DICOM)


@pytest.mark.parametrize(
    "text",
    ["Unit 1962-03-14", "14.03.1962", "03/14/1962", "ROOM 19620314", "X-99-88-77", "ward 998877",
     "OTHERID", "c/o otherid2"],
)  # fmt: skip
def test_kept_text_holds_no_birth_date_or_other_identifier_however_written(text):
    ds = ct()
    ds.PatientBirthDate, ds.AccessionNumber = "19620314", "99-88 77"
    other = Dataset()
    other.PatientID = "OTHERID"
    ds.OtherPatientIDsSequence = Sequence([other])
    ds.InstitutionName, ds.StationName = "St. Elsewhere 4", "ROOM 4"
    kept = clean(encoded(ds), profile(institution=True, device=True))[1]
    assert kept.InstitutionName == ds.InstitutionName
    ds.InstitutionName, ds.StationName = text, "ROOM 4"
    cleaned = clean(encoded(ds), profile(institution=True, device=True))[1]
    assert cleaned.get("InstitutionName", "") != text
    assert cleaned.StationName == "ROOM 4"
