"""Burned-in text: hidden at any place, size and contrast; images without text keep every bit.

Measured on held-out fonts, strings and images (:mod:`tests.burned_in_corpus`), as the de-identifier
searches: again after each blanking.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from tests.burned_in_corpus import DATA, backgrounds, is_hidden, pydicom_image, samples
from tests.conftest import missing
from tests.dicom_cases import SECRET, clean, encoded, file_bytes, image, lenient, noise

from fedward_client.deidentify import burned_in, ocr
from fedward_client.deidentify.burned_in import MAX_PASSES
from fedward_client.deidentify.contact_sheet import (
    MAX_LAYOUTS,
    PER_LAYOUT,
    SIDE,
    Thumbnail,
    contact_sheet,
    thumbnail,
)
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Quarantined, Reason, RefusalError
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.textfinder import find_small_text, find_text
from fedward_common.errors import OperatorError

CLEAN_FILES = (
    "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "CT_small.dcm", "MR_small.dcm",
    "examples_overlay.dcm", "JPEG2000.dcm", "SC_jpeg_no_color_transform.dcm",
    "SC_rgb_jpeg_dcmd.dcm", "SC_rgb_dcmtk_+eb+cr.dcm",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Shares: strings hidden, pixels blanked outside the text, images still searched at the end."""

    hidden: float
    beyond: float
    unfinished: float


def blanked(pixels, first=()):
    """Blank as the de-identifier does; return what was blanked, and if text was still found.

    ``first`` are boxes that another net found.
    """
    masked, current = np.zeros(pixels.shape, dtype=bool), pixels.copy()
    boxes = [*find_text(current), *first]
    for _ in range(MAX_PASSES):
        if not boxes:
            for x0, y0, x1, y1 in find_small_text(current):
                masked[y0:y1, x0:x1] = True
            return masked, False
        for x0, y0, x1, y1 in boxes:
            masked[y0:y1, x0:x1] = True
            current[y0:y1, x0:x1] = np.median(current[y0:y1, x0:x1])
        boxes = find_text(current)
    return masked, bool(boxes)


def measure(split, count, contrast, arrays, *, with_model=False):
    """Measure the finder alone, or with the trained detector of the extra."""
    hidden = unfinished = beyond = outside = 0
    for sample in samples(split, count, contrast, arrays):
        first = ocr.find_text_by_model(sample.image) if with_model else ()
        masked, more = blanked(sample.image, first)
        unfinished += more
        hidden += more or is_hidden(sample, masked)  # what is not finished is quarantined
        x0, y0, x1, y1 = sample.box
        masked[y0:y1, x0:x1] = False
        beyond += int(masked.sum())
        outside += masked.size - (y1 - y0) * (x1 - x0)
    return Measured(hidden / count, beyond / outside, unfinished / count)


@pytest.mark.parametrize(("contrast", "least"), [(90, 0.95), (30, 0.91)])
def test_held_out_text_is_hidden(contrast, least, pneumonia_npz):
    found = measure("held-out", 150, contrast, pneumonia_npz)
    assert found.hidden >= least
    assert found.beyond <= 0.03
    assert found.unfinished <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("contrast", "least", "most"), [(90, 0.965, 0.02), (30, 0.94, 0.03)])
def test_the_share_of_held_out_text_that_is_hidden(contrast, least, most, pneumonia_npz):
    """The aim of 99 % at 90 grey levels and 95 % at 30; these are floors, not the aim.

    Measured without the extra: 97.6 % and 95.7 %.
    """
    found = measure("held-out", 1000, contrast, pneumonia_npz)
    print(f"contrast {contrast}: {found}")
    assert found.hidden >= least
    assert found.beyond <= most
    assert found.unfinished <= 0.01


@pytest.mark.parametrize("name", CLEAN_FILES)
def test_images_without_text_are_left_alone(name):
    assert find_text(pydicom_image(name)) == []
    assert find_small_text(pydicom_image(name)) == []


@pytest.mark.parametrize("split", ["development", "held-out"])
def test_the_corpus_without_its_text_is_left_alone(split, pneumonia_npz):
    found = {name: find_text(plain) for name, plain in backgrounds(split, pneumonia_npz).items()}
    assert {name: boxes for name, boxes in found.items() if boxes} == {}


def test_chest_images_are_left_alone_at_their_own_size(pneumonia_npz):
    images = np.load(pneumonia_npz)["test_images"][:300]
    assert np.mean([bool(find_text(chest)) for chest in images]) <= 0.01


