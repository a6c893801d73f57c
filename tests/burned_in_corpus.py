"""Images with burned-in text, made here: a development set and a held-out set.

The two share no font family, no background image and no string list, so what is tuned on the first
says something when it is measured on the second. Contrast is counted in grey levels of the image
scaled to 0..255 between its extremes: the text is brighter or darker by that much than the median
of the pixels that it covers (a solid value), or than each of them (``blended``), before clipping.

Letters are 8 to 60 pixels high, at most a sixth of the image. Two letters or fewer (side markers,
"L", "R") are not identifying and are left in place by design.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.pixels.processing import apply_color_lut
from scipy.ndimage import gaussian_filter

Split = Literal["development", "held-out"]
Grey = NDArray[np.uint8]

DATA = Path(pydicom.__file__).parent / "data"
FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"

FAMILIES = {
    "development": ("DejaVuSans", "DejaVuSansMono-Bold", "DejaVuSerif", "aileron"),
    "held-out": ("STIXGeneral", "STIXGeneralBol", "cmr10", "cmss10", "cmtt10", "scanner"),
}
STRINGS = {
    "development": (
        "DOE JOHN", "1970-01-02", "SMITH^ANNA", "ID 4711", "MR BROWN 55Y", "Dr. Weber", "12:34:56",
        "City Hospital", "LEE", "Jane Roe F 03/04/1961", "ACC 8842190", "Garcia, Luis",
    ),
    "held-out": (
        "NGUYEN THI HOA", "MUELLER", "Kim", "O'Brien, Pat 047Y", "11/23/2004", "PID:90-551-7",
        "St. Mary Clinic", "JOHANSSON ERIK", "M 1949", "20031105", "Ivanova", "Exam 3 Tech: BW",
        "CHEN W.", "Abdul-Rahman", "DOB 07.08.39",
    ),
}  # fmt: skip
UMLAUTS = {
    "development": ("JÖRG WEIß", "Ærøskøbing"),
    "held-out": ("MÜLLER, Jürgen", "Åse Çelik", "Łukasz Żak"),
}


@dataclass(frozen=True)
class Sample:
    """``image`` with one string; ``plain`` without; ``strokes`` its pixels, ``box`` around them."""

    name: str
    plain: Grey
    image: Grey
    strokes: NDArray[np.bool_]
    box: tuple[int, int, int, int]


def scaled_to_bytes(values: NDArray[np.generic]) -> Grey:
    """Scale to 0..255 between the extremes."""
    wide = values.astype(np.float64)
    low, high = wide.min(), wide.max()
    return np.round((wide - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)


def pydicom_image(name: str) -> Grey:
    """Return the first frame of a file of pydicom's, grey, scaled to 0..255."""
    dataset = pydicom.dcmread(next(DATA.rglob(name)))
    pixels = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 4:
        pixels = pixels[0]
    return scaled_to_bytes(pixels[..., 0] if pixels.ndim == 3 else pixels)


def _resized(pixels: Grey, side: int) -> Grey:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def _phantom(rng: np.random.Generator, side: int) -> Grey:
    """A smooth body in grain, as a detector with an interpolating reconstruction gives it."""
    body = gaussian_filter(rng.normal(size=(side, side)), side / 16)
    body = 40 + 120 * (body - body.min()) / np.ptp(body)
    return np.clip(body + rng.normal(0, rng.uniform(0.5, 4), body.shape), 0, 255).astype(np.uint8)


@cache
def backgrounds(split: Split, arrays: Path | None = None) -> dict[str, Grey]:
    """Return the clean images of a split, at their own size; ``arrays``: PneumoniaMNIST's file."""
    rng = np.random.default_rng(7 if split == "development" else 8)
    if split == "development":
        made = {
            "ct head": pydicom_image("693_J2KI.dcm"),
            "ct upscaled": _resized(pydicom_image("CT_small.dcm"), 384),
            "us sector": pydicom_image("examples_ybr_color.dcm")[30:220, 40:290],
        }
    else:
        made = {
            "ct skull": pydicom_image("J2K_pixelrep_mismatch.dcm"),
            "mr abdomen": pydicom_image("examples_overlay.dcm"),
            "mr upscaled": _resized(pydicom_image("MR_small.dcm"), 320),
            "nm whole body": pydicom_image("JPEG2000.dcm"),
            "us probe": pydicom_image("examples_palette.dcm")[110:270, 330:640],
        }
    made |= {f"phantom {side}": _phantom(rng, side) for side in (128, 256, 400)}
    if arrays is not None:
        images = np.load(arrays)["val_images" if split == "development" else "test_images"]
        for number, side in enumerate((64, 128, 224, 300)):
            made[f"chest {side}"] = _resized(images[number], side)
    return made


