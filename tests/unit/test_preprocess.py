"""Preprocessing: by modality, into [0, 1], exact where nothing has to change."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.sequence import Sequence
from tests.dicom_cases import clean, ct, encoded, file_bytes, image, lenient, noise

from fedward_client.deidentify.profile import Profile
from fedward_client.preprocess.pipeline import preprocess, preprocess_array, preprocess_file
from fedward_client.preprocess.spec import PreprocessSpec, spec_digest
from fedward_common.errors import OperatorError


def spec(**fields):
    return PreprocessSpec(**{"size": 28, **fields})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (50, 40), (20, 31, 3)])
def test_arrays_and_plain_dicom_give_the_same_images(shape, channels):
    pixels = noise(shape, seed=3)
    wanted = spec(channels=channels)
    outcome, _ = clean(encoded(image(pixels)))
    through_dicom = preprocess_file(outcome.data, wanted)
    direct = preprocess_array(pixels[None], wanted)
    assert direct.shape == (1, channels, 28, 28)
    assert direct.dtype == through_dicom.dtype == np.float32
    np.testing.assert_array_equal(through_dicom, direct)
    if shape == (28, 28):
        np.testing.assert_array_equal(direct[0, 0], pixels.astype(np.float32) / np.float32(255))


def test_monochrome1_and_bit_depth_do_not_matter():
    grey = noise((28, 28)).astype(np.int64)
    expected = preprocess_array(grey[None].astype(np.uint8), spec())
    ds = image(((255 - grey) * 257).astype(np.uint16))
    ds.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_allclose(preprocess(ds, spec()), expected, atol=1e-6)


def test_the_window_of_a_radiograph_is_applied():
    ds = image(np.full((28, 28), 1000, np.uint16))
    ds.WindowCenter, ds.WindowWidth = [1000, 40], [201, 400]
    np.testing.assert_allclose(preprocess(ds, spec()), 0.5, atol=0.01)


def test_ct_is_rescaled_to_hounsfield_units_and_windowed():
    ds = ct()
    values = ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept
    images = preprocess(ds, spec(size=128, ct_center=0.0, ct_width=1000.0))
    np.testing.assert_allclose(images[0, 0], np.clip((values + 500) / 1000, 0, 1), atol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(function):
    ds = image(np.linspace(0, 4000, 784).reshape(28, 28).astype(np.uint16))
    ds.BitsStored, ds.HighBit = 12, 11
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = 1800, 1200, function
    expected = apply_windowing(ds.pixel_array, ds) / 4095
    np.testing.assert_allclose(preprocess(ds, spec())[0, 0], expected, atol=1e-5)


def lookup_table(values, first=0, bits=12):
    item = Dataset()
    item.add_new(0x00283002, "US", [len(values), first, bits])
    item.add_new(0x00283006, "OW", np.asarray(values, "<u2").tobytes())
    return item


def test_lookup_tables_are_applied_as_pydicom_does():
    ds = image(np.arange(784).reshape(28, 28).astype(np.uint16))
    curve = np.round(4095 * np.sqrt(np.linspace(0, 1, 700))).astype(int)
    ds.ModalityLUTSequence = Sequence([lookup_table(np.arange(1000) // 2, bits=16)])
    ds.VOILUTSequence = Sequence([lookup_table(curve, first=10)])
    plain = ds.pixel_array
    expected = apply_voi_lut(apply_modality_lut(plain, ds), ds) / 4095
    np.testing.assert_allclose(preprocess(ds, spec())[0, 0], expected, atol=1e-6)


def test_an_inverse_presentation_table_inverts_once():
    ds = image(noise((28, 28)))
    expected = 1 - preprocess(ds, spec())
    ds.PresentationLUTShape = "INVERSE"
    np.testing.assert_allclose(preprocess(ds, spec()), expected, atol=1e-6)
    ds.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_allclose(preprocess(ds, spec()), expected, atol=1e-6)


def test_an_enhanced_ct_is_rescaled_frame_by_frame():
    ds = image(np.full((28, 28), 1000, np.uint16), modality="CT")
    ds.NumberOfFrames = 3
    ds.PixelData = np.full((3, 28, 28), 1000, np.uint16).tobytes()
    ds.SharedFunctionalGroupsSequence = Sequence([transformation(-1000)])
    ds.PerFrameFunctionalGroupsSequence = Sequence(
        [Dataset(), transformation(-900), transformation(-1100)]
    )
    images = preprocess(ds, spec(ct_center=0.0, ct_width=400.0, max_frames=3))
    np.testing.assert_allclose(images[:, 0, 0, 0], [0.5, 0.75, 0.25], atol=1e-6)
    few = preprocess(ds, spec(ct_center=0.0, ct_width=400.0, max_frames=2))
    np.testing.assert_allclose(few[:, 0, 0, 0], [0.5, 0.25], atol=1e-6)


def transformation(intercept):
    inner, group = Dataset(), Dataset()
    inner.RescaleIntercept, inner.RescaleSlope = intercept, 1
    group.PixelValueTransformationSequence = Sequence([inner])
    return group


def test_mr_z_scores_ignore_scale_and_offset_of_the_values():
    ds = pydicom.dcmread(BytesIO(file_bytes("MR_small.dcm")))
    wanted = spec(size=64, mr_normalisation="zscore", mr_zscore_limit=2.0)
    one = preprocess(ds, wanted)
    values = ds.pixel_array.astype(np.float64)
    body = values[values > values.min()]
    scores = (values - body.mean()) / body.std()
    np.testing.assert_allclose(one[0, 0], np.clip((scores + 2) / 4, 0, 1), atol=1e-5)
    ds.PixelData = (ds.pixel_array * 2 + 100).astype(np.int16).tobytes()
    np.testing.assert_allclose(preprocess(ds, wanted), one, atol=1e-4)


def test_mr_does_not_depend_on_the_scale_of_its_values():
    ds = pydicom.dcmread(BytesIO(file_bytes("MR_small.dcm")))
    one = preprocess(ds, spec(size=64))
    ds.PixelData = (ds.pixel_array * 2).tobytes()
    np.testing.assert_allclose(preprocess(ds, spec(size=64)), one, atol=1e-5)
    assert one.min() == 0
    assert one.max() == 1


def pet(correction="START"):
    ds = image(np.full((28, 28), 5000, np.uint16), modality="PT")
    ds.Units, ds.DecayCorrection, ds.SeriesTime, ds.PatientWeight = "BQML", correction, "110000", 70
    item = Dataset()
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = "3.5e8", "6586.2"
    item.RadiopharmaceuticalStartTime = "100000"
    ds.RadiopharmaceuticalInformationSequence = Sequence([item])
    return ds


@pytest.mark.parametrize(("correction", "dose"), [("ADMIN", 3.5e8), ("START", 3.5e8 / 1.46066)])
def test_pet_becomes_standardised_uptake(correction, dose):
    expected = 5000 * 70_000 / dose / 10
    np.testing.assert_allclose(preprocess(pet(correction), spec()), expected, rtol=1e-4)


def test_pet_without_decay_correction_has_no_uptake_value():
    """Activity that was never corrected has no single injected dose to be divided by."""
    uncorrected = preprocess(pet("NONE"), spec())
    assert uncorrected.max() == 0  # percentiles of a flat image


def test_the_uptake_shown_white_is_the_plans():
    half = preprocess(pet(), spec(pet_suv_max=20.0))
    np.testing.assert_allclose(half, preprocess(pet(), spec()) / 2, rtol=1e-5)


def test_pet_without_dose_or_weight_still_gives_an_image():
    ds = pet()
    del ds.PatientWeight
    assert np.isfinite(preprocess(ds, spec())).all()


@pytest.mark.parametrize(
    "edit",
    [
        {"SeriesTime": ["110000", "120000"]}, {"SeriesTime": "11"}, {"SeriesTime": ""},
        {"RadionuclideHalfLife": "0.0001"}, {"RadionuclideHalfLife": "61"},
        {"RadiopharmaceuticalStartTime": ["100000", "100001"]},
        {"RadionuclideTotalDose": ""}, {"RadionuclideTotalDose": "1e-99"},
    ],
)  # fmt: skip
def test_pet_with_implausible_times_or_doses_still_gives_an_image(edit):
    ds = pet()
    ds.PixelData = noise((28, 28), dtype=np.uint16).tobytes()
    for keyword, value in edit.items():
        setattr(
            ds if keyword in ds else ds.RadiopharmaceuticalInformationSequence[0], keyword, value
        )
    keep = Profile.model_validate({"retain": {"patient_characteristics": True}})
    for images in (
        preprocess(ds, spec()),
        preprocess_file(clean(encoded(ds), keep)[0].data, spec()),
    ):
        assert np.isfinite(images).all()
        assert images.min() >= 0
        assert images.max() <= 1


def test_pet_of_an_implausible_half_life_is_shown_by_percentiles():
    ds, without = pet(), pet()
    for one in (ds, without):
        one.PixelData = noise((28, 28), dtype=np.uint16).tobytes()
    ds.RadiopharmaceuticalInformationSequence[0].RadionuclideHalfLife = "0.0001"
    del without.PatientWeight
    np.testing.assert_array_equal(preprocess(ds, spec()), preprocess(without, spec()))


def test_pet_through_the_de_identifier_needs_the_option_for_weight():
    keep = Profile.model_validate({"retain": {"patient_characteristics": True}})
    outcome, _ = clean(encoded(pet()), keep)
    exact = 5000 * 70_000 / (3.5e8 / 1.46066) / 10
    np.testing.assert_allclose(preprocess_file(outcome.data, spec()), exact, rtol=1e-4)


def test_nuclear_medicine_counts_are_scaled_to_their_maximum():
    ds = image(noise((28, 28), dtype=np.uint16), modality="NM")
    assert preprocess(ds, spec()).max() == 1


def test_a_hot_spot_does_not_hide_the_rest_if_the_plan_says_so():
    values = noise((28, 28), dtype=np.uint16) + 1
    values[3, 3] = 60_000
    ds = image(values, modality="NM")
    assert np.median(preprocess(ds, spec())) < 0.01
    assert np.median(preprocess(ds, spec(nm_high_percentile=99.0))) > 0.3


def phantom_chest():
    """A bright body on black, with two dark lungs in it and a bright spot in one of them."""
    y, x = np.mgrid[:200, :200]
    pixels = np.zeros((200, 200), np.uint8)
    pixels[(y - 100) ** 2 + (x - 100) ** 2 < 80**2] = 180
    lungs = ((y - 95) / 55) ** 2 + ((np.abs(x - 100) - 40) / 25) ** 2 < 1
    pixels[lungs] = 40
    pixels[90:94, 138:142] = 200
    return pixels, lungs


def test_otsus_body_is_kept_and_the_table_below_it_is_not():
    pixels, _ = phantom_chest()
    pixels[197:199, 20:180] = 150
    masked = preprocess_array(pixels[None], spec(size=200, foreground="otsu"))[0, 0]
    assert masked[197:199].max() == 0
    inside = pixels > 0
    inside[190:] = False
    np.testing.assert_array_equal(masked[inside], pixels[inside].astype(np.float32) / 255)


def test_the_lung_field_is_found_and_cropped_to():
    pixels, lungs = phantom_chest()
    masked = preprocess_array(pixels[None], spec(size=200, foreground="lung"))[0, 0] > 0
    assert (masked & lungs).sum() / (masked | lungs).sum() > 0.9
    assert masked[90:94, 138:142].all()
    cut = preprocess_array(pixels[None], spec(size=200, foreground="lung", foreground_use="crop"))[
        0, 0
    ]
    rows, columns = np.flatnonzero(lungs.any(1)), np.flatnonzero(lungs.any(0))
    window = pixels[rows[0] - 4 : rows[-1] + 5, columns[0] - 4 : columns[-1] + 5]
    expected = preprocess_array(window[None], spec(size=200))[0, 0]
    assert np.abs(cut - expected).mean() < 0.02


@pytest.mark.parametrize("foreground", ["otsu", "lung"])
@pytest.mark.parametrize("use", ["mask", "crop"])
def test_without_a_foreground_everything_is_kept(foreground, use):
    flat = np.full((1, 40, 40), 90, np.uint8)
    wanted = spec(size=40, foreground=foreground, foreground_use=use)
    np.testing.assert_array_equal(preprocess_array(flat, wanted), np.float32(90 / 255))


def test_the_strengths_of_enhancement_are_the_plans():
    rough = noise((64, 64), 1) // 2 + np.random.default_rng(0).integers(0, 40, (64, 64))
    pixels = rough.astype(np.uint8)[None]
    soft, hard = (
        preprocess_array(pixels, spec(size=64, denoise=True, denoise_strength=strength))
        for strength in (0.2, 1.5)
    )
    assert np.diff(hard).std() < np.diff(soft).std()
    weak, strong = (
        preprocess_array(pixels, spec(size=64, clahe=True, clahe_clip=clip))
        for clip in (0.001, 0.05)
    )
    assert strong.std() > weak.std()


def test_ultrasound_is_cropped_to_its_largest_region():
    pixels = noise((60, 60))
    ds = image(pixels, modality="US")
    regions = []
    for x0, y0, x1, y1 in ((0, 0, 9, 9), (20, 10, 47, 37)):
        item = Dataset()
        item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
        item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
        regions.append(item)
    ds.SequenceOfUltrasoundRegions = Sequence(regions)
    expected = preprocess_array(pixels[None, 10:38, 20:48], spec())
    np.testing.assert_array_equal(preprocess(ds, spec()), expected)


@pytest.mark.parametrize("modality", ["US", "DX"])
def test_a_region_without_its_ends_is_none(modality):
    pixels = noise((60, 60))
    ds = image(pixels, modality=modality)
    empty, reverse = Dataset(), Dataset()
    empty.RegionSpatialFormat = 1
    empty.RegionLocationMinX0 = None
    reverse.RegionLocationMinX0, reverse.RegionLocationMinY0 = 40, 40
    reverse.RegionLocationMaxX1, reverse.RegionLocationMaxY1 = 3, 3
    ds.SequenceOfUltrasoundRegions = Sequence([empty, reverse])
    np.testing.assert_array_equal(preprocess(ds, spec()), preprocess_array(pixels[None], spec()))


def test_frames_are_chosen_evenly():
    frames = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    ds = image(frames[0])
    ds.NumberOfFrames = 40
    ds.PixelData = frames.tobytes()
    images = preprocess(ds, spec(max_frames=4))
    assert (images[:, 0, 0, 0] * 255).round().astype(int).tolist() == [0, 13, 26, 39]
    assert preprocess(ds, spec(max_frames=100)).shape[0] == 40


@pytest.mark.parametrize("options", [{"clahe": True}, {"denoise": True}])
def test_enhancement_stays_in_range_and_changes_something(options):
    pixels = noise((64, 64), seed=1)
    rough = np.random.default_rng(0).integers(0, 40, (64, 64)).astype(np.uint8)
    plain = preprocess_array((pixels + rough)[None], spec(size=64))
    enhanced = preprocess_array((pixels + rough)[None], spec(size=64, **options))
    assert enhanced.min() >= 0
    assert enhanced.max() <= 1
    assert not np.array_equal(enhanced, plain)


def test_denoising_removes_noise():
    flat = np.full((64, 64), 128.0)
    noisy = (flat + np.random.default_rng(0).normal(0, 10, flat.shape)).astype(np.uint8)
    denoised = preprocess_array(noisy[None], spec(size=64, denoise=True))
    assert denoised.std() < 0.5 * (noisy / 255).std()


def test_downsampling_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (128, 64))
    small = preprocess_array(stripes[None], spec(size=16))
    assert small[0, 0, 4:-4, 4:-4].std() < 0.05


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 28, 28), np.float32),
        np.zeros((28, 28), np.uint8),
        np.zeros((2, 28, 28, 4), np.uint8),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(OperatorError, match="image array"):
        preprocess_array(array, spec())


def test_a_specification_has_one_digest():
    assert spec_digest(spec()) == spec_digest(spec())
    assert spec_digest(spec()) != spec_digest(spec(ct_center=41.0))


def test_every_cleaned_file_of_pydicom_can_be_preprocessed():
    for name in ("MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm", "image_dfl.dcm"):
        outcome, _ = clean(file_bytes(name), lenient())
        images = preprocess_file(outcome.data, spec(channels=3))
        assert images.shape[1:] == (3, 28, 28)
        assert images.min() >= 0
        assert images.max() <= 1
