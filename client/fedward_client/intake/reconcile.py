"""The reconciliation report of an intake: counts only, fit for any screen or log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedward_client.catalogue import Catalogue
from fedward_client.deidentify.masks import Layouts, unmatched
from fedward_client.deidentify.profile import Mask
from fedward_client.split import SplitRule
from fedward_common.queries.task import Split


@dataclass
class Tally:
    """Counts gathered while an intake runs; ``layouts``: those of the images that were used."""

    found: int
    ignored: int
    used: int = 0
    known: int = 0
    duplicates: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    layouts: Layouts = field(default_factory=Counter)

    def reasons(self) -> str:
        """What was excluded, in one line."""
        return "; ".join(f"{reason}: {count}" for reason, count in sorted(self.excluded.items()))


@dataclass(frozen=True)
class Reconciliation:
    """What became of every file, and what the site holds now.

    found = used + known + duplicates + the sum of ``excluded`` (by reason). ``known`` were used by
    an earlier intake. ``patients_in_both_splits`` can come from the split column of public
    benchmark data only; labels files that would make one are refused, so that it stays 0 (B6).
    ``warnings``: masks of the profile that met no image of this intake, and the reverse.
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
    patients_in_both_splits: int
    patients_without_label: int
    images_without_label: int
    labels_without_images: int
    warnings: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return the report for a person, one line each."""
        excluded = [f"excluded, {reason}: {n}" for reason, n in sorted(self.excluded.items())]
        return (
            f"files found: {self.found} (and {self.ignored} that are not DICOM)",
            f"used: {self.used}, known already: {self.known}, duplicates: {self.duplicates}",
            *excluded,
            f"patients: {self.patients}",
            f"labelled patients: {self.train_patients} train, {self.holdout_patients} held out",
            f"patients in both splits: {self.patients_in_both_splits}",
            f"patients without a label: {self.patients_without_label}",
            f"images without a label: {self.images_without_label}",
            f"labels without images: {self.labels_without_images}",
            *(f"warning, {warning}" for warning in self.warnings),
        )


def reconcile(
    tally: Tally, catalogue: Catalogue, rule: SplitRule, masks: Sequence[Mask] = ()
) -> Reconciliation:
    """Count what the site holds after an intake; ``masks``: those of its profile."""
    splits: dict[str, set[Split]] = defaultdict(set)
    for label in catalogue.labels():
        splits[label.patient].add(label.split or rule.split_of(label.patient))
    patients = catalogue.patients()
    held = Counter(split for patient in patients & splits.keys() for split in splits[patient])
    both = sum(len(splits[patient]) > 1 for patient in patients & splits.keys())
    images_without_label, labels_without_images = catalogue.unmatched()
    return Reconciliation(
        found=tally.found,
        ignored=tally.ignored,
        used=tally.used,
        known=tally.known,
        duplicates=tally.duplicates,
        excluded=dict(tally.excluded),
        patients=len(patients),
        train_patients=held["train"],
        holdout_patients=held["holdout"],
        patients_in_both_splits=both,
        patients_without_label=len(patients - splits.keys()),
        images_without_label=images_without_label,
        labels_without_images=labels_without_images,
        warnings=unmatched(masks, tally.layouts),
    )
