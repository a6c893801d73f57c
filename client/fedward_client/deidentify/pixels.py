"""Pixel data of one instance: read exactly, decoded if compressed, and described anew.

Uncompressed grey and RGB pixels keep their bytes. Everything else (compressed syntaxes, palette
colour, YBR, planar colour, big endian) is decoded to grey or interleaved RGB. The result holds
exactly rows * columns * samples * frames values, with unused high bits cleared.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from fedward_client.deidentify.container import Elements
from fedward_client.deidentify.header import number_of, raw_value, text_value
from fedward_client.deidentify.outcome import Action, Reason, RefusalError
from fedward_client.deidentify.rules import tag_of

MAX_BYTES = 1 << 31
PIXEL_DATA = 0x7FE00010
_PHOTOMETRIC = tag_of("PhotometricInterpretation")
_NATIVE_LITTLE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")
_NATIVE = (*_NATIVE_LITTLE, "1.2.840.10008.1.2.2")
_LUT = ("Descriptor", "Data")
_LUT_TAGS = tuple(
    tag_of(f"{colour}PaletteColorLookupTable{part}")
    for colour in ("Red", "Green", "Blue")
    for part in _LUT
)

Image = NDArray[Any]


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
    if syntax in _NATIVE:
        expected = description.native_bytes
        if len(raw) < expected:
            raise RefusalError(Reason.TRUNCATED)
        even = expected + expected % 2
        if len(raw) > even or (
            even > expected and syntax in _NATIVE_LITTLE and any(raw[expected:])
        ):
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


def check_length(source: Dataset, syntax: str) -> None:
    """Check, from the raw header alone, that pixel data is there and complete.

    Raises:
        RefusalError: no pixel data, or less of it than the header declares.
    """
    raw = raw_value(source, PIXEL_DATA, "OB")
    if not raw:
        raise RefusalError(Reason.NO_PIXELS)
    if syntax not in _NATIVE or text_value(source, _PHOTOMETRIC) == "YBR_FULL_422":
        return
    rows, columns, samples, allocated = (
        int.from_bytes(raw_value(source, tag_of(keyword), "US")[:2], "little")
        for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    )
    frames = text_value(source, tag_of("NumberOfFrames"))
    count = rows * columns * samples * (int(frames) if frames.isdigit() else 1)
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
    if syntax not in _NATIVE_LITTLE:
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
    """Decode through pydicom from a data set that holds the description and the pixels only."""
    d = description
    bare = Dataset()
    bare.SamplesPerPixel, bare.PhotometricInterpretation = d.samples, d.photometric
    bare.Rows, bare.Columns, bare.NumberOfFrames = d.rows, d.columns, d.frames
    bare.BitsAllocated, bare.BitsStored, bare.HighBit = d.allocated, d.stored, d.stored - 1
    bare.PixelRepresentation = int(d.signed)
    if d.samples > 1:
        bare.PlanarConfiguration = int(d.planar)
    kind = getattr(source.get_item(PIXEL_DATA), "VR", None)
    bare.add_new(PIXEL_DATA, "OW" if kind == "OW" else "OB", raw)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array, facts = get_decoder(syntax).as_array(bare)
            if d.photometric == "PALETTE COLOR":
                array = apply_color_lut(array, _with_palette(bare, source))
    except Exception as error:  # decoders raise whatever they like on hostile bytes
        raise RefusalError(Reason.UNDECODABLE_PIXELS) from error
    photometric = "RGB" if array.shape[-1] == 3 and d.samples == 3 else d.photometric
    if d.photometric == "PALETTE COLOR":
        photometric = "RGB"
    stored = 8 * array.itemsize if photometric == "RGB" else int(facts["bits_stored"])
    return _shaped(array, d, photometric, stored)


def _with_palette(bare: Dataset, source: Dataset) -> Dataset:
    for tag in _LUT_TAGS:
        bare[tag] = source[tag]
    return bare


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
