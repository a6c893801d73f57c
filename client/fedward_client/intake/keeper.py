"""The one door into a site's store: whatever an image came by, it is kept here, or is not.

Outcomes of the de-identifier gather in memory; a batch becomes vault objects, then fsync, then
catalogue rows in one transaction. A kill at any moment leaves whole batches; an object without a
row is swept by the next intake (G6). Only a batch being written holds the site's lock, so a folder
may be added while a PACS is sending.
"""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fedward_client.catalogue import Instance
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.masks import Layouts
from fedward_client.deidentify.outcome import Cleaned, Quarantined, Reason
from fedward_client.deidentify.workers import Method
from fedward_client.intake.reconcile import Tally
from fedward_client.site_folder import SiteFolder
from fedward_common import __version__
from fedward_common.codec import digest
from fedward_common.errors import OperatorError, StorageError

BATCH_FILES = 256
BATCH_BYTES = 64 << 20
LOCK_SECONDS = 30.0
_LOCK_POLL_SECONDS = 0.05


def method_of(site: SiteFolder) -> Method:
    """Return the site's way of de-identifying: its secret and its profile."""
    return Method(site.deidentification_key, site.profile)


def deidentifier_of(site: SiteFolder) -> Deidentifier:
    """Return the site's de-identifier: its secret under its profile."""
    return method_of(site).engine()


class Keeper:
    """Stores outcomes and counts them in ``tally``; :meth:`commit` at the end, or after each."""

    def __init__(self, site: SiteFolder, tally: Tally) -> None:
        self._site, self.tally = site, tally
        self._method = digest("refused by", __version__, site.profile.model_dump_json())
        self._waiting: list[tuple[Cleaned | Quarantined, bytes]] = []
        self._size = 0

    def known(self, fingerprint: bytes) -> str | None:
        """Count a source seen by an earlier intake: "" if stored, why it was refused, else None.

        What another profile or version refused is not known: it is tried again.
        """
        reason = self._site.catalogue.recorded(fingerprint, self._method)
        if reason:
            self.tally.excluded[reason] += 1
        elif reason is not None:
            self.tally.known += 1
        return reason

    def take(self, outcome: Cleaned | Quarantined, fingerprint: bytes) -> None:
        """Add an outcome to the batch, which is stored when it is full.

        Raises:
            OperatorError: the site stays locked.
            StorageError: the disk is full or read-only; batches stored before remain.
        """
        self._waiting.append((outcome, fingerprint))
        if isinstance(outcome, Cleaned):
            self._size += len(outcome.data)
        if len(self._waiting) >= BATCH_FILES or self._size >= BATCH_BYTES:
            self.commit()

    def commit(self) -> None:
        """Make durable what was taken: objects first, then their rows. Raises as :meth:`take`."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        if not waiting:
            return
        with exclusive(self._site):
            batch: dict[str, Instance] = {}
            refused: dict[bytes, Reason] = {}
            layouts: Layouts = Counter()
            duplicates = 0
            for outcome, fingerprint in waiting:
                if isinstance(outcome, Quarantined):
                    refused[fingerprint] = outcome.reason
                elif self._holds(outcome, batch):
                    duplicates += 1
                else:
                    batch[outcome.identifiers.instance] = self._put(outcome, fingerprint)
                    layouts[outcome.layout] += 1
            self._site.vault.flush()
            lasting = {source: str(r) for source, r in refused.items() if not r.is_passing}
            self._site.catalogue.add(list(batch.values()), lasting, self._method)
        self.tally.duplicates += duplicates
        self.tally.excluded.update(map(str, refused.values()))
        self.tally.layouts.update(layouts)
        self.tally.used += len(batch)

    def _holds(self, cleaned: Cleaned, batch: Mapping[str, Instance]) -> bool:
        """A second object of one SOP instance is a duplicate, whatever its content."""
        instance = cleaned.identifiers.instance
        return instance in batch or self._site.catalogue.holds(instance)

    def _put(self, cleaned: Cleaned, fingerprint: bytes) -> Instance:
        who = cleaned.identifiers
        instance = Instance(
            who.instance, who.patient, who.study, who.series, cleaned.modality, fingerprint
        )
        self._site.vault.put(instance.object_name, cleaned.data)
        return instance


def sweep(site: SiteFolder) -> None:
    """Delete what a killed or failed intake left in the vault without a catalogue row."""
    with exclusive(site):
        site.catalogue.sweep()


@contextmanager
def exclusive(site: SiteFolder) -> Iterator[None]:
    """One writer at a time: sweeping would take another's fresh objects for orphans.

    Raises:
        OperatorError: another intake holds the site for longer than ``LOCK_SECONDS``.
        StorageError: the lock file cannot be made.
    """
    try:
        lock = (site.path / "intake.lock").open("a", encoding="ascii")
    except OSError as error:
        raise StorageError(f"{site.path}: cannot lock the site; check rights and space") from error
    with lock:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise OperatorError(
                        f"{site.path}: another intake is running; wait for it"
                    ) from error
                time.sleep(_LOCK_POLL_SECONDS)
        yield
