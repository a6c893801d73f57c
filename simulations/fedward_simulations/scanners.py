"""Scanner profiles: how one site's machine turns an 8-bit image into stored pixels.

Sites differ as real ones do: manufacturer, modality, pixel spacing, bit depth, photometric
interpretation, transfer syntax, matrix size, and at one site the patient's name burned into the
image. Manufacturers are invented.
"""

from __future__ import annotations

import unicodedata
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    UltrasoundImageStorage,
    VLPhotographicImageStorage,
)

from fedward_common.errors import OperatorError

TEXT_BAND = 24  # rows above the image that hold burned-in text
TEXT_SIZE = 10
CT_INTERCEPT = -1024
CT_CENTER, CT_WIDTH = 40, 400  # the soft-tissue window that grey 0 to 255 stands for, in HU
MODALITIES = ("CR", "DX", "CT", "MR", "US", "XC")

_SOP_CLASSES = {
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "US": UltrasoundImageStorage,
    "XC": VLPhotographicImageStorage,
}


@dataclass(frozen=True)
class Scanner:
    """One machine. ``pixel_spacing`` is in mm; ``photometric`` and UIDs are DICOM's."""

    manufacturer: str
    model: str
    modality: str
    pixel_spacing: float
    bits_stored: int
    photometric: str
    transfer_syntax: str
    min_side: int = 0  # smaller images are magnified by a whole factor until they reach it
    burned_in: bool = False

    @property
    def sop_class(self) -> str:
        """The SOP Class UID of its images."""
        return _SOP_CLASSES[self.modality]

    @property
    def bits_allocated(self) -> int:
        """8 or 16."""
        return 8 if self.bits_stored == 8 else 16

    @property
    def top(self) -> int:
        """The largest stored value."""
        return (1 << self.bits_stored) - 1

    def to_json(self) -> dict[str, str | int | float | bool]:
        """Return all fields, for hospitals.json."""
        return asdict(self)


# A JPEG 2000 codestream with the usual five decompositions needs 32 px; text needs 224.
_FLEET = (
    Scanner("Meridian Imaging", "Clarus DR 40", "DX", 0.143, 12, "MONOCHROME2",
            ExplicitVRLittleEndian),
    Scanner("Kestrel Medical", "Sparrow CR", "CR", 0.2, 12, "MONOCHROME1",
            ImplicitVRLittleEndian),
    Scanner("Auron Radiography", "Portable 7", "DX", 0.175, 8, "MONOCHROME2",
            RLELossless, min_side=224, burned_in=True),
    Scanner("Lumen Diagnostics", "PlateReader X", "CR", 0.1, 12, "MONOCHROME2",
            JPEGLSLossless),
    Scanner("Meridian Imaging", "Clarus DR 80", "DX", 0.139, 16, "MONOCHROME2",
            JPEG2000Lossless, min_side=56),
    Scanner("Tern Systems", "Cassette One", "CR", 0.17, 8, "MONOCHROME1",
            DeflatedExplicitVRLittleEndian),
    Scanner("Halden Health", "Fjord DX", "DX", 0.15, 12, "MONOCHROME1",
            JPEGLSLossless),
    Scanner("Kestrel Medical", "Merlin CR", "CR", 0.2, 16, "MONOCHROME2",
            RLELossless),
)  # fmt: skip

_PLAIN = Scanner(
    "Meridian Imaging", "Clarus CR 20", "CR", 0.2, 8, "MONOCHROME2", ExplicitVRLittleEndian
)


def scanner_for(site: int, *, colour: bool, plain: bool, modality: str = "auto") -> Scanner:
    """Return the scanner of site number ``site`` (from 1).

    ``plain``: every site the same, 8-bit, explicit little endian, the pixels exactly the array's.
    ``modality``: ``auto`` is CR and DX for grey, XC (photography) for colour arrays; or one of
    MODALITIES for every site. At most the third site has burned-in text.

    Raises:
        OperatorError: the modality is unknown or cannot hold such images.
    """
    if modality != "auto" and modality not in MODALITIES:
        raise OperatorError(f"modality {modality!r}: needs auto or one of {', '.join(MODALITIES)}")
    chosen = ("XC" if colour else "auto") if modality == "auto" else modality
    if colour and chosen not in {"US", "XC"}:
        raise OperatorError(f"modality {chosen}: cannot hold colour images; use US or XC")
    scanner = _PLAIN if plain else _FLEET[(site - 1) % len(_FLEET)]
    if scanner.burned_in and site > len(_FLEET):
        scanner = replace(scanner, min_side=0, burned_in=False)
    if chosen != "auto":
        scanner = _adapted(scanner, chosen, plain=plain)
    return replace(scanner, photometric="RGB", bits_stored=8) if colour else scanner


def _adapted(scanner: Scanner, modality: str, *, plain: bool) -> Scanner:
    """Return the scanner as one of another modality, within what its IOD allows."""
    scanner = replace(scanner, modality=modality)
    if modality in {"US", "XC"}:
        return replace(scanner, bits_stored=8, photometric="MONOCHROME2")
    if modality == "CT" or (modality == "MR" and not plain):
        return replace(scanner, bits_stored=12, photometric="MONOCHROME2")
    return scanner


def render(image: NDArray[np.uint8], scanner: Scanner, text: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return the image as the detector shows it: magnified, and with ``text`` if it burns in.

    Image and result are uint8 (H, W) or (H, W, 3). Burned-in text stands in a dark band of
    TEXT_BAND rows above the image, in its top left corner; the canvas keeps the aspect ratio.
    """
    factor = -(-scanner.min_side // min(image.shape[:2]))
    if factor > 1:
        size = (image.shape[1] * factor, image.shape[0] * factor)
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    if not scanner.burned_in:
        return image
    rows, columns = image.shape[:2]
    margin = round(TEXT_BAND * columns / rows / 2)
    edges = ((TEXT_BAND, 0), (margin, margin), *((0, 0),) * (image.ndim - 2))
    canvas = Image.fromarray(np.pad(image, edges))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(TEXT_SIZE)
    white = 255 if image.ndim == 2 else (255, 255, 255)
    # Like many consoles, the font has no accents.
    plain = unicodedata.normalize("NFKD", "\n".join(text)).encode("ascii", "ignore").decode()
    draw.multiline_text((2, 0), plain, fill=white, font=font, spacing=1)
    return np.asarray(canvas)


def stored_pixels(image: NDArray[np.uint8], scanner: Scanner) -> NDArray[np.uint8 | np.uint16]:
    """Return the values that the file holds: grey 0 to 255 spread over the scanner's bits.

    The spreading is exact (0 to 0, 255 to the largest value, injective), inverted for
    MONOCHROME1. CT stores HU - CT_INTERCEPT, grey being the window CT_CENTER, CT_WIDTH.
    """
    if scanner.modality == "CT":
        low = CT_CENTER - CT_WIDTH // 2 - CT_INTERCEPT
        return (low + (image.astype(np.uint32) * CT_WIDTH + 127) // 255).astype(np.uint16)
    wide = (image.astype(np.uint32) * scanner.top + 127) // 255
    if scanner.photometric == "MONOCHROME1":
        wide = scanner.top - wide
    return wide.astype(np.uint8 if scanner.bits_allocated == 8 else np.uint16)
