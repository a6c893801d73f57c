"""The reconciliation report of an intake: counts only, fit for any screen or log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedward_client.catalogue import Catalogue
from fedward_client.split import SplitRule


@dataclass
class Tally:
    """Counts gathered while an intake runs."""

    found: int
    ignored: int
    used: int = 0
    known: int = 0
    duplicates: int = 0
    excluded: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Reconciliation:
    """What became of every file, and what the site holds now.

    found = used + known + duplicates + the sum of ``excluded`` (by reason). ``known`` were used by
    an earlier intake. Patients in both splits can come from labels files only, and are refused.
    """

    found: int
    ignored: int
    used: int
    known: int
    duplicates: int
    excluded: Mapping[str, int]
    patients: int
    train_patients: int
    holdout_patients: int
    patients_without_label: int
    labels_without_images: int

    def lines(self) -> tuple[str, ...]:
        """Return the report for a person, one line each."""
        excluded = [f"excluded, {reason}: {n}" for reason, n in sorted(self.excluded.items())]
        return (
            f"files found: {self.found} (and {self.ignored} that are not DICOM)",
            f"used: {self.used}, known already: {self.known}, duplicates: {self.duplicates}",
            *excluded,
            f"patients: {self.patients}",
            f"labelled patients: {self.train_patients} train, {self.holdout_patients} held out",
            f"patients without a label: {self.patients_without_label}",
            f"labels without images: {self.labels_without_images}",
        )


def reconcile(tally: Tally, catalogue: Catalogue, rule: SplitRule) -> Reconciliation:
    """Count what the site holds after an intake."""
    held = catalogue.instances()
    patients = {i.patient for i in held}
    targets = patients | {i.study for i in held} | {i.instance for i in held}
    labels = catalogue.labels()
    labelled = {x.patient: x.split or rule.split_of(x.patient) for x in labels}
    splits = Counter(split for patient, split in labelled.items() if patient in patients)
    return Reconciliation(
        found=tally.found,
        ignored=tally.ignored,
        used=tally.used,
        known=tally.known,
        duplicates=tally.duplicates,
        excluded=dict(tally.excluded),
        patients=len(patients),
        train_patients=splits["train"],
        holdout_patients=splits["holdout"],
        patients_without_label=len(patients - labelled.keys()),
        labels_without_images=sum(x.target not in targets for x in labels),
    )
