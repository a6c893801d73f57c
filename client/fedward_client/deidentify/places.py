"""Where a release reads and writes: folders that must not overlap, and papers that must not leak.

``OUT`` belongs to one call at a time and fills only at its end: files grow in a hidden folder
within it, so that the last rename never crosses a file system.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedward_common.errors import OperatorError

STAGING = ".fedward-unfinished"
LOCK = ".fedward-lock"


@dataclass(frozen=True)
class Papers:
    """What is written beside a release for its operator alone, mode 0600; None: not asked for.

    ``report``: a JSON line for every input file. ``sheet``: a PNG of what was blanked. ``audit``: a
    JSON line for every rule, action and tag, with how often; it holds no value and no name.
    """

    report: Path | None = None
    sheet: Path | None = None
    audit: Path | None = None

    def named(self) -> dict[str, Path]:
        """Those that are asked for, by what they are called."""
        named = {"report": self.report, "contact sheet": self.sheet, "audit": self.audit}
        return {name: path for name, path in named.items() if path is not None}


def check_places(source: Path, out: Path) -> None:
    """Refuse an input that is not there, and an output that overlaps it or is in use.

    Raises:
        OperatorError: naming the path and what to choose instead.
    """
    if not source.exists():
        raise OperatorError(f"{source}: does not exist; give a DICOM file or a folder of them")
    inner, outer = out.resolve(), source.resolve()
    if inner == outer or inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise OperatorError(f"{out}: overlaps the input; choose a folder outside {source}")
    if out.exists() and not out.is_dir():
        raise OperatorError(f"{out}: is a file; choose a new folder")
    if out.exists():
        _refuse_full(out)


def _refuse_full(out: Path) -> None:
    if any(entry.name not in (STAGING, LOCK) for entry in out.iterdir()):
        raise OperatorError(f"{out}: is not empty; choose a new folder")


def check_papers(source: Path, out: Path, papers: Papers, keep: Sequence[Path]) -> None:
    """Refuse papers that would be released, or replace what is needed (``keep``, the input).

    Raises:
        OperatorError: naming the path and what to choose instead.
    """
    taken = {path.resolve() for path in keep}
    for name, path in papers.named().items():
        place = path.resolve()
        if place.is_relative_to(out.resolve()):
            raise OperatorError(f"{path}: the {name} is for your eyes only: not in {out}")
        if place.is_relative_to(source.resolve()):
            raise OperatorError(f"{path}: the {name} would lie in the input; choose another place")
        if place in taken:
            raise OperatorError(f"{path}: given for the {name} and for something else; choose two")
        if path.exists() and not path.is_file():
            raise OperatorError(f"{path}: is not a file; choose a new one for the {name}")
        taken.add(place)


def find_all(source: Path) -> list[Path]:
    """Return every file at or below ``source``, in a fixed order; folder links are not followed.

    Raises:
        OperatorError: there is none, or a folder cannot be read.
    """
    files = [source] if source.is_file() else list(_walk(source))
    if not files:
        raise OperatorError(f"{source}: holds no file; give another folder")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, onerror=_refuse):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names))


def _refuse(error: OSError) -> None:
    raise OperatorError(f"{error.filename}: cannot be read; check its rights") from error


@contextmanager
def reserved(out: Path) -> Iterator[None]:
    """Keep other calls out of ``out`` until this one is done.

    Raises:
        OperatorError: one is at work there, or has filled it meanwhile.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperatorError(
                f"{out}: another call is writing there; choose a new folder"
            ) from error
        try:
            _refuse_full(out)
            yield
        finally:
            (out / LOCK).unlink(missing_ok=True)


def staging(out: Path) -> Path:
    """A fresh hidden folder within ``out``: a later rename never crosses a file system."""
    folder = out / STAGING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish(out: Path) -> None:
    """Move what has grown in the hidden folder to where it is looked for."""
    for entry in sorted((out / STAGING).iterdir()):
        entry.rename(out / entry.name)
    (out / STAGING).rmdir()


def empty(out: Path) -> None:
    """Take back everything that was written: ``out`` was empty before."""
    for entry in out.iterdir():
        shutil.rmtree(entry, ignore_errors=True)  # all are folders, but for the lock


def read_file(file: Path) -> bytes | None:
    """Return the content of a file; None if it is none, or cannot be read."""
    if not file.is_file():  # a pipe or a device would block, a dangling link cannot be read
        return None
    try:
        return file.read_bytes()
    except OSError:
        return None
