"""The de-identification profile: a small TOML file; every default is the careful choice."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedward_client.deidentify.allowlist import MODALITIES
from fedward_client.deidentify.table import Options
from fedward_common.errors import OperatorError

Pixel = Annotated[int, Field(ge=0, le=65_535)]
Rectangle = tuple[Pixel, Pixel, Pixel, Pixel]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Retain(_Section):
    """The options of PS3.15 Annex E.3 that keep more than the basic profile does."""

    uids: bool = False
    device: bool = False
    institution: bool = False
    patient_characteristics: bool = False
    safe_private: bool = False
    dates: Literal["none", "modified", "full"] = "modified"


class Clean(_Section):
    """The options of PS3.15 Annex E.3 that clean what the basic profile removes.

    ``descriptors``: texts of public words stay. ``structured_content``: content items of public
    codes, numbers and words stay. ``graphics``: ``geometry`` keeps simple shapes without any text.
    """

    descriptors: bool = False
    structured_content: bool = False
    graphics: Literal["remove", "geometry"] = "remove"


class PixelRules(_Section):
    """Clean Pixel Data (PS3.15 E.3.1). BurnedInAnnotation is never trusted.

    ``text``: what happens to text that the finder sees. ``ocr``: whether the trained detector of
    the extra ocr looks too; ``auto`` if it is installed. ``secondary_capture``: screens and scans
    may show anything, so ``mask`` (text finder and masks) has to be asked for.
    """

    text: Literal["mask", "quarantine", "off"] = "mask"
    ocr: Literal["auto", "on", "off"] = "auto"
    secondary_capture: Literal["quarantine", "mask"] = "quarantine"
    ultrasound_without_regions: Literal["quarantine", "mask"] = "quarantine"
    head_ct_mr: Literal["quarantine", "keep"] = "quarantine"


class Mask(_Section):
    """Rectangles (x0, y0, x1, y1; x1 and y1 excluded) blanked in every image of a layout.

    ``modality`` is a defined term (PS3.3 C.7.3.1.1.1), or "" for files that name none.
    """

    modality: str
    rows: Pixel
    columns: Pixel
    rectangles: Annotated[tuple[Rectangle, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _blanks_something(self) -> Self:
        if self.modality and self.modality not in MODALITIES:
            raise ValueError("modality: no image has it; write a term of the standard, such as US")
        for x0, y0, x1, y1 in self.rectangles:
            if not (x0 < x1 and y0 < y1 and x0 < self.columns and y0 < self.rows):
                raise ValueError(
                    f"rectangle {x0}, {y0}, {x1}, {y1} blanks nothing; it needs x0 < x1, y0 < y1 "
                    "and a corner within rows and columns"
                )
        return self


class Profile(_Section):
    """What is kept, what is blanked, what is refused.

    ``missing_patient_id``: without an identifier nobody knows whose image it is, and privacy is
    counted per patient; ``study`` takes each study for a patient of its own.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    missing_patient_id: Literal["quarantine", "study"] = "quarantine"
    retain: Retain = Retain()
    clean: Clean = Clean()
    pixels: PixelRules = PixelRules()
    mask: tuple[Mask, ...] = ()

    @classmethod
    def for_local_training(cls) -> Self:
        """Return the profile of a site's own vault, which is encrypted and never released.

        Head CT and MR are kept; secondary captures are kept after the text finder and the masks.
        """
        pixels = PixelRules(head_ct_mr="keep", secondary_capture="mask")
        return cls(pixels=pixels)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a profile file.

        Raises:
            OperatorError: unreadable, not TOML, or a key or value that is not allowed.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"{path}: cannot read the profile; check the path") from error
        except tomllib.TOMLDecodeError as error:
            raise OperatorError(f"{path}: not TOML; {error}") from error
        except ValidationError as error:
            raise OperatorError(f"{path}: {_problems(error)}") from error

    @property
    def options(self) -> Options:
        """The columns of table E.1-1 in force."""
        flags = {
            "uids": self.retain.uids,
            "device": self.retain.device,
            "institution": self.retain.institution,
            "patient": self.retain.patient_characteristics,
            "dates-full": self.retain.dates == "full",
            "dates-modified": self.retain.dates == "modified",
            "descriptors": self.clean.descriptors,
            "structured": self.clean.structured_content,
            "graphics": self.clean.graphics == "geometry",
            "private": self.retain.safe_private,
        }
        return frozenset(name for name, wanted in flags.items() if wanted)


def _problems(error: ValidationError) -> str:
    found = (f"{'.'.join(map(str, e['loc']))}: {_uncapitalised(e['msg'])}" for e in error.errors())
    return "; ".join(found)


def _uncapitalised(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
