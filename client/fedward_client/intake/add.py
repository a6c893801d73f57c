"""Adding a folder to a site: look at everything first, then store it batch by batch.

The first pass reads every file and the labels and refuses what a person must mend, before anything
is written. The second de-identifies and stores: objects, fsync, then rows, so a kill at any moment
leaves whole batches, and running it again finishes the rest. Files refused for their content are
recorded with the reason and never stop the others.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedward_client.catalogue import Instance, Label, Level
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Cleaned, Identifiers, Quarantined, RefusalError
from fedward_client.intake.folder import find_files
from fedward_client.intake.labels import read_labels, refuse_moved, resolve
from fedward_client.intake.reconcile import Reconciliation, Tally, reconcile
from fedward_client.site_folder import SiteFolder
from fedward_common.errors import OperatorError, StorageError

BATCH_FILES = 256
BATCH_BYTES = 256 << 20

Progress = Callable[[int, int], None]


@dataclass
class _Survey:
    """The first pass: which files are new, and every pseudonym the labels may name."""

    new: list[tuple[Path, bytes]] = field(default_factory=list)
    patient_of: dict[Level, dict[str, str]] = field(
        default_factory=lambda: {"patient": {}, "study": {}, "instance": {}}
    )

    def know(self, who: Identifiers | Instance) -> None:
        self.patient_of["patient"][who.patient] = who.patient
        self.patient_of["study"][who.study] = who.patient
        self.patient_of["instance"][who.instance] = who.patient


def deidentifier_of(site: SiteFolder) -> Deidentifier:
    """Return the site's de-identifier: its secret under its profile."""
    return Deidentifier(site.deidentification_key, site.profile)


def add_folder(
    site: SiteFolder,
    path: Path,
    labels: Path | None = None,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Reconciliation:
    """Add the DICOM files at or below ``path``, and a labels file, to the site.

    ``skip_unreadable`` quarantines files that are not DICOM, malformed or truncated instead of
    refusing the whole call. Adding the same folder again adds only what is new.

    Raises:
        OperatorError: nothing found, an unreadable file, a defect of the labels file, or no usable
            file. Nothing was stored (in the last case, only why the files were refused).
        StorageError: the disk is full or read-only; whole batches stored before it remain.
    """
    deidentifier = deidentifier_of(site)
    with _exclusive(site):
        site.catalogue.sweep()
        found = find_files(path)
        tally = Tally(len(found.files), found.ignored)
        survey = _survey(site, deidentifier, found.files, tally, skip_unreadable=skip_unreadable)
        resolved = _labels(site, deidentifier, labels, survey)
        try:
            _store(site, deidentifier, survey, tally, progress)
        except BaseException:
            with suppress(StorageError):
                site.catalogue.sweep()
            raise
        if not tally.used and not tally.known:
            raise OperatorError(f"{path}: no file can be used: {_reasons(tally)}")
        if resolved:
            site.catalogue.add_labels(resolved)
    return reconcile(tally, site.catalogue, site.split)


def _survey(
    site: SiteFolder,
    deidentifier: Deidentifier,
    files: tuple[Path, ...],
    tally: Tally,
    *,
    skip_unreadable: bool,
) -> _Survey:
    survey, recorded = _Survey(), site.catalogue.fingerprints()
    for instance in site.catalogue.instances():
        survey.know(instance)
    seen: set[bytes] = set()
    for file in files:
        data = _read(file)
        fingerprint = site.vault.fingerprint(data)
        if fingerprint in seen:
            tally.duplicates += 1
        elif recorded.get(fingerprint):
            tally.excluded[recorded[fingerprint]] += 1
        elif fingerprint in recorded:
            tally.known += 1
        else:
            _look(deidentifier, file, data, survey, skip_unreadable=skip_unreadable)
            survey.new.append((file, fingerprint))
        seen.add(fingerprint)
    return survey


def _look(
    deidentifier: Deidentifier, file: Path, data: bytes, survey: _Survey, *, skip_unreadable: bool
) -> None:
    """Refuse a broken file now; one that is refused for its content is only counted later."""
    try:
        survey.know(deidentifier.inspect(data))
    except RefusalError as error:
        if error.reason.is_broken_file and not skip_unreadable:
            raise OperatorError(
                f"{file}: {error.reason}; remove or replace it, or use --skip-unreadable"
            ) from error


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
    site: SiteFolder,
    deidentifier: Deidentifier,
    survey: _Survey,
    tally: Tally,
    progress: Progress | None,
) -> None:
    held = {i.instance for i in site.catalogue.instances()}
    batch: list[Instance] = []
    refused: dict[bytes, str] = {}
    size = 0
    for done, (file, fingerprint) in enumerate(survey.new, 1):
        outcome = deidentifier.deidentify(_read(file))
        if isinstance(outcome, Quarantined):
            tally.excluded[str(outcome.reason)] += 1
            refused[fingerprint] = str(outcome.reason)
        elif outcome.identifiers.instance in held:
            tally.duplicates += 1
        else:
            held.add(outcome.identifiers.instance)
            batch.append(_put(site, outcome, fingerprint))
            tally.used += 1
            size += len(outcome.data)
        if len(batch) + len(refused) >= BATCH_FILES or size >= BATCH_BYTES:
            _commit(site, batch, refused)
            batch, refused, size = [], {}, 0
        if progress is not None:
            progress(done, len(survey.new))
    _commit(site, batch, refused)


def _put(site: SiteFolder, cleaned: Cleaned, fingerprint: bytes) -> Instance:
    who = cleaned.identifiers
    instance = Instance(
        who.instance, who.patient, who.study, who.series, cleaned.modality, fingerprint
    )
    site.vault.put(instance.object_name, cleaned.data)
    return instance


def _commit(site: SiteFolder, batch: list[Instance], refused: dict[bytes, str]) -> None:
    site.vault.flush()
    site.catalogue.add(batch, refused)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read; check its rights") from error


def _reasons(tally: Tally) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in sorted(tally.excluded.items()))


@contextmanager
def _exclusive(site: SiteFolder) -> Iterator[None]:
    """One intake at a time: sweeping would take another's fresh objects for orphans."""
    try:
        with (site.path / "intake.lock").open("a", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OperatorError(
                    f"{site.path}: another intake is running; wait for it"
                ) from error
            yield
    except OSError as error:
        raise StorageError(f"{site.path}: cannot lock the site; check rights and space") from error
