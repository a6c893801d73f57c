"""Pixel data of one instance: read exactly, decoded if compressed, and described anew.

Uncompressed grey and RGB pixels keep their bytes. Everything else (compressed syntaxes, palette
colour, YBR, planar colour, big endian) is decoded to grey or interleaved RGB. The result holds
exactly rows * columns * samples * frames values, with unused high bits cleared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from fedward_client.deidentify.container import Element, Elements
from fedward_client.deidentify.decoding import (
    NATIVE,
    NATIVE_LITTLE,
    PIXEL_DATA,
    Encoded,
    Image,
    decode_pixels,
    describe,
)
from fedward_client.deidentify.header import number_of
from fedward_client.deidentify.outcome import Action, Reason, RefusalError
from fedward_client.deidentify.reading import raw_value, text_value
from fedward_client.deidentify.rules import tag_of

MAX_BYTES = 1 << 31
_PHOTOMETRIC = tag_of("PhotometricInterpretation")
_FRAMES = tag_of("NumberOfFrames")
_NUMBERS = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PlanarConfiguration",
)  # fmt: skip
_LUT = ("Descriptor", "Data")
_LUT_TAGS = tuple(
    tag_of(f"{colour}PaletteColorLookupTable{part}")
    for colour in ("Red", "Green", "Blue")
    for part in _LUT
)


@dataclass(frozen=True)
class Pixels:
    """``values``: integers (frames, rows, columns, samples); ``bits`` of each are used."""

    values: Image
    bits: int
    photometric: str

    @property
    def is_signed(self) -> bool:
        """True for two's-complement values (PixelRepresentation 1)."""
        return self.values.dtype.kind == "i"


@dataclass(frozen=True)
class _Description:
    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    planar: bool
    photometric: str

    @property
    def count(self) -> int:
        return self.frames * self.rows * self.columns * self.samples

    @property
    def native_bytes(self) -> int:
        if self.photometric == "YBR_FULL_422":
            return self.frames * self.rows * self.columns * 2
        return self.count * self.allocated // 8


def read_pixels(source: Dataset, header: Elements, syntax: str) -> tuple[Pixels, list[Action]]:
    """Return the pixels of ``source`` and what was done to them.

    Raises:
        RefusalError: truncated, too large, undecodable, or a description we do not clean.
    """
    description = _describe(source, header)
    raw = raw_value(source, PIXEL_DATA, "OB")
    if not raw:
        raise RefusalError(Reason.NO_PIXELS)
    done: list[Action] = []
    if syntax in NATIVE:
        expected = description.native_bytes
        if len(raw) < expected:
            raise RefusalError(Reason.TRUNCATED)
        even = expected + expected % 2
        if len(raw) > even or (even > expected and syntax in NATIVE_LITTLE and any(raw[expected:])):
            done.append(Action.TRIMMED)
        raw = raw[:even]
    if _is_plain(description, syntax):
        pixels = _plain(description, raw)
    else:
        pixels = _decoded(source, description, raw, syntax)
        done.append(Action.DECODED)
    cleared = clear_high_bits(pixels)
    if cleared is not pixels:
        done.append(Action.HIGH_BITS)
    return cleared, done


def original_pixels(source: Dataset) -> Pixels:
    """Return the pixels of a parsed file that has been cleaned, as they were before.

    Raises:
        RefusalError: as :func:`read_pixels`.
    """
    header: dict[int, Element] = {
        tag_of(keyword): ("US", raw_value(source, tag_of(keyword), "US")) for keyword in _NUMBERS
    }
    frames = text_value(source, _FRAMES)
    if frames.isascii() and frames.isdigit():
        header[_FRAMES] = ("IS", frames.encode("ascii"))
    return read_pixels(source, header, str(source.file_meta.TransferSyntaxUID))[0]


def check_length(source: Dataset, syntax: str) -> None:
    """Check, from the raw header alone, that pixel data is there and complete.

    Raises:
        RefusalError: no pixel data, or less of it than the header declares.
    """
    raw = raw_value(source, PIXEL_DATA, "OB")
    if not raw:
        raise RefusalError(Reason.NO_PIXELS)
    if syntax not in NATIVE or text_value(source, _PHOTOMETRIC) == "YBR_FULL_422":
        return
    rows, columns, samples, allocated = (
        int.from_bytes(raw_value(source, tag_of(keyword), "US")[:2], "little")
        for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    )
    frames = text_value(source, _FRAMES)
    known = frames.isascii() and frames.isdigit() and len(frames) <= 9
    count = rows * columns * samples * (int(frames) if known else 1)
    if len(raw) < count * allocated // 8:
        raise RefusalError(Reason.TRUNCATED)


