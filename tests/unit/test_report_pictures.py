from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib import image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from fedward_simulations.pictures import before_after, header_changes, png


def dicom(pixels, photometric="MONOCHROME2", **values):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.astype("<u2").tobytes()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def read(content):
    return np.round(image.imread(io.BytesIO(content)) * 255).astype(np.uint8)


SHAPES = st.one_of(
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=20),
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=20).map(lambda shape: (*shape, 3)),
)


@given(SHAPES.flatmap(lambda shape: arrays.arrays(np.uint8, shape)))
def test_a_png_holds_exactly_its_pixels(pixels):
    assert np.array_equal(read(png(pixels)), pixels)


def test_blanked_text_does_not_change_the_rest_of_the_picture():
    pixels = np.random.default_rng(0).integers(200, 3000, (40, 30))
    pixels[20, 20], pixels[21, 20] = 0, 3000
    written = pixels.copy()
    written[:8] = 4095
    cleaned = pixels.copy()
    cleaned[:8] = 0
    item = before_after("hospital-1", dicom(written), dicom(cleaned))
    before, after = read(item.before_png), read(item.after_png)
    assert np.array_equal(before[8:], after[8:])
    assert np.all(before[:8] == 255)
    assert np.all(after[:8] == 0)


def test_monochrome1_is_shown_as_people_see_it():
    pixels = np.arange(100).reshape(10, 10)
    upright = before_after("a", dicom(pixels), dicom(pixels))
    inverted = before_after(
        "a", dicom(99 - pixels, "MONOCHROME1"), dicom(99 - pixels, "MONOCHROME1")
    )
    assert np.array_equal(read(upright.after_png), read(inverted.after_png))


@pytest.mark.parametrize("pixels", [np.full((5, 7), 9), np.zeros((1000, 20))])
def test_flat_and_large_pictures_are_drawn(pixels):
    item = before_after("a", dicom(pixels), dicom(pixels))
    assert max(read(item.after_png).shape[:2]) <= 448


def test_the_header_shows_what_was_removed_replaced_and_kept():
    pixels = np.zeros((4, 4))
    before = dicom(
        pixels, PatientName="A^B", PatientID="1", Modality="CR", PatientComments="x" * 500
    )
    before.private_block(0x0019, "Maker", create=True).add_new(1, "LO", "secret")
    after = dicom(pixels, PatientID="FW-1", Modality="CR")
    changes = {change.name: change for change in header_changes(before, after)}
    assert changes["(0010,0010) PatientName"].before == "A^B"
    assert changes["(0010,0010) PatientName"].after is None
    assert changes["(0010,0020) PatientID"].after == "FW-1"
    assert changes["(0008,0060) Modality"].after == "CR"
    assert len(changes["(0010,4000) PatientComments"].before) == 72
    assert changes["private attributes"].after is None
    assert "(0010,0030) PatientBirthDate" not in changes
