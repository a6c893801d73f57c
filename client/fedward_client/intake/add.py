"""Adding a folder to a site: look at everything first, then store it batch by batch.

The first pass reads every file and the labels and refuses what a person must mend, before anything
is written. The second de-identifies and stores, in as many processes as there are cores. Files read
by the first pass stay in memory for the second as far as ``MEMORY_BYTES`` goes; beyond that they
are read twice, which is the price of refusing early. Without labels and with ``skip_unreadable``
no content can refuse the call, and there is one pass. Files refused for their content are recorded
with the reason and never stop the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedward_client.catalogue import Instance, Label, Level
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Identifiers, RefusalError
from fedward_client.deidentify.workers import clean_in_order, useful_jobs
from fedward_client.intake.folder import find_files
from fedward_client.intake.keeper import Keeper, deidentifier_of, method_of, sweep
from fedward_client.intake.labels import read_labels, refuse_moved, resolve
from fedward_client.intake.reconcile import Reconciliation, Tally, reconcile
from fedward_client.site_folder import SiteFolder
from fedward_common.errors import OperatorError, StorageError

__all__ = ["add_folder", "add_labels", "deidentifier_of"]

MEMORY_BYTES = 256 << 20
"""How much of the files the first pass keeps for the second."""

Progress = Callable[[int, int], None]
Sources = Iterator[tuple[bytes, bytes]]
"""Fingerprint and content of each file to de-identify."""


def _silent(_done: int, _total: int) -> None:
    """The progress of whoever does not look."""


@dataclass
class _Survey:
    """The first pass: which files are new, and every pseudonym that labels may name."""

    new: list[tuple[Path, bytes]] = field(default_factory=list)
    kept: dict[Path, bytes] = field(default_factory=dict)
    room: int = MEMORY_BYTES
    patient_of: dict[Level, dict[str, str]] = field(
        default_factory=lambda: {"patient": {}, "study": {}, "instance": {}}
    )

    def know(self, who: Identifiers | Instance) -> None:
        self.patient_of["patient"][who.patient] = who.patient
        self.patient_of["study"][who.study] = who.patient
        self.patient_of["instance"][who.instance] = who.patient

    def add(self, file: Path, fingerprint: bytes, data: bytes) -> None:
        self.new.append((file, fingerprint))
        if len(data) <= self.room:
            self.kept[file] = data
            self.room -= len(data)

    def contents(self) -> Sources:
        """Yield (fingerprint, content) of every new file; what was kept is let go."""
        for file, fingerprint in self.new:
            yield fingerprint, self.kept.pop(file) if file in self.kept else _read(file)


def add_folder(
    site: SiteFolder,
    path: Path,
    labels: Path | None = None,
    *,
    skip_unreadable: bool = False,
    jobs: int = 0,
    looking: Progress = _silent,
    progress: Progress = _silent,
) -> Reconciliation:
    """Add the DICOM files at or below ``path``, and a labels file, to the site.

    ``skip_unreadable`` quarantines files that are not DICOM, malformed or truncated instead of
    refusing the whole call. ``jobs``: processes that de-identify, 0 for one a core; they change
    nothing but the time. ``looking`` is told how far the first pass is, ``progress`` the second.
    Adding the same folder again adds only what is new.

    Raises:
        OperatorError: nothing found, an unreadable file, a defect of the labels file, or no usable
            file. Nothing was stored (in the last case, only why the files were refused).
        StorageError: the disk is full or read-only; whole batches stored before it remain.
    """
    sweep(site)
    found = find_files(path)
    keeper = Keeper(site, Tally(len(found.files), found.ignored))
    resolved: list[Label] = []
    if skip_unreadable and labels is None:
        total, sources = len(found.files), _unseen(site, found.files, keeper)
    else:
        survey = _survey(
            site,
            found.files,
            keeper,
            labelled=labels is not None,
            skip_unreadable=skip_unreadable,
            looking=looking,
        )
        resolved = _labels(site, labels, survey)
        total, sources = len(survey.new), survey.contents()
    try:
        _store(site, sources, total, keeper, jobs, progress)
    except BaseException:
        with suppress(StorageError, OperatorError):
            sweep(site)
        raise
    tally = keeper.tally
    if not tally.used and not tally.known:
        raise OperatorError(f"{path}: no file can be used: {tally.reasons()}")
    if resolved:
        site.catalogue.add_labels(resolved)
    return reconcile(tally, site.catalogue, site.split, site.profile.mask)


def add_labels(site: SiteFolder, labels: Path) -> Reconciliation:
    """Add labels of images that the site holds already: received, fetched or added before.

    Raises:
        OperatorError: a defect of the labels file, or labels of images that are not held.
    """
    survey = _Survey()
    for instance in site.catalogue.instances():
        survey.know(instance)
    site.catalogue.add_labels(_labels(site, labels, survey))
    return reconcile(Tally(0, 0), site.catalogue, site.split)


def _survey(
    site: SiteFolder,
    files: Sequence[Path],
    keeper: Keeper,
    *,
    labelled: bool,
    skip_unreadable: bool,
    looking: Progress,
) -> _Survey:
    survey, deidentifier = _Survey(), deidentifier_of(site)
    for instance in site.catalogue.instances() if labelled else ():
        survey.know(instance)
    seen: set[bytes] = set()
    for done, (file, fingerprint, data) in enumerate(_read_all(site, files), 1):
        fate = _fate(fingerprint, keeper, seen)
        if fate is None:
            who = _look(deidentifier, file, data, skip_unreadable=skip_unreadable)
            survey.add(file, fingerprint, data)
        else:
            # The catalogue knows what is stored; whom a refused file is of stands in the file only,
            # and its label is no stranger's.
            who = _whose(deidentifier, data) if fate and labelled else None
        if who and labelled:
            survey.know(who)
        looking(done, len(files))
    return survey


def _unseen(site: SiteFolder, files: Sequence[Path], keeper: Keeper) -> Sources:
    """Yield the files that no earlier call has seen, read as they are asked for.

    Raises:
        OperatorError: at once, for a file that may not be read.
    """
    locked = [file for file in files if not os.access(file, os.R_OK)]
    if locked:
        raise _unreadable(locked[0])
    seen: set[bytes] = set()
    return (
        (fingerprint, data)
        for _, fingerprint, data in _read_all(site, files)
        if _fate(fingerprint, keeper, seen) is None
    )


def _read_all(site: SiteFolder, files: Iterable[Path]) -> Iterator[tuple[Path, bytes, bytes]]:
    for file in files:
        data = _read(file)
        yield file, site.vault.fingerprint(data), data


def _fate(fingerprint: bytes, keeper: Keeper, seen: set[bytes]) -> str | None:
    """Count a file that an earlier call, or this one (``seen``), has met already.

    Returns None for a new file, why an earlier call refused it, or "" if nothing is to be done.
    """
    if fingerprint in seen:
        keeper.tally.duplicates += 1
        return ""
    seen.add(fingerprint)
    return keeper.known(fingerprint)


def _look(
    deidentifier: Deidentifier, file: Path, data: bytes, *, skip_unreadable: bool
) -> Identifiers | None:
    """Refuse a broken file now; one that is refused for its content is only counted later."""
    try:
        return deidentifier.inspect(data)
    except RefusalError as error:
        if error.reason.is_broken_file and not skip_unreadable:
            raise OperatorError(
                f"{file}: {error.reason}; remove or replace it, or use --skip-unreadable"
            ) from error
        return None


def _whose(deidentifier: Deidentifier, data: bytes) -> Identifiers | None:
    """Whom a file refused by an earlier call is of, as far as it can be read."""
    with suppress(RefusalError):
        return deidentifier.inspect(data)
    return None


def _labels(site: SiteFolder, path: Path | None, survey: _Survey) -> list[Label]:
    if path is None:
        return []
    rows = read_labels(path, deidentifier_of(site).pseudonym)
    existing = site.catalogue.labels()
    resolved = resolve(path, rows, survey.patient_of, existing)
    refuse_moved(path, site.split, existing, resolved)
    return resolved


def _store(
    site: SiteFolder, sources: Sources, total: int, keeper: Keeper, jobs: int, progress: Progress
) -> None:
    """De-identify and store; ``total``: files at the most, as those seen before are passed over."""
    outcomes = clean_in_order(method_of(site), sources, useful_jobs(jobs, total))
    for done, (fingerprint, outcome) in enumerate(outcomes, 1):
        keeper.take(outcome, fingerprint)
        progress(done, total)
    keeper.commit()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file) from error


def _unreadable(file: Path) -> OperatorError:
    return OperatorError(f"{file}: cannot be read; check its rights")