def written(pixels, text, at, size, value):
    canvas = Image.fromarray(pixels)
    ImageDraw.Draw(canvas).text(at, text, fill=value, font=ImageFont.load_default(size))
    return np.asarray(canvas)


@pytest.mark.parametrize("at", [(1, 1), (3, 50), (8, 30)])
def test_small_images_are_searched_too(at):
    plain = noise((64, 64), seed=at[0]) // 2
    assert find_text(plain) == []
    assert find_text(written(plain, "DOE JOHN", at, 10, 250))


@pytest.mark.parametrize("marker", ["R", "L"])
def test_side_markers_are_kept(marker):
    assert not find_text(written(noise((256, 256)), marker, (20, 20), 28, 255))


def test_the_type_and_scale_of_the_values_do_not_matter():
    pixels = written(noise((200, 200)), "SMITH ANNA 1949", (20, 90), 16, 255)
    boxes = find_text(pixels)
    assert boxes
    for values in (pixels.astype(np.uint16) * 256, pixels.astype(np.int16) * 7 - 1024):
        assert find_text(values) == boxes


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (2, 3), (28, 28)])
def test_images_of_any_size_are_searched(shape):
    assert find_text(np.zeros(shape, np.uint8)) == []
    ramp = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    assert find_text(ramp) == []


@pytest.fixture
def _model():
    if not ocr.is_installed():
        missing("the extra ocr is not installed")


@pytest.mark.usefixtures("_model")
def test_the_trained_detector_finds_text_and_leaves_clean_images(pneumonia_npz):
    pixels = written(noise((300, 400)), "DOE JOHN 1970", (30, 40), 20, 255)
    (box,) = ocr.find_text_by_model(pixels)
    assert box[0] <= 34
    assert box[1] <= 48
    assert box[2] >= 150
    assert box[3] >= 58
    for name in CLEAN_FILES[:6]:
        assert ocr.find_text_by_model(pydicom_image(name)) == []
    for plain in backgrounds("held-out", pneumonia_npz).values():
        assert ocr.find_text_by_model(plain) == []


def test_a_detector_that_is_asked_for_and_not_installed_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(ocr, "WHEEL", "fedward_has_no_such_wheel")
    ocr._network.cache_clear()
    assert not ocr.is_installed()
    burned = encoded(image(noise((64, 64))))
    wanted = Profile.model_validate({"pixels": {"ocr": "on"}})
    with pytest.raises(OperatorError, match=r"pip install 'fedward\[ocr\]'"):
        Deidentifier(SECRET, wanted).deidentify(burned)
    clean(burned)  # auto does without
    ocr._network.cache_clear()


def test_text_in_one_colour_and_one_frame_is_blanked_in_all():
    frames = np.repeat(noise((120, 200, 3))[None], 2, axis=0).copy()
    frames[1, ..., 2] = written(frames[1, ..., 2], "DOE JOHN", (30, 40), 16, 255)
    ds = image(frames[0])
    ds.NumberOfFrames, ds.PixelData = 2, frames.tobytes()
    _, cleaned = clean(encoded(ds), Profile.model_validate({"pixels": {"ocr": "off"}}))
    result = cleaned.pixel_array
    changed = (result != frames).any(axis=-1)
    np.testing.assert_array_equal(changed[0], changed[1])
    assert changed[1][frames[1, ..., 2] == 255].mean() > 0.99
    np.testing.assert_array_equal(result[:, 80:], frames[:, 80:])


def test_text_that_cannot_be_finished_is_quarantined(monkeypatch):
    """What is found again after every blanking is never written; what is gone, is."""
    burned = encoded(image(written(noise((100, 160)), "DOE JOHN", (10, 20), 16, 255)))
    without_model = Profile.model_validate({"pixels": {"ocr": "off"}})
    clean(burned, without_model)
    searches = []

    def endless(*_):
        searches.append(1)
        return [(10, 20, 60 + len(searches), 40)]

    monkeypatch.setattr(burned_in, "find_text", endless)
    outcome = Deidentifier(SECRET, without_model).deidentify(burned)
    assert outcome == Quarantined(Reason.BURNED_IN_TEXT)
    assert MAX_PASSES <= len(searches) <= MAX_PASSES + 1


