"""The de-identifier: bytes of a DICOM file in, a clean file or a reason for quarantine out.

It fails closed: an attribute is written only if a rule allows its value, and a file is written only
if its class, its pixels and its identifiers are understood. Input is never modified.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from fedward_client.deidentify import allowlist
from fedward_client.deidentify.burned_in import clean_pixels
from fedward_client.deidentify.checks import is_uid, padded
from fedward_client.deidentify.container import Element, Elements, write_file
from fedward_client.deidentify.decoding import PIXEL_DATA
from fedward_client.deidentify.header import HeaderCleaner, Log, text_value
from fedward_client.deidentify.outcome import (
    Action,
    Cleaned,
    Identifiers,
    Quarantined,
    Reason,
    RefusalError,
)
from fedward_client.deidentify.pixels import Pixels, check_length, read_pixels
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.pseudonyms import Pseudonyms
from fedward_client.deidentify.rules import build_rules, tag_of
from fedward_common.secret import SecretBytes

METHOD = "fedward 0.1: allow-list after PS3.15 E.1"
_SOP_CLASS, _INSTANCE = tag_of("SOPClassUID"), tag_of("SOPInstanceUID")
_STUDY, _SERIES = tag_of("StudyInstanceUID"), tag_of("SeriesInstanceUID")
_PATIENT_ID, _PATIENT_NAME = tag_of("PatientID"), tag_of("PatientName")
_OPTION_CODES = {
    "uids": ("113110", "Retain UIDs Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
    "patient": ("113108", "Retain Patient Characteristics Option"),
    "dates-full": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "dates-modified": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
}


class Deidentifier:
    """De-identifies files of one site under one profile. It keeps no state between files.

    Raises:
        OperatorError: the secret is shorter than 32 bytes.
    """

    def __init__(self, secret: SecretBytes, profile: Profile | None = None) -> None:
        self.profile = profile or Profile()
        self.pseudonyms = Pseudonyms(secret)
        self._header = HeaderCleaner(build_rules(self.profile, self.pseudonyms))

    def deidentify(self, source: bytes | Dataset) -> Cleaned | Quarantined:
        """Return the cleaned file, or the reason why ``source`` is not used."""
        try:
            with _silence():
                return self._clean(parse(source))
        except RefusalError as error:
            return Quarantined(error.reason)

    def inspect(self, source: bytes) -> Identifiers:
        """Return a file's pseudonyms without cleaning it; checks that it is whole.

        Raises:
            RefusalError: broken, or refused by its class or its identifiers.
        """
        with _silence():
            parsed = parse(source)
            _known_class(parsed)
            identifiers, _ = self._identify(parsed)
            check_length(parsed, str(parsed.file_meta.TransferSyntaxUID))
            return identifiers

    def pseudonym(self, level: str, identifier: str) -> str:
        """Return the pseudonym of an original identifier of a patient, study or instance."""
        if level == "patient":
            return self.pseudonyms.patient(identifier)
        return identifier if self.profile.retain.uids else self.pseudonyms.uid(identifier)

    def _identify(self, source: Dataset) -> tuple[Identifiers, str]:
        """Return the pseudonyms of a parsed file, and whose time shift applies to it."""
        study, series = text_value(source, _STUDY), text_value(source, _SERIES)
        instance, patient = text_value(source, _INSTANCE), text_value(source, _PATIENT_ID)
        if not all(is_uid(uid) for uid in (study, series, instance)):
            raise RefusalError(Reason.NO_UID)
        if not patient:
            if self.profile.missing_patient_id == "quarantine":
                raise RefusalError(Reason.NO_PATIENT_ID)
            patient = f"study {study}"
        uid = str if self.profile.retain.uids else self.pseudonyms.uid
        return (
            Identifiers(self.pseudonyms.patient(patient), uid(study), uid(series), uid(instance)),
            patient,
        )

    def _clean(self, source: Dataset) -> Cleaned:
        sop_class = _known_class(source)
        identifiers, patient = self._identify(source)
        log: Log = []
        header = self._header.clean(source, self.pseudonyms.shift_seconds(patient), log)
        modality = _text(header, tag_of("Modality"))
        self._check_policy(header, sop_class, modality)
        syntax = str(source.file_meta.TransferSyntaxUID)
        pixels, actions = read_pixels(source, header, syntax)
        pixels, more = clean_pixels(pixels, header, sop_class, modality, self.profile)
        log += [(PIXEL_DATA, action) for action in (*actions, *more)]
        self._add_identity(header, identifiers, log)
        _add_pixels(header, pixels)
        data = write_file(header, sop_class, identifiers.instance)
        return Cleaned(data, identifiers, modality, tuple(log))

    def _check_policy(self, header: Elements, sop_class: str, modality: str) -> None:
        rules = self.profile.pixels
        is_capture = sop_class.startswith(allowlist.SECONDARY_CAPTURE_CLASSES) or modality == "SC"
        if is_capture and rules.secondary_capture == "quarantine":
            raise RefusalError(Reason.SECONDARY_CAPTURE)
        shows_face = modality in ("CT", "MR") and _is_head(header)
        if shows_face and rules.head_ct_mr == "quarantine":
            raise RefusalError(Reason.HEAD)

    def _add_identity(self, header: dict[int, Element], identifiers: Identifiers, log: Log) -> None:
        who = identifiers
        header[_PATIENT_ID] = ("LO", padded(who.patient, "LO"))
        header[_PATIENT_NAME] = ("PN", padded(who.patient, "PN"))
        for tag, uid in ((_STUDY, who.study), (_SERIES, who.series), (_INSTANCE, who.instance)):
            header[tag] = ("UI", padded(uid, "UI"))
        log += [(_PATIENT_ID, Action.PSEUDONYM), (_PATIENT_NAME, Action.PSEUDONYM)]
        dates = {"none": "REMOVED", "modified": "MODIFIED", "full": "UNMODIFIED"}
        marks: dict[int, Element] = {
            0x00120062: ("CS", padded("YES", "CS")),
            0x00120063: ("LO", padded(METHOD, "LO")),
            0x00120064: ("SQ", self._method_codes()),
            0x00280301: ("CS", padded("NO", "CS")),
            0x00280303: ("CS", padded(dates[self.profile.retain.dates], "CS")),
        }
        header.update(marks)
        log += [(tag, Action.ADDED) for tag in marks]

    def _method_codes(self) -> list[Elements]:
        always = (
            ("113100", "Basic Application Confidentiality Profile"),
            ("113101", "Clean Pixel Data Option"),
            ("113103", "Clean Graphics Option"),
        )
        chosen = (_OPTION_CODES[option] for option in sorted(self.profile.options))
        return [
            {
                0x00080100: ("SH", padded(code, "SH")),
                0x00080102: ("SH", padded("DCM", "SH")),
                0x00080104: ("LO", padded(meaning, "LO")),
            }
            for code, meaning in (*always, *chosen)
        ]


def parse(source: bytes | Dataset) -> Dataset:
    """Parse a DICOM file; a data set is encoded first, so that both take the same path.

    Raises:
        RefusalError: not DICOM, malformed or truncated.
    """
    try:
        if isinstance(source, Dataset):
            buffer = BytesIO()
            dcmwrite(buffer, source, enforce_file_format=True)
            source = buffer.getvalue()
        parsed = dcmread(BytesIO(source))
    except InvalidDicomError as error:
        raise RefusalError(Reason.NOT_DICOM) from error
    except (EOFError, zlib.error) as error:
        raise RefusalError(Reason.TRUNCATED) from error
    except Exception as error:  # a parser may raise anything on hostile bytes
        raise RefusalError(Reason.MALFORMED) from error
    if "TransferSyntaxUID" not in parsed.file_meta:
        raise RefusalError(Reason.MALFORMED)
    return parsed


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the parser: its warnings and its log quote the values that they complain about."""
    logger = logging.getLogger("pydicom")
    was_disabled = logger.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = was_disabled


