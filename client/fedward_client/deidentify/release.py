"""De-identifying a folder for release: every file is written clean, or refused with a reason.

``OUT`` fills only when everything has passed: files grow in a hidden folder within it, which a
failure removes and the next run replaces. Output names are keyed pseudonyms. The report names input
paths and the contact sheet shows original pixels: they are the operator's own, mode 0600, and never
inside ``OUT``. Any number of processes writes the same bytes and the same report: outcomes are
taken in the order of the files.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import starmap
from pathlib import Path

from fedward_client.deidentify import describe
from fedward_client.deidentify.contact_sheet import Thumbnail, contact_sheet, thumbnail
from fedward_client.deidentify.masks import Layouts, unmatched
from fedward_client.deidentify.outcome import Action, Cleaned, Identifiers
from fedward_client.deidentify.places import (
    Papers,
    check_papers,
    check_places,
    empty,
    find_all,
    publish,
    read_file,
    reserved,
    staging,
)
from fedward_client.deidentify.workers import Method, Outcome, clean_in_order, useful_jobs
from fedward_common.errors import OperatorError, StorageError
from fedward_common.files import write_atomic

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
    """What became of the files: ``found`` = ``written`` + the sum of ``refused`` by reason.

    ``log``: how often each action was taken on each tag. ``layouts``: written images by modality,
    rows and columns. ``warnings``: masks of the profile that met none of them, and layouts that a
    mask was missing for.
    """

    found: int
    written: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    log: Counter[tuple[int, Action]] = field(default_factory=Counter)
    layouts: Layouts = field(default_factory=Counter)
    warnings: tuple[str, ...] = ()

    @property
    def actions(self) -> Counter[Action]:
        """How often each action was taken, on whatever attribute."""
        actions: Counter[Action] = Counter()
        for (_, action), count in self.log.items():
            actions[action] += count
        return actions

    def lines(self) -> tuple[str, ...]:
        """The counts for a person, one line each."""
        return (
            f"files found: {self.found}, written: {self.written}",
            *(f"refused, {reason}: {count}" for reason, count in sorted(self.refused.items())),
            *(f"{_SUBJECT.get(a, 'attributes')} {a}: {n}" for a, n in sorted(self.actions.items())),
            *(f"warning, {warning}" for warning in self.warnings),
        )

    def to_json(self) -> Mapping[str, object]:
        """The counts for a script."""
        return {
            "found": self.found,
            "written": self.written,
            "refused": dict(self.refused),
            "actions": {str(action): count for action, count in self.actions.items()},
            "warnings": list(self.warnings),
        }


def release_folder(
    source: Path,
    out: Path,
    method: Method,
    *,
    papers: Papers = Papers(),  # noqa: B008  it is frozen
    keep: Sequence[Path] = (),
    jobs: int = 0,
    progress: Progress = lambda _done, _total: None,
) -> Release:
    """De-identify every file at or below ``source`` into ``out``, which must be new or empty.

    ``papers`` may not replace one of ``keep``: the key's file, the profile's. ``jobs``: processes,
    0 for one a core; they change nothing but the time.

    Raises:
        OperatorError: the paths overlap or are not usable, another call is writing to ``out``, or
            no file could be written: then ``out`` stays empty, and the report says why.
        StorageError: the disk is full or read-only; nothing was written.
    """
    check_places(source, out)
    check_papers(source, out, papers, keep)
    files = find_all(source)
    created = not out.exists()
    try:
        with reserved(out):
            return _release(source, out, method, files, papers, jobs, progress)
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
    papers: Papers,
    jobs: int,
    progress: Progress,
) -> Release:
    release = Release(len(files))
    try:
        sources = ((file, data) for file in files if (data := read_file(file)) is not None)
        outcomes = clean_in_order(method, sources, useful_jobs(jobs, len(files)))
        lines: list[str] = []
        written = _write_all(source, files, staging(out), outcomes, release, lines, progress)
        if papers.sheet is None:
            deque(written, maxlen=0)
        else:
            write_atomic(papers.sheet, contact_sheet(starmap(_compared, written)), mode=0o600)
        if papers.report is not None:
            write_atomic(papers.report, "".join(lines).encode("ascii"), mode=0o600)
        if papers.audit is not None:
            write_atomic(papers.audit, _audit(release, method), mode=0o600)
        publish(out)
    except BaseException:
        empty(out)
        raise
    if not release.written:
        empty(out)
        reasons = "; ".join(f"{reason}: {n}" for reason, n in sorted(release.refused.items()))
        raise OperatorError(f"{source}: no file can be used: {reasons}")
    release.warnings = unmatched(method.profile.mask, release.layouts)
    return release


def _write_all(
    source: Path,
    files: list[Path],
    folder: Path,
    outcomes: Iterator[tuple[Path, Outcome]],
    release: Release,
    lines: list[str],
    progress: Progress,
) -> Iterator[tuple[Path, Outcome | None]]:
    """Write each outcome into ``folder``, count it, add its report line, and yield it."""
    root = source if source.is_dir() else source.parent
    cleaned, outcome = next(outcomes, (None, None))
    for done, file in enumerate(files, 1):
        reason, here = UNREADABLE, None  # a file without an outcome was not read
        if outcome is not None and cleaned == file:
            here = outcome
            reason = _write(here, folder, release)
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
    data = read_file(file) if isinstance(outcome, Cleaned) else None
    return thumbnail(data, outcome) if data and isinstance(outcome, Cleaned) else None


def _write(outcome: Outcome, folder: Path, release: Release) -> str:
    """Write one file clean, or return the reason why not."""
    if not isinstance(outcome, Cleaned):
        return str(outcome.reason)
    path = folder / _name(outcome.identifiers)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as stream:
            stream.write(outcome.data)
    except FileExistsError:
        return DUPLICATE
    release.log.update(outcome.log)
    release.layouts[outcome.layout] += 1
    return ""


def _audit(release: Release, method: Method) -> bytes:
    """Which rule did what to which attribute, and how often; a JSON line each."""
    entries = describe.audit(release.log, method.profile)
    lines = (json.dumps(asdict(entry) | {"count": n}) for entry, n in sorted(entries.items()))
    return "".join(line + "\n" for line in lines).encode("ascii")


def _name(who: Identifiers) -> Path:
    return Path(who.patient, who.study, f"{who.instance}.dcm")
