"""Which files below a folder are taken for DICOM.

A file counts if it has DICOM's magic word, or a name that promises DICOM: then it must be readable.
Anything else (a labels file, a note) is ignored and counted. DICOMDIR is an index, not an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedward_common.errors import OperatorError

_SUFFIXES = frozenset((".dcm", ".dicom", ".ima"))
_MAGIC_AT = 128


@dataclass(frozen=True)
class Found:
    """DICOM files in a fixed order, and how many other files were passed over."""

    files: tuple[Path, ...]
    ignored: int


def find_files(path: Path) -> Found:
    """Return the DICOM files at or below ``path``; folder links are not followed.

    Raises:
        OperatorError: the path does not exist, cannot be read, or holds no DICOM file.
    """
    if not path.exists():
        raise OperatorError(f"{path}: does not exist; give a DICOM file or a folder of them")
    files: list[Path] = []
    ignored = 0
    for file in [path] if path.is_file() else _walk(path):
        if file.name.upper() != "DICOMDIR" and _is_dicom(file):
            files.append(file)
        else:
            ignored += 1
    if not files:
        raise OperatorError(f"{path}: holds no DICOM file; give another folder")
    return Found(tuple(files), ignored)


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, onerror=_refuse):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names))


def _refuse(error: OSError) -> None:
    raise OperatorError(f"{error.filename}: cannot be read; check its rights") from error


def _is_dicom(file: Path) -> bool:
    promised = file.suffix.lower() in _SUFFIXES
    try:
        if not file.is_file():  # reading a pipe or a device may never end
            if promised:
                raise OperatorError(f"{file}: is not a file; remove it")
            return False
        if promised:
            return True
        with file.open("rb") as stream:
            return stream.read(_MAGIC_AT + 4)[_MAGIC_AT:] == b"DICM"
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read; check its rights") from error