def _known_class(source: Dataset) -> str:
    sop_class = text_value(source, _SOP_CLASS)
    if sop_class.startswith(allowlist.DOCUMENT_CLASSES):
        raise RefusalError(Reason.ENCAPSULATED_DOCUMENT)
    if not sop_class:
        raise RefusalError(Reason.NO_UID)
    if sop_class not in allowlist.IMAGE_CLASSES:
        raise RefusalError(Reason.UNKNOWN_SOP_CLASS)
    return sop_class


def _is_head(header: Elements) -> bool:
    if _text(header, tag_of("BodyPartExamined")) in allowlist.HEAD_PARTS:
        return True
    _, items = header.get(tag_of("AnatomicRegionSequence"), ("SQ", []))
    return not isinstance(items, bytes) and any(
        _text(item, 0x00080104) in allowlist.HEAD_MEANINGS for item in items
    )


def _text(elements: Elements, tag: int) -> str:
    _, value = elements.get(tag, ("", b""))
    return value.decode("ascii").strip(" \0") if isinstance(value, bytes) else ""


def _add_pixels(header: dict[int, Element], pixels: Pixels) -> None:
    frames, rows, columns, samples = pixels.values.shape
    allocated = 8 * pixels.values.itemsize
    numbers = {
        "SamplesPerPixel": samples, "Rows": rows, "Columns": columns, "BitsAllocated": allocated,
        "BitsStored": pixels.bits, "HighBit": pixels.bits - 1,
        "PixelRepresentation": int(pixels.is_signed),
    }  # fmt: skip
    for keyword, number in numbers.items():
        header[tag_of(keyword)] = ("US", struct.pack("<H", number))
    photometric = tag_of("PhotometricInterpretation")
    header[photometric] = ("CS", padded(pixels.photometric, "CS"))
    header.pop(tag_of("PlanarConfiguration"), None)
    if samples > 1:
        header[tag_of("PlanarConfiguration")] = ("US", b"\0\0")
    padding = tag_of("PixelPaddingValue")
    if padding in header:
        header[padding] = ("SS" if pixels.is_signed else "US", header[padding][1])
    if frames > 1:
        header[tag_of("NumberOfFrames")] = ("IS", padded(str(frames), "IS"))
    kind = "OW" if allocated > 8 else "OB"
    header[PIXEL_DATA] = (kind, pixels.values.tobytes())
