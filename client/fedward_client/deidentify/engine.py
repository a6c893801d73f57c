"""The de-identifier: bytes of a DICOM file in, a clean file or a reason for quarantine out.

It fails closed: an attribute is written only if a rule allows its value, and a file is written only
if its class, its pixels and its identifiers are understood. Input is never modified.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.dataset import Dataset

from fedward_client.deidentify import allowlist
from fedward_client.deidentify.annex_e import build_rules
from fedward_client.deidentify.burned_in import clean_pixels
from fedward_client.deidentify.checks import is_uid, padded
from fedward_client.deidentify.container import Element, Elements, write_file
from fedward_client.deidentify.decoding import PIXEL_DATA
from fedward_client.deidentify.header import HeaderCleaner, Log
from fedward_client.deidentify.heads import BODY_PART, declares_head
from fedward_client.deidentify.luts import settle_tables
from fedward_client.deidentify.marks import marks_of
from fedward_client.deidentify.outcome import (
    Action,
    Cleaned,
    Identifiers,
    Quarantined,
    Reason,
    RefusalError,
)
from fedward_client.deidentify.parsing import parse, silence
from fedward_client.deidentify.pixels import Pixels, check_length, read_pixels
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.pseudonyms import Pseudonyms
from fedward_client.deidentify.reading import text_value
from fedward_client.deidentify.rules import tag_of
from fedward_common.errors import OperatorError
from fedward_common.secret import SecretBytes

_SOP_CLASS, _INSTANCE = tag_of("SOPClassUID"), tag_of("SOPInstanceUID")
_STUDY, _SERIES = tag_of("StudyInstanceUID"), tag_of("SeriesInstanceUID")
_PATIENT_ID, _PATIENT_NAME = tag_of("PatientID"), tag_of("PatientName")
_FACE = tag_of("RecognizableVisualFeatures")

_DIRECTORY = "1.2.840.10008.1.3.10"
"""Media storage directory: an index (a DICOMDIR), which names no class in its data set."""

_log = logging.getLogger(__name__)


class Deidentifier:
    """De-identifies files of one site under one profile. It keeps no state between files.

    Raises:
        OperatorError: the secret is shorter than 32 bytes.
    """

    def __init__(self, secret: SecretBytes, profile: Profile | None = None) -> None:
        self.profile = profile or Profile()
        self.pseudonyms = Pseudonyms(secret)
        rules = build_rules(self.profile, self.pseudonyms)
        keeps_private = self.profile.retain.safe_private
        self._header = HeaderCleaner(rules, keeps_private=keeps_private)
        self._marks = marks_of(self.profile)

    def deidentify(self, source: bytes | Dataset) -> Cleaned | Quarantined:
        """Return the cleaned file, or the reason why ``source`` is not used.

        Raises:
            OperatorError: the profile asks for what is not installed.
        """
        try:
            with _closed():
                return self._clean(parse(source))
        except RefusalError as error:
            return Quarantined(error.reason)

    def inspect(self, source: bytes) -> Identifiers:
        """Return a file's pseudonyms without cleaning it; checks that it is whole.

        Raises:
            RefusalError: broken, or refused by its class or its identifiers.
        """
        with _closed():
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
        log[:] = [entry for entry in log if entry[0] != PIXEL_DATA]  # they are told below
        modality = _text(header, tag_of("Modality"))
        self._check_capture(sop_class, modality)
        if modality in ("CT", "MR") or sop_class in allowlist.CROSS_SECTION_CLASSES:
            self._check_head(source, sop_class, header, log)
        syntax = str(source.file_meta.TransferSyntaxUID)
        pixels, actions = read_pixels(source, header, syntax)
        pixels, more = clean_pixels(pixels, header, sop_class, modality, self.profile)
        log += [(PIXEL_DATA, action) for action in (*actions, *more)]
        self._add_identity(header, identifiers, log)
        settle_tables(header, is_signed=pixels.is_signed)
        _add_pixels(header, pixels)
        data = write_file(header, sop_class, identifiers.instance)
        rows, columns = pixels.values.shape[1:3]
        return Cleaned(data, identifiers, (modality, rows, columns), tuple(log))

    def _check_capture(self, sop_class: str, modality: str) -> None:
        is_capture = sop_class in allowlist.CAPTURE_CLASSES or modality == "SC"
        if is_capture and self.profile.pixels.secondary_capture == "quarantine":
            raise RefusalError(Reason.SECONDARY_CAPTURE)

    def _check_head(
        self, source: Dataset, sop_class: str, header: dict[int, Element], log: Log
    ) -> None:
        """Refuse CT and MR of a declared head, unless declared defaced (PS3.15 E.3.2).

        What declares no region counts as no head; the log warns of it. A class may declare one.
        """
        is_head = sop_class in allowlist.HEAD_CLASSES or declares_head(source)
        if is_head is None:
            log.append((BODY_PART, Action.NO_REGION))
        if not is_head:
            return
        is_defaced = text_value(source, _FACE) == "NO"
        if not is_defaced and self.profile.pixels.head_ct_mr == "quarantine":
            raise RefusalError(Reason.HEAD)
        header[_FACE] = ("CS", padded("NO" if is_defaced else "YES", "CS"))
        log.append((_FACE, Action.ADDED))

    def _add_identity(self, header: dict[int, Element], identifiers: Identifiers, log: Log) -> None:
        who = identifiers
        header[_PATIENT_ID] = ("LO", padded(who.patient, "LO"))
        header[_PATIENT_NAME] = ("PN", padded(who.patient, "PN"))
        for tag, uid in ((_STUDY, who.study), (_SERIES, who.series), (_INSTANCE, who.instance)):
            header[tag] = ("UI", padded(uid, "UI"))
        log += [(_PATIENT_ID, Action.PSEUDONYM), (_PATIENT_NAME, Action.PSEUDONYM)]
        header.update(self._marks)
        log += [(tag, Action.ADDED) for tag in self._marks]


@contextmanager
def _closed() -> Iterator[None]:
    """Refuse the file for whatever is raised: one file must not stop the others."""
    try:
        with silence():
            yield
    except (OperatorError, RefusalError):
        raise
    except Exception as error:
        _log.warning("a file cannot be cleaned: %s", type(error).__name__)  # its text may quote it
        raise RefusalError(Reason.FAILED) from error


def _known_class(source: Dataset) -> str:
    sop_class = text_value(source, _SOP_CLASS)
    if sop_class.startswith(allowlist.DOCUMENT_CLASSES):
        raise RefusalError(Reason.ENCAPSULATED_DOCUMENT)
    if not sop_class and source.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
        raise RefusalError(Reason.UNKNOWN_SOP_CLASS)  # whatever the file is called
    if not sop_class:
        raise RefusalError(Reason.NO_UID)
    if sop_class not in allowlist.IMAGE_CLASSES:
        raise RefusalError(Reason.UNKNOWN_SOP_CLASS)
    return sop_class


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
