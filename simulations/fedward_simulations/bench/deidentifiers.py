"""Those who take part in ``bench deid``: each reads a file, cleans its header and writes it.

Peers run through the call that their documentation shows, with their defaults. None of them looks
at pixels as they are called here; ours is measured without and with its text finder.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pydicom

from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Cleaned
from fedward_client.deidentify.profile import PixelRules, Profile
from fedward_common.errors import MisuseError
from fedward_common.secret import SecretBytes

HEADER, FULL = "fedward, header", "fedward, header and pixels"
PYDICOM, COPY = "pydicom read + write", "copy"
PEERS = {"dicognito": "dicognito", "dicom-anonymizer": "dicomanonymizer", "deid": "deid"}
"""Distribution -> package."""

EXTRA = "pip install fedward[bench]"

Clean = Callable[[Path, Path], None]
"""Reads the first path and writes the second."""


@dataclass(frozen=True)
class Contender:
    """One way of cleaning a file; ``clean`` is None with a reason if it cannot take part."""

    name: str
    clean: Clean | None
    reason: str = ""


def contenders(*, peers: bool) -> list[Contender]:
    """Everyone, ours first. A peer that cannot be imported is in the list with its reason."""
    ours = [Contender(HEADER, fedward(header_profile())), Contender(FULL, fedward(Profile()))]
    makers = {"dicognito": _dicognito, "dicom-anonymizer": _dicom_anonymizer, "deid": _deid}
    others = [_peer(name, make) for name, make in makers.items()] if peers else []
    return [*ours, *others, Contender(PYDICOM, _pydicom), Contender(COPY, _copy)]


def header_profile() -> Profile:
    """The default profile without the search for burned-in text: what peers do."""
    return Profile(pixels=PixelRules(text="off"))


def fedward(profile: Profile) -> Clean:
    """Our de-identifier under ``profile`` and a key of no importance."""
    engine = Deidentifier(SecretBytes(bytes(range(32))), profile)

    def clean(source: Path, target: Path) -> None:
        outcome = engine.deidentify(source.read_bytes())
        if not isinstance(outcome, Cleaned):
            raise MisuseError(f"bench deid: a slice was refused: {outcome.reason}")
        target.write_bytes(outcome.data)

    return clean


def _peer(name: str, make: Callable[[], Clean]) -> Contender:
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # deprecations in the peers
    try:
        with redirect_stdout(StringIO()):
            importlib.import_module(PEERS[name])
            return Contender(name, make())
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == PEERS[name]
        reason = "not installed" if missing else "cannot be imported"
        return Contender(name, None, f"{reason}: {EXTRA}")


def _dicognito() -> Clean:
    anonymizer: Any = importlib.import_module("dicognito.anonymizer").Anonymizer()

    def clean(source: Path, target: Path) -> None:
        with pydicom.dcmread(source) as dataset:
            anonymizer.anonymize(dataset)
            dataset.save_as(target)

    return clean


def _dicom_anonymizer() -> Clean:
    package: Any = importlib.import_module("dicomanonymizer")

    def clean(source: Path, target: Path) -> None:
        package.anonymize_dicom_file(str(source), str(target))

    return clean


def _deid() -> Clean:
    os.environ.setdefault("MESSAGELEVEL", "QUIET")  # it prints a line a file otherwise
    package: Any = importlib.import_module("deid.dicom")
    recipe: Any = importlib.import_module("deid.config").DeidRecipe()
    logging.getLogger("deid").setLevel(logging.CRITICAL)

    def clean(source: Path, target: Path) -> None:
        package.replace_identifiers(
            dicom_files=[str(source)],
            deid=recipe,
            save=True,
            overwrite=True,
            output_folder=str(target.parent),
        )

    return clean


def _pydicom(source: Path, target: Path) -> None:
    pydicom.dcmread(source).save_as(target)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
