"""Invented patients: what a real header says about a person, planted so that a leak is seen.

Everything is a function of (seed, site, patient number); no such person exists. Each text that
identifies a patient carries that patient's token, ``ZQXV`` and six letters or digits, so a test
greps any output for ``TOKEN_PATTERN``; the site's own staff and institution carry a token too.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

TOKEN_PREFIX = "ZQXV"  # noqa: S105 (a mark to search for, not a password)
TOKEN_PATTERN = rf"{TOKEN_PREFIX}[A-Z2-7]{{6}}"

_FAMILIES = (
    "Abernathy", "Adeyemi", "Bergström", "Castellanos", "Delacroix", "Eriksen", "Fontaine",
    "Grünwald", "Haddad", "Ivanova", "Jiménez", "Kowalczyk", "Lindqvist", "Mbeki", "Núñez",
    "Okonkwo", "Petrescu", "Quispe", "Rasmussen", "Szabó", "Takahashi", "Ulrich", "Vasquez",
    "Whitfield", "Xu", "Yilmaz", "Zimmermann",
)  # fmt: skip
_GIVEN = (
    "Amara", "Beatriz", "Chinwe", "Dmitri", "Elif", "Farida", "Giorgio", "Hanna", "Ingrid",
    "Joaquín", "Katarzyna", "Leïla", "Mateo", "Noor", "Olga", "Priya", "Quentin", "Rosa",
    "Sven", "Teodora", "Umberto", "Viktor", "Wanda", "Yusuf", "Zoë",
)  # fmt: skip
_STREETS = ("Mill Lane", "Rue des Lilas", "Ahornweg", "Calle Mayor", "Harbour Road", "Storgata")
_TOWNS = ("Eastmere", "Valbruna", "Norrvik", "Saint-Orens", "Kirchfeld", "Puerto Claro")
_FINDINGS = (
    "presents with cough and fever for three days",
    "was referred for follow-up of an earlier radiograph",
    "was seen in the emergency department with dyspnoea",
    "is known to this department, compare with prior study",
)


@dataclass(frozen=True)
class Institution:
    """A hospital and the people who work there. All strings fit DICOM's LO, ST or PN."""

    name: str
    address: str
    department: str
    operator: str
    performing_physician: str
    device_serial: str


@dataclass(frozen=True)
class Identity:
    """One invented patient. Dates are DICOM DA (YYYYMMDD); names are PN (Family^Given)."""

    token: str
    name: str
    spoken_name: str
    patient_id: str
    birth_date: dt.date
    sex: str
    address: str
    telephone: str
    referring_physician: str
    comment: str

    def accession(self, study: int) -> str:
        """Return the accession number (SH, at most 16 characters) of the patient's study."""
        return f"{self.token}-{study:03d}"

    def study_moment(self, study: int) -> dt.datetime:
        """Return when the patient's study took place: from 2019 on, a later study later."""
        draw = _draw("study", self.token)
        first = dt.datetime(2019, 1, 1, 7, 0)  # noqa: DTZ001 (DICOM's local time)
        return first + dt.timedelta(
            days=draw % 1700 + 11 * study, seconds=(draw >> 16) % (12 * 3600)
        )


def institution(seed: int, site: int) -> Institution:
    """Return the invented hospital of site number ``site`` (from 1)."""
    draw = _draw("institution", seed, site)
    token = _token("institution", seed, site)
    town = _pick(_TOWNS, draw)
    return Institution(
        name=f"{town} General Hospital {token}",
        address=f"{draw % 90 + 1} {_pick(_STREETS, draw >> 8)}, {town}, {token}",
        department=f"Radiology {token}",
        operator=_person(draw >> 16, token),
        performing_physician=_person(draw >> 32, token),
        device_serial=f"SN-{token}",
    )


def identity(seed: int, site: int, number: int) -> Identity:
    """Return the invented patient ``number`` (from 0) of site ``site`` (from 1)."""
    draw = _draw("patient", seed, site, number)
    token = _token("patient", seed, site, number)
    family, given = _pick(_FAMILIES, draw), _pick(_GIVEN, draw >> 8)
    spoken = f"{given} {family} {token}"
    patient_id = f"{site:03d}{number:06d}-{token}"
    physician = _person(draw >> 64, token)
    return Identity(
        token=token,
        name=f"{family} {token}^{given}",
        spoken_name=spoken,
        patient_id=patient_id,
        birth_date=dt.date(1930, 1, 1) + dt.timedelta(days=(draw >> 16) % 27_000),
        sex="FM"[(draw >> 32) % 2],
        address=f"{draw % 150 + 1} {_pick(_STREETS, draw >> 40)}, {_pick(_TOWNS, draw >> 48)},"
        f" {token}",
        telephone=f"{draw % 100_000:05d}-{token}",
        referring_physician=physician,
        comment=f"{spoken} (MRN {patient_id}) {_pick(_FINDINGS, draw >> 56)};"
        f" referred by {physician.replace('^', ' ')}.",
    )


def _person(draw: int, token: str) -> str:
    return f"{_pick(_FAMILIES, draw)} {token}^{_pick(_GIVEN, draw >> 8)}^^Dr"


def _pick(choices: Sequence[str], draw: int) -> str:
    return choices[(draw & 0xFFFF) % len(choices)]


def _draw(*key: str | int) -> int:
    """Return 256 bits that are a function of the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest(), "big")


def _token(*key: str | int) -> str:
    digest = hashlib.sha256(repr(("token", *key)).encode()).digest()
    return TOKEN_PREFIX + base64.b32encode(digest)[:6].decode()
