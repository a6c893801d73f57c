"""Pixels: exact when clean, decoded when compressed, blanked where something is burned in."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.dicom_cases import FILES, SECRET, clean, ct, encoded, file_bytes, image, lenient, noise

from fedward_client.deidentify import decoding
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Action, Quarantined, Reason
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.textfinder import find_text

COMPRESSED = {
    "MR_small_RLE.dcm": "RLE",
    "MR_small_jp2klossless.dcm": "JPEG 2000 lossless",
    "MR_small_jpeg_ls_lossless.dcm": "JPEG-LS lossless",
    "SC_rgb_jpeg_gdcm.dcm": "JPEG lossless",
    "SC_rgb_jpeg_dcmtk.dcm": "JPEG baseline",
    "SC_rgb_dcmtk_+eb+cy+np.dcm": "JPEG baseline, YBR",
    "SC_rgb_rle_16bit_2frame.dcm": "RLE, two frames",
    "JPEG2000.dcm": "JPEG 2000",
    "MR_small_bigendian.dcm": "explicit big endian",
    "SC_rgb_small_odd_big_endian.dcm": "explicit big endian, odd length",
    "MR_small_implicit.dcm": "implicit little endian",
    "image_dfl.dcm": "deflated",
    "SC_ybr_full_422_uncompressed.dcm": "YBR 4:2:2",
}


@pytest.mark.parametrize("name", COMPRESSED, ids=COMPRESSED.get)
def test_every_syntax_is_decoded_to_the_same_pixels(name):
    _, cleaned = clean(file_bytes(name), lenient(text="off"))  # one is a test pattern
    expected = pydicom.dcmread(FILES / name).pixel_array
    assert cleaned.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    np.testing.assert_array_equal(cleaned.pixel_array, expected)


def test_palette_colour_becomes_rgb():
    ds = image(noise((16, 16)))
    ds.PhotometricInterpretation = "PALETTE COLOR"
    ramp = np.arange(256, dtype="<u2") * 257
    for name, table in (("Red", ramp), ("Green", ramp[::-1]), ("Blue", ramp // 2)):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{name}PaletteColorLookupTableData", table.tobytes())
    _, cleaned = clean(encoded(ds))
    assert cleaned.PhotometricInterpretation == "RGB"
    values = noise((16, 16)).astype(np.int64)
    np.testing.assert_array_equal(cleaned.pixel_array[..., 0] // 257, values)
    np.testing.assert_array_equal(cleaned.pixel_array[..., 1] // 257, 255 - values)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", None])
def test_clean_images_keep_every_bit(name):
    made = image(noise((300, 300), dtype=np.uint16) * 16)
    ds = pydicom.dcmread(FILES / name) if name else made
    _, cleaned = clean(encoded(ds))
    assert cleaned.PixelData == ds.PixelData


def test_bytes_behind_the_pixels_are_trimmed():
    ds = ct()
    ds.PixelData += b"JOHN DOE"
    outcome, cleaned = clean(encoded(ds))
    assert b"JOHN DOE" not in outcome.data
    assert outcome.counts[Action.TRIMMED] == 1
    assert cleaned.PixelData == ct().PixelData


def test_unused_high_bits_are_cleared():
    pixels = noise((16, 16), dtype=np.uint16) * 16
    ds = image(pixels | (np.eye(16, dtype=np.uint16) << 15))
    ds.BitsStored, ds.HighBit = 12, 11
    outcome, cleaned = clean(encoded(ds))
    assert outcome.counts[Action.HIGH_BITS] == 1
    np.testing.assert_array_equal(cleaned.pixel_array, pixels)


def test_a_jpeg_comment_does_not_survive():
    buffer = BytesIO()
    pixels = noise((64, 64, 3))
    Image.fromarray(pixels).save(buffer, "JPEG", comment=b"JOHN DOE", quality=90)
    ds = image(pixels)
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    ds.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
    ds["PixelData"].is_undefined_length = True
    outcome, cleaned = clean(encoded(ds))
    assert b"JOHN DOE" not in outcome.data
    assert np.abs(cleaned.pixel_array.astype(int) - pixels).mean() < 4


def test_undecodable_pixels_are_quarantined():
    ds = pydicom.dcmread(FILES / "MR_small_jp2klossless.dcm")
    frame = next(pydicom.encaps.generate_frames(ds.PixelData))
    ds.PixelData = pydicom.encaps.encapsulate([frame[:40] + b"\0" * 200])
    outcome = Deidentifier(SECRET).deidentify(encoded(ds))
    assert outcome == Quarantined(Reason.UNDECODABLE_PIXELS)


def test_twelve_bit_jpeg_is_quarantined():
    outcome = Deidentifier(SECRET, lenient()).deidentify(file_bytes("JPGExtended.dcm"))
    assert outcome == Quarantined(Reason.UNDECODABLE_PIXELS)


def test_a_decoder_that_dies_takes_only_its_file_along():
    """This damaged stream makes the RLE decoder panic; the next file is decoded again."""
    ds = pydicom.dcmread(FILES / "MR_small_RLE.dcm")
    whole = encoded(ds)
    frame = bytearray(next(pydicom.encaps.generate_frames(ds.PixelData)))
    refused = 0
    for position in range(64, 364, 10):
        damaged = bytearray(frame)
        damaged[position] = 127
        ds.PixelData = pydicom.encaps.encapsulate([bytes(damaged)])
        refused += isinstance(Deidentifier(SECRET).deidentify(encoded(ds)), Quarantined)
    assert refused > 0
    _, cleaned = clean(whole)
    expected = pydicom.dcmread(FILES / "MR_small_RLE.dcm").pixel_array
    np.testing.assert_array_equal(cleaned.pixel_array, expected)


def test_a_decoding_child_that_is_killed_is_replaced():
    data = file_bytes("MR_small_RLE.dcm")
    clean(data)
    decoding._WORKER._child.kill()
    decoding._WORKER._child.wait()
    clean(data)


def with_text(pixels, text, at=(6, 6), size=16, value=255):
    canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    fill = (value,) * 3 if pixels.ndim == 3 else value
    draw.text(at, text, fill=fill, font=ImageFont.load_default(size))
    return np.asarray(canvas)


@pytest.mark.parametrize("size", [10, 14, 20, 28])
@pytest.mark.parametrize("at", [(4, 4), (30, 200)])
@pytest.mark.parametrize("colour", [False, True])
def test_burned_in_names_are_blanked_and_the_rest_kept(size, at, colour):
    plain = noise((256, 256, 3) if colour else (256, 256), seed=size)
    burned = with_text(plain, "DOE JOHN 1970", at, size)
    outcome, cleaned = clean(encoded(image(burned)))
    result = cleaned.pixel_array
    assert outcome.counts[Action.TEXT] >= 1
    text = (burned != plain) if not colour else (burned != plain).any(axis=2)
    left = np.abs(result.astype(int) - burned) == 0
    left = left.all(axis=2) if colour else left
    assert left[text].mean() < 0.05
    rows = slice(max(0, at[1] - 2 * size), at[1] + 3 * size)
    outside = np.ones(256, dtype=bool)
    outside[rows] = False
    np.testing.assert_array_equal(result[outside], burned[outside])


def test_dark_text_on_a_bright_image_is_found():
    plain = 255 - noise((256, 256)) // 2
    assert find_text(with_text(plain, "NGUYEN THI HOA", value=0))
    assert not find_text(plain)


@pytest.mark.parametrize("extreme", [32_000, 65_535])
@pytest.mark.parametrize("bar", [1, 40])
def test_extreme_values_hide_no_text(extreme, bar):
    """A hot pixel, or a marker of the largest value, beside text of little contrast."""
    pixels = (noise((256, 256)).astype("<u2") // 4 + 600).astype("<u2")
    written = with_text(np.zeros((256, 256), np.uint8), "DOE JOHN 1949", at=(60, 120)) > 100
    pixels[written] = 1100
    pixels[:bar, :bar] = extreme
    _, cleaned = clean(encoded(image(pixels)), lenient())
    assert not (cleaned.pixel_array[written] == 1100).any()
    assert (cleaned.pixel_array[:bar, :bar] == extreme).all()


def test_a_side_marker_is_not_text():
    assert not find_text(with_text(noise((256, 256)), "R", (20, 20), 28))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_flat_and_tiny_images_are_searched_without_a_find(kind):
    assert find_text(np.zeros((256, 256), kind)) == []
    assert find_text(np.full((3, 3), 7, kind)) == []


def test_text_may_be_refused_or_ignored_by_the_profile():
    burned = encoded(image(with_text(noise((256, 256)), "DOE JOHN 1970")))
    refusing = Deidentifier(SECRET, Profile.model_validate({"pixels": {"text": "quarantine"}}))
    assert refusing.deidentify(burned) == Quarantined(Reason.BURNED_IN_TEXT)
    outcome, cleaned = clean(burned, Profile.model_validate({"pixels": {"text": "off"}}))
    assert Action.TEXT not in outcome.counts
    assert cleaned.PixelData == pydicom.dcmread(BytesIO(burned)).PixelData


def test_burned_in_annotation_is_not_trusted():
    ds = image(with_text(noise((256, 256)), "DOE JOHN 1970"))
    ds.BurnedInAnnotation = "NO"
    outcome, _ = clean(encoded(ds))
    assert outcome.counts[Action.TEXT] >= 1


def region(x0, y0, x1, y1):
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    return item


def ultrasound():
    ds = image(noise((80, 90, 3)), modality="US")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    return ds


def test_ultrasound_keeps_its_declared_regions_only():
    ds = ultrasound()
    ds.SequenceOfUltrasoundRegions = Sequence([region(10, 20, 40, 50), region(50, 20, 60, 30)])
    _, cleaned = clean(encoded(ds))
    keep = np.zeros((80, 90), dtype=bool)
    keep[20:51, 10:41] = keep[20:31, 50:61] = True
    pixels = noise((80, 90, 3))
    np.testing.assert_array_equal(cleaned.pixel_array[keep], pixels[keep])
    assert (cleaned.pixel_array[~keep] == pixels.min()).all()


def test_ultrasound_regions_outside_the_image_are_refused():
    ds = ultrasound()
    ds.SequenceOfUltrasoundRegions = Sequence([region(500, 500, 600, 600)])
    outcome = Deidentifier(SECRET).deidentify(encoded(ds))
    assert outcome == Quarantined(Reason.NO_ULTRASOUND_REGIONS)


def test_masks_of_the_profile_are_blanked_for_their_layout_only():
    mask = {"modality": "CR", "rows": 32, "columns": 48, "rectangles": ((0, 0, 48, 5),)}
    profile = Profile.model_validate({"mask": (mask,)})
    pixels = noise((32, 48)) + 10
    outcome, cleaned = clean(encoded(image(pixels)), profile)
    assert (cleaned.pixel_array[:5] == pixels.min()).all()
    np.testing.assert_array_equal(cleaned.pixel_array[5:], pixels[5:])
    assert outcome.counts[Action.MASKED] == 1
    other = noise((48, 32))
    assert clean(encoded(image(other)), profile)[1].PixelData == other.tobytes()


def test_a_secondary_capture_is_searched_for_text_if_the_profile_allows_it():
    ds = image(with_text(noise((256, 256)), "DOE JOHN 1970"))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    outcome, _ = clean(encoded(ds), lenient())
    assert outcome.counts[Action.TEXT] >= 1
