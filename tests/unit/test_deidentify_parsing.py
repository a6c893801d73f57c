"""The container of the input: deflated, oversized, nested, and what declares a head."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit
from tests.dicom_cases import SECRET, TOKEN, clean, ct, encoded, file_bytes, image, lenient, noise
from tests.dicom_options import coded

from fedward_client.deidentify import header, parsing
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Action, Quarantined, Reason, RefusalError

HEADER_END = b"1.2.840.10008.1.2.1.99"


def deflated(body=None):
    """A deflated file of the small CT, or of ``body`` instead of its data set."""
    ds = ct()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = encoded(ds)
    if body is None:
        return data
    start, _ = parsing._data_set_start(data)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return data[:start] + packer.compress(body) + packer.flush()


def test_a_deflated_file_is_cleaned_as_if_it_were_not():
    assert HEADER_END in deflated()
    assert clean(deflated())[0].data == clean(encoded(ct()))[0].data
    assert clean(file_bytes("image_dfl.dcm"), lenient())[1].Rows == 512


def test_a_deflate_bomb_is_refused_before_it_grows():
    bomb = deflated(bytes(64 << 20))
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(RefusalError) as refused:
        parsing.parse(bomb, max_inflated=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.reason is Reason.TOO_LARGE
    assert peak < 8 << 20
    assert len(deflated()) < parsing.MAX_INFLATED


@pytest.mark.parametrize("cut", [3, 100, 5000])
def test_a_deflated_file_that_is_cut_is_truncated(cut):
    outcome = Deidentifier(SECRET).deidentify(deflated()[:-cut])
    assert outcome == Quarantined(Reason.TRUNCATED)


def test_more_attributes_than_an_image_has_are_refused(monkeypatch):
    ds = ct()
    ds.SourceImageSequence = Sequence([])
    for n in range(300):
        item = Dataset()
        item.ReferencedSOPInstanceUID = f"1.2.3.{n}"
        ds.SourceImageSequence.append(item)
    assert len(clean(encoded(ds))[1].SourceImageSequence) == 300
    monkeypatch.setattr(header, "MAX_ELEMENTS", 250)
    assert Deidentifier(SECRET).deidentify(encoded(ds)) == Quarantined(Reason.TOO_MANY)


def test_segments_of_a_jpeg_do_not_survive():
    """COM and APPn segments (here Exif) are no pixels."""
    pixels = np.repeat(noise((64, 64))[..., None], 3, axis=2)
    exif = Image.Exif()
    exif[0x010E] = TOKEN
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", exif=exif, comment=TOKEN.encode())
    assert stream.getvalue().count(TOKEN.encode()) == 2
    ds = image(pixels)
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.PixelData = encapsulate([stream.getvalue()])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    outcome, cleaned = clean(encoded(ds))
    assert TOKEN.encode() not in outcome.data
    assert cleaned.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian


def test_letters_do_not_pass_for_numbers():
    """Binary numbers that are text throughout, or come from an element that says it is text."""
    ds = image(noise((16, 16)))
    ds.add_new(0x00181310, "LO", "JOHN DOE")  # AcquisitionMatrix
    (ds.TableSpeed,) = struct.unpack("<d", b"JOHN D00")  # a tiny number
    ds.add_new(0x00189310, "LO", "DOE12345")
    outcome, cleaned = clean(encoded(ds))
    assert b"JOHN" not in outcome.data
    assert b"DOE1" not in outcome.data
    assert "TableSpeed" not in cleaned


def head(modality="CT", **attributes):
    ds = image(noise((16, 16), dtype=np.uint16), modality=modality)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return encoded(ds)


def region(*code):
    return Sequence([coded(*code)])


def enhanced(code):
    """Functional groups of an enhanced image that declare its region."""
    anatomy, group = Dataset(), Dataset()
    anatomy.AnatomicRegionSequence = region(*code)
    group.FrameAnatomySequence = Sequence([anatomy])
    return Sequence([group])


HEADS = [
    {"BodyPartExamined": "HEAD"}, {"BodyPartExamined": "HEAD_NECK"},
    {"BodyPartExamined": "Schaedel"}, {"BodyPartExamined": "WHOLEBODY"},
    {"BodyPartExamined": "CTBRAIN"}, {"BodyPartExamined": "CHEST", "Modality": "XX",
     "AnatomicRegionSequence": region("69536005", "SCT", "")},
    {"AnatomicRegionSequence": region("69536005", "SCT", "")},
    {"AnatomicRegionSequence": region("12738006", "SCT", "")},
    {"AnatomicRegionSequence": region("4711", "99LOCAL", "Base of skull")},
    {"SharedFunctionalGroupsSequence": enhanced(("69536005", "SCT", ""))},
    {"PerFrameFunctionalGroupsSequence": enhanced(("89545001", "SCT", "Face"))},
]  # fmt: skip


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("declared", HEADS)
def test_a_declared_head_is_refused_unless_declared_defaced(modality, declared):
    sop_class = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}[modality]
    declared = {"SOPClassUID": sop_class, **declared}
    refused = Deidentifier(SECRET).deidentify(head(modality, **declared))
    assert refused == Quarantined(Reason.HEAD)
    defaced = head(modality, **declared, RecognizableVisualFeatures="NO")
    assert clean(defaced)[1].RecognizableVisualFeatures == "NO"
    kept = clean(head(modality, **declared), lenient())[1]
    assert kept.RecognizableVisualFeatures == "YES"


@pytest.mark.parametrize("part", ["CHEST", "NECK", "FEMORAL HEAD", "SURFACE", "KNEE", "Thorax"])
def test_other_regions_are_no_head(part):
    outcome, cleaned = clean(head(BodyPartExamined=part))
    assert not outcome.counts[Action.NO_REGION]
    assert "RecognizableVisualFeatures" not in cleaned


def test_no_declared_region_counts_as_no_head_with_a_warning():
    outcome, cleaned = clean(head())
    assert outcome.counts[Action.NO_REGION] == 1
    assert "RecognizableVisualFeatures" not in cleaned
    assert not clean(head("CR"))[0].counts[Action.NO_REGION]


@pytest.mark.parametrize("suffix", ["7", "7.4", "77.1.1", "77.1.4"])
def test_captures_and_camera_pictures_are_refused_by_default(suffix):
    ds = image(noise((16, 16)))
    ds.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{suffix}"
    refused = Deidentifier(SECRET).deidentify(encoded(ds))
    assert refused == Quarantined(Reason.SECONDARY_CAPTURE)
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"  # a fundus photograph is none
    clean(encoded(ds))