def samples(
    split: Split, count: int, contrast: int, arrays: Path | None = None
) -> Iterator[Sample]:
    """Yield ``count`` images with a string each, the same ones every time."""
    rng = np.random.default_rng([contrast, count, split == "held-out"])
    images = list(backgrounds(split, arrays).items())
    made = 0
    while made < count:
        where, plain = images[made % len(images)]
        sample = _sample(split, where, plain, contrast, rng)
        if sample is not None:
            made += 1
            yield sample


def _sample(
    split: Split, where: str, plain: Grey, contrast: int, rng: np.random.Generator
) -> Sample | None:
    family = str(rng.choice(FAMILIES[split]))
    accents = family not in ("scanner", "cmr10", "cmss10", "cmtt10")
    strings = STRINGS[split] + (UMLAUTS[split] if accents else ())
    text = str(rng.choice(strings))
    largest = min(60, min(plain.shape) // 6)
    size = int(np.exp(rng.uniform(np.log(8), np.log(largest))))
    glyphs = _rendered(family, text, size)
    if rng.random() < 0.1:
        glyphs = np.rot90(glyphs)
    rows, columns = glyphs.shape
    if rows > plain.shape[0] - 4 or columns > plain.shape[1] - 4:
        return None
    y, x = _place(rng, plain.shape[0] - rows, plain.shape[1] - columns)
    style = str(rng.choice(["solid", "solid", "solid", "blended", "outlined"]))
    burned, strokes = _burned(plain, glyphs, (y, x), contrast, style, rng)
    if burned is None:
        return None
    name = f"{where}, {family} {size} px, {style}, '{text}' at {x},{y}"
    return Sample(name, plain, burned, strokes, (x, y, x + columns, y + rows))


def _rendered(family: str, text: str, size: int) -> NDArray[np.float64]:
    """The string's coverage, cropped to its ink: antialiased, or one bit for the scanner's font."""
    if family == "scanner":
        font, factor = ImageFont.load_default_imagefont(), max(1, size // 10)
    elif family == "aileron":
        font, factor = ImageFont.load_default(size), 1
    else:
        font, factor = ImageFont.truetype(str(FONTS / f"{family}.ttf"), size), 1
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    canvas = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(canvas).text((2 - left, 2 - top), text, fill=255, font=font)
    ink = np.asarray(canvas)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.kron(ink, np.ones((factor, factor))) / 255


def _place(rng: np.random.Generator, down: int, right: int) -> tuple[int, int]:
    """A corner, an edge or anywhere."""
    if rng.random() < 0.5:
        return int(rng.integers(0, down + 1)), int(rng.integers(0, right + 1))
    near_y, near_x = (int(rng.integers(0, 1 + min(8, limit))) for limit in (down, right))
    return (near_y if rng.random() < 0.5 else down - near_y), (
        near_x if rng.random() < 0.5 else right - near_x
    )


def _burned(
    plain: Grey,
    glyphs: NDArray[np.float64],
    at: tuple[int, int],
    contrast: int,
    style: str,
    rng: np.random.Generator,
) -> tuple[Grey | None, NDArray[np.bool_]]:
    window = slice(at[0], at[0] + glyphs.shape[0]), slice(at[1], at[1] + glyphs.shape[1])
    under = plain[window].astype(np.float64)
    inked = glyphs > 0.5
    median = float(np.median(under[inked]))
    room = [sign for sign in (1, -1) if 0 <= median + sign * contrast <= 255]
    if not room:
        return None, inked
    sign = int(rng.choice(room))
    level = under + sign * contrast if style == "blended" else median + sign * contrast
    if style == "outlined":
        from scipy.ndimage import maximum_filter

        halo = maximum_filter(glyphs, 3)
        under = under * (1 - halo) + halo * np.clip(median - sign * contrast / 2, 0, 255)
    burned = plain.copy()
    burned[window] = np.clip(np.round(under * (1 - glyphs) + glyphs * level), 0, 255)
    strokes = np.zeros(plain.shape, dtype=bool)
    strokes[window] = inked
    return burned, strokes


def is_hidden(sample: Sample, masked: NDArray[np.bool_]) -> bool:
    """True if no reader can read the string: 99 % of what it changed in the image is blanked."""
    changed = np.abs(sample.image.astype(int) - sample.plain)
    return bool(changed[masked].sum() >= 0.99 * changed.sum())
