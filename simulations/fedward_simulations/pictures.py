"""The picture and the header of one invented patient, before and after de-identification.

Only a simulation may make these: they are for people to look at in its report.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from fedward_simulations.report import PNG_SIGNATURE, BeforeAfter, HeaderChange

LARGEST_SIDE = 448
LONGEST_VALUE = 72
SHOWN = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientComments",
    "ReferringPhysicianName",
    "OperatorsName",
    "InstitutionName",
    "AccessionNumber",
    "StudyDate",
    "StudyInstanceUID",
    "Manufacturer",
    "DeviceSerialNumber",
    "Modality",
    "Rows",
)


def before_after(site: str, before: Dataset, after: Dataset) -> BeforeAfter:
    """Compare a simulated file with what de-identification made of it.

    Args:
        site: the simulated hospital's name.
        before: the file as the hospital's scanner wrote it.
        after: the cleaned file. Both pictures use its range of grey, so that they compare.
    """
    cleaned = _upright(after)
    low, high = float(cleaned.min()), float(cleaned.max())
    original = png(_eight_bit(_upright(before), low, high))
    return BeforeAfter(
        site, original, png(_eight_bit(cleaned, low, high)), header_changes(before, after)
    )


def header_changes(before: Dataset, after: Dataset) -> tuple[HeaderChange, ...]:
    """The attributes of `SHOWN` that ``before`` has, and how many private ones each file has."""
    changes = []
    for keyword in SHOWN:
        if keyword in before:
            name = f"{Tag(before[keyword].tag)} {keyword}"
            kept = _value(after, keyword) if keyword in after else None
            changes.append(HeaderChange(name, _value(before, keyword), kept))
    private, left = (sum(element.tag.is_private for element in file) for file in (before, after))
    if private:
        changes.append(
            HeaderChange("private attributes", str(private), str(left) if left else None)
        )
    return tuple(changes)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file (ISO/IEC 15948) of uint8 pixels, (rows, columns) grey or (rows, columns, 3)."""
    rows, columns = pixels.shape[:2]
    colour_type = 2 if pixels.ndim == 3 else 0
    lines = np.ascontiguousarray(pixels).reshape(rows, -1)
    filtered = np.insert(lines, 0, 0, axis=1)  # filter 0 (none) before each line
    header = struct.pack(">IIBBBBB", columns, rows, 8, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 9)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _upright(file: Dataset) -> NDArray[np.float64]:
    """The first frame, thinned to `LARGEST_SIDE`, with bright meaning much (MONOCHROME2, RGB)."""
    pixels = file.pixel_array
    if int(file.get("NumberOfFrames", 1) or 1) > 1:
        pixels = pixels[0]
    stride = -(-max(pixels.shape[:2]) // LARGEST_SIDE)
    values = pixels[::stride, ::stride].astype(np.float64)
    return -values if file.PhotometricInterpretation == "MONOCHROME1" else values


def _eight_bit(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (values - low) / ((high - low) or 1.0)
    return np.round(255.0 * np.clip(scaled, 0.0, 1.0)).astype(np.uint8)


def _value(file: Dataset, keyword: str) -> str:
    text = str(file[keyword].value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
