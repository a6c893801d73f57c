"""De-identifying a folder for release: every file is written clean, or refused with a reason.

``OUT`` fills only when everything has passed: files grow in a hidden folder within it, which a
failure removes and the next run replaces. Output names are keyed pseudonyms. The report names input
paths and the contact sheet shows original pixels: they are the operator's own, mode 0600, and never
inside ``OUT``. Any number of processes writes the same bytes and the same report: outcomes are
taken in the order of the files.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path

from fedward_client.deidentify.contact_sheet import Thumbnail, contact_sheet, thumbnail
from fedward_client.deidentify.outcome import Action, Cleaned, Identifiers
from fedward_client.deidentify.workers import Method, Outcome, clean_in_order, useful_jobs
from fedward_common.errors import OperatorError, StorageError
from fedward_common.files import write_atomic

STAGING = ".fedward-unfinished"
LOCK = ".fedward-lock"
DUPLICATE = "its SOP instance UID is that of an earlier file"
UNREADABLE = "cannot be read"

_SUBJECT = {
    **dict.fromkeys(
        (
            Action.DECODED, Action.TRIMMED, Action.HIGH_BITS, Action.REGIONS, Action.MASKED,
            Action.TEXT,
        ),
        "images,",
    ),
    Action.NO_REGION: "warning,",
}  # fmt: skip
"""What a count of actions counts, where it is not attributes."""

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
            *(f"{_SUBJECT.get(a, 'attributes')} {a}: {n}" for a, n in sorted(self.actions.items())),
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
    method: Method,
    *,
    report: Path | None = None,
    sheet: Path | None = None,
    keep: Sequence[Path] = (),
    jobs: int = 0,
    progress: Progress = lambda _done, _total: None,
) -> Release:
    """De-identify every file at or below ``source`` into ``out``, which must be new or empty.

    ``report``: a JSON line for every file; ``sheet``: a PNG of what was blanked in the pixels.
    Neither may replace one of ``keep``: the key's file, the profile's. ``jobs``: processes, 0 for
    one a core; they change nothing but the time.

    Raises:
        OperatorError: the paths overlap or are not usable, another call is writing to ``out``, or
            no file could be written: then ``out`` stays empty, and the report says why.
        StorageError: the disk is full or read-only; nothing was written.
    """
    _check_places(source, out)
    _check_papers(source, out, {"report": report, "contact sheet": sheet}, keep)
    files = _files(source)
    created = not out.exists()
    try:
        with _reserved(out):
            return _release(source, out, method, files, report, sheet, jobs, progress)
    except OSError as error:
        raise StorageError(
            f"{out}: cannot be written ({error.strerror}); free disk space, then run it again"
        ) from error
    finally:
        if created and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _release(
    source: Path,
    out: Path,
    method: Method,
    files: list[Path],
    report: Path | None,
    sheet: Path | None,
    jobs: int,
    progress: Progress,
) -> Release:
    release = Release(len(files))
    try:
        sources = ((file, data) for file in files if (data := _read(file)) is not None)
        outcomes = clean_in_order(method, sources, useful_jobs(jobs, len(files)))
        lines: list[str] = []
        written = _write_all(source, files, _staging(out), outcomes, release, lines, progress)
        if sheet is None:
            deque(written, maxlen=0)
        else:
            write_atomic(sheet, contact_sheet(starmap(_compared, written)), mode=0o600)
        if report is not None:
            write_atomic(report, "".join(lines).encode("ascii"), mode=0o600)
        _publish(out)
    except BaseException:
        _empty(out)
        raise
    if not release.written:
        _empty(out)
        reasons = "; ".join(f"{reason}: {n}" for reason, n in sorted(release.refused.items()))
        raise OperatorError(f"{source}: no file can be used: {reasons}")
    return release


@contextmanager
def _reserved(out: Path) -> Iterator[None]:
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


def _empty(out: Path) -> None:
    """Take back everything that was written: ``out`` was empty before."""
    for entry in out.iterdir():
        shutil.rmtree(entry, ignore_errors=True)  # all are folders, but for the lock


def _write_all(
    source: Path,
    files: list[Path],
    staging: Path,
    outcomes: Iterator[tuple[Path, Outcome]],
    release: Release,
    lines: list[str],
    progress: Progress,
) -> Iterator[tuple[Path, Outcome | None]]:
    """Write each outcome into ``staging``, count it, add its report line, and yield it."""
    root = source if source.is_dir() else source.parent
    cleaned, outcome = next(outcomes, (None, None))
    for done, file in enumerate(files, 1):
        reason, here = UNREADABLE, None  # a file without an outcome was not read
        if outcome is not None and cleaned == file:
            here = outcome
            reason = _write(here, staging, release)
            cleaned, outcome = next(outcomes, (None, None))
        if reason:
            release.refused[reason] += 1
        else:
            release.written += 1
        record = {"input": file.relative_to(root).as_posix()}
        record |= {"status": "refused", "reason": reason} if reason else {"status": "written"}
        lines.append(json.dumps(record) + "\n")
        progress(done, len(files))
        yield file, here


def _compared(file: Path, outcome: Outcome | None) -> Thumbnail | None:
    """What was blanked in a file; it is read once more, as only some are shown."""
    data = _read(file) if isinstance(outcome, Cleaned) else None
    return thumbnail(data, outcome) if data and isinstance(outcome, Cleaned) else None


def _read(file: Path) -> bytes | None:
    if not file.is_file():  # a pipe or a device would block, a dangling link cannot be read
        return None
    try:
        return file.read_bytes()
    except OSError:
        return None


def _write(outcome: Outcome, staging: Path, release: Release) -> str:
    """Write one file clean, or return the reason why not."""
    if not isinstance(outcome, Cleaned):
        return str(outcome.reason)
    path = staging / _name(outcome.identifiers)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as stream:
            stream.write(outcome.data)
    except FileExistsError:
        return DUPLICATE
    release.actions.update(outcome.counts)
    return ""


def _name(who: Identifiers) -> Path:
    return Path(who.patient, who.study, f"{who.instance}.dcm")


def _check_places(source: Path, out: Path) -> None:
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


def _check_papers(
    source: Path, out: Path, papers: Mapping[str, Path | None], keep: Sequence[Path]
) -> None:
    """Refuse a report or a contact sheet that would be released, or replace what is needed."""
    taken = {path.resolve() for path in keep}
    for name, path in papers.items():
        if path is None:
            continue
        place = path.resolve()
        if place.is_relative_to(out.resolve()):
            raise OperatorError(f"{path}: the {name} shows what the input holds: not in {out}")
        if place.is_relative_to(source.resolve()):
            raise OperatorError(f"{path}: the {name} would lie in the input; choose another place")
        if place in taken:
            raise OperatorError(f"{path}: given for the {name} and for something else; choose two")
        if path.exists() and not path.is_file():
            raise OperatorError(f"{path}: is not a file; choose a new one for the {name}")
        taken.add(place)


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
