"""Coded entries (PS3.3 8.8): a code is kept if a public scheme knows it, with the public meaning.

Schemes and meanings are those of the context groups of PS3.16, as pydicom ships them (DCM, SCT,
UCUM and others). What a file itself calls a code is never written, so a name or a number of the
hospital cannot pass for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydicom.dataset import Dataset

from fedward_client.deidentify.checks import padded
from fedward_client.deidentify.container import Elements
from fedward_client.deidentify.reading import text_value

CODE_VALUE, SCHEME, MEANING = 0x00080100, 0x00080102, 0x00080104
_MAX_CODE, _MAX_MEANING = 16, 64


@cache
def _meanings() -> Mapping[tuple[str, str], str]:
    from pydicom.sr.codedict import codes  # noqa: PLC0415  large, and needed for few files

    return {
        (code.scheme_designator, code.value): code.meaning
        for scheme in codes.schemes()
        for code in getattr(codes, scheme).concepts.values()
        if len(code.value) <= _MAX_CODE and code.value.isascii() and code.meaning.isascii()
    }


def public_code(item: Dataset) -> Elements:
    """Return the coded entry of ``item`` with its public meaning; nothing if it is not public."""
    return code_element(item, _meanings())


def public_meaning(item: Dataset) -> str:
    """Return what the public scheme calls the code of ``item``; "" if it is not public."""
    return _meanings().get((text_value(item, SCHEME), text_value(item, CODE_VALUE)), "")


def code_element(item: Dataset, meanings: Mapping[tuple[str, str], str]) -> Elements:
    """Return the coded entry of ``item`` if ``meanings`` (scheme, code -> meaning) lists it."""
    scheme, code = text_value(item, SCHEME), text_value(item, CODE_VALUE)
    meaning = meanings.get((scheme, code))
    return {} if meaning is None else _coded(code, scheme, meaning)


def own_code(item: Dataset) -> Elements:
    """Return the coded entry of ``item`` as the hospital wrote it, if it is plain text.

    For the codes that an option says to keep: they name a station or an institution.
    """
    parts = [text_value(item, tag)[:_MAX_MEANING] for tag in (CODE_VALUE, SCHEME, MEANING)]
    code, scheme, meaning = parts
    fits = len(code) <= _MAX_CODE and len(scheme) <= _MAX_CODE
    plain = all(part.isascii() and part.isprintable() and "\\" not in part for part in parts)
    return _coded(code, scheme, meaning) if code and fits and plain else {}


def _coded(code: str, scheme: str, meaning: str) -> Elements:
    return {
        CODE_VALUE: ("SH", padded(code, "SH")),
        SCHEME: ("SH", padded(scheme, "SH")),
        MEANING: ("LO", padded(meaning[:_MAX_MEANING], "LO")),
    }
