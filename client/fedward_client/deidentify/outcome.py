"""What became of a file: cleaned, or quarantined for a reason. Nothing is silently lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fedward_common.errors import FedwardError


class Reason(StrEnum):
    """Why a file is not used."""

    NOT_DICOM = "not a DICOM file"
    MALFORMED = "malformed DICOM"
    TRUNCATED = "truncated DICOM"
    NO_PATIENT_ID = "no patient identifier"
    NO_UID = "a study, series or instance UID is missing or malformed"
    UNKNOWN_SOP_CLASS = "SOP class is not an image class that fedward can clean"
    TOO_MANY = "more attributes than an image has"
    ENCAPSULATED_DOCUMENT = "encapsulated document"
    NO_PIXELS = "no pixel data"
    UNSUPPORTED_PIXELS = "pixel description that fedward cannot clean"
    UNDECODABLE_PIXELS = "pixel data cannot be decoded"
    TOO_LARGE = "more data than the size limit allows"
    SECONDARY_CAPTURE = "secondary capture, refused by the profile"
    NO_ULTRASOUND_REGIONS = "ultrasound without declared regions, refused by the profile"
    BURNED_IN_TEXT = "burned-in text"
    PAGE = "a page of text rather than an image"
    EXHAUSTED = "more time or memory to decode it than there was"
    FAILED = "cleaning it failed: an error within fedward, or no memory"
    HEAD = "head CT or MR, refused by the profile: a face can be rendered from it"

    @property
    def is_broken_file(self) -> bool:
        """True if the bytes are unreadable, rather than their content refused."""
        return self in _BROKEN

    @property
    def is_passing(self) -> bool:
        """True if the same file may well be used another time: nothing to remember."""
        return self in (Reason.EXHAUSTED, Reason.FAILED)


_BROKEN = (
    Reason.NOT_DICOM, Reason.MALFORMED, Reason.TRUNCATED, Reason.NO_UID, Reason.NO_PIXELS,
)  # fmt: skip


class Action(StrEnum):
    """What one rule did to one attribute or to the pixels. The log never holds a value."""

    KEPT = "kept"
    REMOVED = "removed"
    INVALID = "removed: not a plausible value"
    EMPTIED = "emptied"
    DUMMY = "replaced by a dummy"
    PSEUDONYM = "replaced by a keyed pseudonym"
    UID = "replaced by a keyed UID"
    SHIFTED = "shifted in time"
    CLEANED = "cleaned: public words, codes and numbers kept"
    ADDED = "added"
    DECODED = "pixels decoded"
    TRIMMED = "pixel data trimmed"
    HIGH_BITS = "unused bits cleared"
    REGIONS = "pixels outside the declared regions blanked"
    MASKED = "pixels masked by the profile"
    TEXT = "burned-in text blanked"
    NO_REGION = "no body region declared: taken as not a head"


@dataclass(frozen=True)
class Identifiers:
    """The keyed pseudonyms of one instance: all that links it to its patient from now on."""

    patient: str
    study: str
    series: str
    instance: str


@dataclass(frozen=True)
class Cleaned:
    """A rebuilt DICOM file (``data``), its pseudonyms and what was done, by tag.

    ``layout``: modality, rows and columns, by which a profile's masks are found.
    """

    data: bytes
    identifiers: Identifiers
    layout: tuple[str, int, int]
    log: tuple[tuple[int, Action], ...]

    @property
    def modality(self) -> str:
        """The file's modality, "" if it names none that the standard knows."""
        return self.layout[0]

    @property
    def counts(self) -> Mapping[Action, int]:
        """How often each action was taken."""
        return Counter(action for _, action in self.log)


@dataclass(frozen=True)
class Quarantined:
    """The file is not used, and why."""

    reason: Reason


class RefusalError(FedwardError):
    """Raised inside the de-identifier to quarantine the file at hand."""

    exit_code = 2

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(str(reason))