def test_of_a_written_page_nothing_is_left_to_read():
    """Writing all over the image is refused, or its ink is gone."""
    plain = pixels = noise((100, 100))
    for row in range(0, 100, 9):
        pixels = written(pixels, "THIS IS A SCANNED LETTER " * 2, (0, row), 10, 255)
    outcome = Deidentifier(SECRET).deidentify(encoded(image(pixels)))
    if outcome != Quarantined(Reason.BURNED_IN_TEXT):
        left = pydicom.dcmread(BytesIO(outcome.data)).pixel_array
        ink = pixels != plain
        assert (left == pixels)[ink].mean() < 0.05


def scattered(side, count):
    """A page of short words at random places."""
    rng = np.random.default_rng(5)
    canvas = Image.new("L", (side, side), 30)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for x, y in rng.integers(0, side - 30, (count, 2)):
        draw.text((int(x), int(y)), "".join(rng.choice(list("ABKRSX379"), 3)), 220, font)
    return np.asarray(canvas)


@pytest.mark.parametrize(
    ("side", "count"), [(1024, 900), pytest.param(4096, 6000, marks=pytest.mark.slow)]
)
def test_a_page_of_scattered_words_is_quarantined(side, count):
    """It ends at a limit of places: to join some thousand boxes would take for ever."""
    with pytest.raises(RefusalError) as refused:
        find_text(scattered(side, count))
    assert refused.value.reason is Reason.PAGE


def test_a_page_is_no_image_in_a_file_either():
    outcome = Deidentifier(SECRET).deidentify(encoded(image(scattered(1024, 900))))
    assert outcome == Quarantined(Reason.PAGE)


@pytest.mark.parametrize(
    ("name", "most"), [("examples_jpeg2k.dcm", 0.6), ("examples_rgb_color.dcm", 0.64)]
)
def test_colour_doppler_is_not_joined_into_one_text(name, most):
    """Half of each plane is lost, as flow looks like strokes; it was 66 to 80 % by joined boxes."""
    pixels = pydicom.dcmread(next(DATA.rglob(name))).pixel_array
    for sample in range(3):
        masked, unfinished = blanked(pixels[..., sample])
        assert not unfinished
        assert 0.03 < masked.mean() <= most  # the names and settings around it are text


def burned_file(seed=0, modality="CR", size=(120, 160)):
    return encoded(
        image(written(noise(size, seed), "DOE JOHN", (10, 20), 16, 255), modality=modality)
    )


def test_a_contact_sheet_shows_what_was_blanked_by_layout():
    cleaner = Deidentifier(SECRET, lenient())

    def items():
        for seed in range(PER_LAYOUT + 3):
            data = burned_file(seed)
            yield thumbnail(data, cleaner.deidentify(data))
        data = burned_file(modality="DX", size=(600, 500))
        yield thumbnail(data, cleaner.deidentify(data))
        plain = file_bytes("CT_small.dcm")
        yield thumbnail(plain, cleaner.deidentify(plain))

    sheet = Image.open(BytesIO(contact_sheet(items())))
    assert sheet.format == "PNG"
    assert sheet.mode == "RGB"
    pixels = np.asarray(sheet)
    red = (pixels == (230, 30, 30)).all(axis=-1)
    assert red.sum() > 500  # outlines


def test_a_thumbnail_is_small_and_outlines_the_text():
    data = burned_file(size=(600, 500))
    made = thumbnail(data, Deidentifier(SECRET).deidentify(data))
    assert (made.modality, made.rows, made.columns) == ("CR", 600, 500)
    assert max(made.before.shape) <= SIDE
    assert made.before.shape == made.after.shape
    assert 0 < made.share < 0.1
    difference = (made.before != made.after).any(axis=-1)
    rows, columns = np.flatnonzero(difference.any(1)), np.flatnonzero(difference.any(0))
    assert rows[0] <= 10
    assert rows[-1] <= 30
    assert columns[-1] <= 60


def test_a_contact_sheet_holds_few_examples_of_few_layouts():
    picture = np.zeros((10, 10, 3), np.uint8)
    many = (
        Thumbnail("CR", 10, columns, 0.1, picture, picture)
        for columns in range(MAX_LAYOUTS + 5)
        for _ in range(100)
    )
    sheet = Image.open(BytesIO(contact_sheet(many)))
    assert sheet.height < 60 + MAX_LAYOUTS * 60
    assert Image.open(BytesIO(contact_sheet([None]))).height > 0


def test_the_files_of_the_corpus_are_pydicoms_own():
    assert all(next(DATA.rglob(name), None) for name in CLEAN_FILES)