def _describe(source: Dataset, header: Elements) -> _Description:
    description = _Description(
        frames=max(1, number_of(header, "NumberOfFrames", 1)),
        rows=number_of(header, "Rows"),
        columns=number_of(header, "Columns"),
        samples=number_of(header, "SamplesPerPixel", 1),
        allocated=number_of(header, "BitsAllocated"),
        stored=number_of(header, "BitsStored"),
        signed=number_of(header, "PixelRepresentation") == 1,
        planar=number_of(header, "PlanarConfiguration") == 1,
        photometric=text_value(source, _PHOTOMETRIC),
    )
    if description.count == 0 or description.samples not in (1, 3):
        raise RefusalError(Reason.UNSUPPORTED_PIXELS)
    if description.allocated not in (8, 16) or not 0 < description.stored <= description.allocated:
        raise RefusalError(Reason.UNSUPPORTED_PIXELS)
    if number_of(header, "HighBit", description.stored - 1) != description.stored - 1:
        raise RefusalError(Reason.UNSUPPORTED_PIXELS)
    if description.count * description.allocated // 8 > MAX_BYTES:
        raise RefusalError(Reason.TOO_LARGE)
    return description


def _is_plain(description: _Description, syntax: str) -> bool:
    if syntax not in NATIVE_LITTLE:
        return False
    if description.samples == 1:
        return description.photometric in ("MONOCHROME1", "MONOCHROME2")
    return description.photometric == "RGB" and not description.planar


def _plain(description: _Description, raw: bytes) -> Pixels:
    d = description
    kind = np.dtype(f"<{'i' if d.signed else 'u'}{d.allocated // 8}")
    values = np.frombuffer(raw, kind, d.count).reshape(d.frames, d.rows, d.columns, d.samples)
    return Pixels(values, d.stored, d.photometric)


def _decoded(source: Dataset, description: _Description, raw: bytes, syntax: str) -> Pixels:
    """Decode pixels that are compressed, planar, big-endian, YBR or of palette colour."""
    d = description
    kind = getattr(source.get_item(PIXEL_DATA), "VR", None)
    encoded = Encoded(
        syntax=syntax,
        vr="OW" if kind == "OW" else "OB",
        photometric=d.photometric,
        frames=d.frames,
        rows=d.rows,
        columns=d.columns,
        samples=d.samples,
        allocated=d.allocated,
        stored=d.stored,
        signed=d.signed,
        planar=d.planar,
        raw=raw,
    )
    array, stored = decode_pixels(encoded)
    if d.photometric == "PALETTE COLOR":
        array = _coloured(array, describe(encoded), source)
    is_colour = d.samples > 1 or d.photometric == "PALETTE COLOR"
    photometric = "RGB" if is_colour else d.photometric
    width = 8 * array.itemsize
    return _shaped(array, d, photometric, width if is_colour else min(stored, width))


def _coloured(array: Image, bare: Dataset, source: Dataset) -> Image:
    """Apply the palette (PS3.3 C.7.6.3.1.5)."""
    try:
        for tag in _LUT_TAGS:
            bare[tag] = source[tag]
        return apply_color_lut(array, bare)
    except Exception as error:  # the palette is as hostile as the rest
        raise RefusalError(Reason.UNDECODABLE_PIXELS) from error


def _shaped(array: Image, d: _Description, photometric: str, stored: int) -> Pixels:
    samples = 3 if photometric == "RGB" else 1
    if photometric not in ("MONOCHROME1", "MONOCHROME2", "RGB") or array.dtype.kind not in "ui":
        raise RefusalError(Reason.UNSUPPORTED_PIXELS)
    if array.size != d.frames * d.rows * d.columns * samples or array.itemsize > 2:
        raise RefusalError(Reason.UNDECODABLE_PIXELS)
    values = array.reshape(d.frames, d.rows, d.columns, samples)
    return Pixels(values.astype(values.dtype.newbyteorder("<")), stored, photometric)


def clear_high_bits(pixels: Pixels) -> Pixels:
    """Zero (or sign-extend over) the bits above ``bits``; the same object if they are clean."""
    spare = 8 * pixels.values.itemsize - pixels.bits
    if spare == 0:
        return pixels
    cleared = (pixels.values << spare) >> spare
    return pixels if np.array_equal(cleared, pixels.values) else replace(pixels, values=cleared)
