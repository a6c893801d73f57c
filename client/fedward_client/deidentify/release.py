"""De-identifying a folder for release: every file is written clean, or refused with a reason.

``OUT`` fills only when everything has passed: files grow in a hidden folder within it, which a
failure removes and the next run replaces. Output names are keyed pseudonyms. The report names input
paths: it is the operator's own, mode 0600, and never inside ``OUT``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Action, Cleaned, Identifiers
from fedward_common.errors import OperatorError, StorageError
from fedward_common.files import write_atomic

STAGING = ".fedward-unfinished"
DUPLICATE = "its SOP instance UID is that of an earlier file"
UNREADABLE = "cannot be read"

Progress = Callable[[int, int], None]


@dataclass
class Release:
    """What became of the files: ``found`` = ``written`` + the sum of ``refused`` by reason."""

    found: int
    written: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    actions: Counter[Action] = field(default_factory=Counter)

    def lines(self) -> tuple[str, ...]:
        """The counts for a person, one line each."""
        return (
            f"files found: {self.found}, written: {self.written}",
            *(f"refused, {reason}: {count}" for reason, count in sorted(self.refused.items())),
            *(f"attributes {action}: {count}" for action, count in sorted(self.actions.items())),
        )

    def to_json(self) -> Mapping[str, object]:
        """The counts for a script."""
        return {
            "found": self.found,
            "written": self.written,
            "refused": dict(self.refused),
            "actions": {str(action): count for action, count in self.actions.items()},
        }


def release_folder(
    source: Path,
    out: Path,
    deidentifier: Deidentifier,
    *,
    report: Path | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Release:
    """De-identify every file at or below ``source`` into ``out``, which must be new or empty.

    Raises:
        OperatorError: the paths overlap or are not usable, or no file could be written: then
            ``out`` stays empty, and the report says why.
        StorageError: the disk is full or read-only; nothing was written.
    """
    _check_places(source, out, report)
    files = _files(source)
    created = not out.exists()
    try:
        outcome, lines = _clean_all(source, files, _staging(out), deidentifier, progress)
        if report is not None:
            write_atomic(report, "".join(lines).encode("ascii"), mode=0o600)
        _publish(out)
    except OSError as error:
        _empty(out, remove=created)
        raise StorageError(
            f"{out}: cannot be written ({error.strerror}); free disk space, then run it again"
        ) from error
    except BaseException:
        _empty(out, remove=created)
        raise
    if not outcome.written:
        _empty(out, remove=created)
        reasons = "; ".join(f"{reason}: {n}" for reason, n in sorted(outcome.refused.items()))
        raise OperatorError(f"{source}: no file can be used: {reasons}")
    return outcome


def _staging(out: Path) -> Path:
    """A fresh hidden folder within ``out``: a later rename never crosses a file system."""
    staging = out / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def _publish(out: Path) -> None:
    for entry in sorted((out / STAGING).iterdir()):
        entry.rename(out / entry.name)
    (out / STAGING).rmdir()


def _empty(out: Path, *, remove: bool) -> None:
    """Take back everything that was written: ``out`` was empty, or not there, before."""
    for entry in out.iterdir() if out.is_dir() else ():
        shutil.rmtree(entry, ignore_errors=True)
    if remove:
        shutil.rmtree(out, ignore_errors=True)


def _clean_all(
    source: Path,
    files: list[Path],
    staging: Path,
    deidentifier: Deidentifier,
    progress: Progress,
) -> tuple[Release, list[str]]:
    """Clean file by file into ``staging``; returns the counts and the report's lines."""
    root = source if source.is_dir() else source.parent
    outcome, lines = Release(len(files)), []
    for done, file in enumerate(files, 1):
        reason = _clean(file, staging, deidentifier, outcome)
        if reason:
            outcome.refused[reason] += 1
        else:
            outcome.written += 1
        record = {"input": file.relative_to(root).as_posix()}
        record |= {"status": "refused", "reason": reason} if reason else {"status": "written"}
        lines.append(json.dumps(record) + "\n")
        progress(done, len(files))
    return outcome, lines


def _clean(file: Path, staging: Path, deidentifier: Deidentifier, outcome: Release) -> str:
    """Write one file clean, or return the reason why not."""
    if not file.is_file():  # a pipe or a device would block, a dangling link cannot be read
        return UNREADABLE
    try:
        data = file.read_bytes()
    except OSError:
        return UNREADABLE
    cleaned = deidentifier.deidentify(data)
    if not isinstance(cleaned, Cleaned):
        return str(cleaned.reason)
    path = staging / _name(cleaned.identifiers)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as stream:
            stream.write(cleaned.data)
    except FileExistsError:
        return DUPLICATE
    outcome.actions.update(cleaned.counts)
    return ""


def _name(who: Identifiers) -> Path:
    return Path(who.patient, who.study, f"{who.instance}.dcm")


def _check_places(source: Path, out: Path, report: Path | None) -> None:
    if not source.exists():
        raise OperatorError(f"{source}: does not exist; give a DICOM file or a folder of them")
    inner, outer = out.resolve(), source.resolve()
    if inner == outer or inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise OperatorError(f"{out}: overlaps the input; choose a folder outside {source}")
    if out.exists() and not out.is_dir():
        raise OperatorError(f"{out}: is a file; choose a new folder")
    if out.exists() and any(entry.name != STAGING for entry in out.iterdir()):
        raise OperatorError(f"{out}: is not empty; choose a new folder")
    if report is not None and report.resolve().is_relative_to(inner):
        raise OperatorError(f"{report}: the report names input files; write it outside {out}")


def _files(source: Path) -> list[Path]:
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
