"""Adding a folder to a site: look at everything first, then store it batch by batch.

The first pass reads every file and the labels and refuses what a person must mend, before anything
is written. The second de-identifies and stores, in as many processes as there are cores. Files read
by the first pass stay in memory for the second as far as ``MEMORY_BYTES`` goes; beyond that they
are read twice, which is the price of refusing early. Files refused for their content are recorded
with the reason and never stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    def contents(self) -> Iterator[tuple[bytes, bytes]]:
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
    progress: Progress | None = None,
) -> Reconciliation:
    """Add the DICOM files at or below ``path``, and a labels file, to the site.

    ``skip_unreadable`` quarantines files that are not DICOM, malformed or truncated instead of
    refusing the whole call. ``jobs``: processes that de-identify, 0 for one a core; they change
    nothing but the time. Adding the same folder again adds only what is new.

    Raises:
        OperatorError: nothing found, an unreadable file, a defect of the labels file, or no usable
            file. Nothing was stored (in the last case, only why the files were refused).
        StorageError: the disk is full or read-only; whole batches stored before it remain.
    """
    deidentifier = deidentifier_of(site)
    sweep(site)
    found = find_files(path)
    keeper = Keeper(site, Tally(len(found.files), found.ignored))
    survey = _survey(
        site,
        deidentifier,
        found.files,
        keeper,
        labelled=labels is not None,
        skip_unreadable=skip_unreadable,
    )
    resolved = _labels(site, deidentifier, labels, survey)
    try:
        _store(site, survey, keeper, jobs, progress)
    except BaseException:
        with suppress(StorageError, OperatorError):
            sweep(site)
        raise
    tally = keeper.tally
    if not tally.used and not tally.known:
        raise OperatorError(f"{path}: no file can be used: {tally.reasons()}")
    if resolved:
        site.catalogue.add_labels(resolved)
    return reconcile(tally, site.catalogue, site.split)


def add_labels(site: SiteFolder, labels: Path) -> Reconciliation:
    """Add labels of images that the site holds already: received, fetched or added before.

    Raises:
        OperatorError: a defect of the labels file, or labels of images that are not held.
    """
    survey = _Survey()
    for instance in site.catalogue.instances():
        survey.know(instance)
    site.catalogue.add_labels(_labels(site, deidentifier_of(site), labels, survey))
    return reconcile(Tally(0, 0), site.catalogue, site.split)


def _survey(
    site: SiteFolder,
    deidentifier: Deidentifier,
    files: tuple[Path, ...],
    keeper: Keeper,
    *,
    labelled: bool,
    skip_unreadable: bool,
) -> _Survey:
    survey = _Survey()
    for instance in site.catalogue.instances() if labelled else ():
        survey.know(instance)
    seen: set[bytes] = set()
    for file in files:
        data = _read(file)
        fingerprint = site.vault.fingerprint(data)
        if fingerprint in seen:
            keeper.tally.duplicates += 1
        elif keeper.known(fingerprint) is None:
            who = _look(deidentifier, file, data, skip_unreadable=skip_unreadable)
            if who and labelled:
                survey.know(who)
            survey.add(file, fingerprint, data)
        seen.add(fingerprint)
    return survey


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


def _labels(
    site: SiteFolder, deidentifier: Deidentifier, path: Path | None, survey: _Survey
) -> list[Label]:
    if path is None:
        return []
    rows = read_labels(path, deidentifier.pseudonym)
    existing = site.catalogue.labels()
    resolved = resolve(path, rows, survey.patient_of, existing)
    refuse_moved(path, site.split, existing, resolved)
    return resolved


def _store(
    site: SiteFolder, survey: _Survey, keeper: Keeper, jobs: int, progress: Progress | None
) -> None:
    total = len(survey.new)
    outcomes = clean_in_order(method_of(site), survey.contents(), useful_jobs(jobs, total))
    for done, (fingerprint, outcome) in enumerate(outcomes, 1):
        keeper.take(outcome, fingerprint)
        if progress is not None:
            progress(done, total)
    keeper.commit()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read; check its rights") from error
