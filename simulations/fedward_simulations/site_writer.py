"""Write one simulated site: its DICOM files and its labels file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from pydicom import dcmwrite

from fedward_simulations.arrays import ImageArrays
from fedward_simulations.identities import identity, institution
from fedward_simulations.instances import Place, instance, patient_template, site_template
from fedward_simulations.partition import SiteShare
from fedward_simulations.scanners import Scanner


@dataclass(frozen=True)
class Recipe:
    """Everything that a set of hospitals is a function of. ``arrays`` is the data's digest."""

    arrays: str
    sites: int
    partition: str
    images_per_patient: int
    plain: bool
    modality: str
    seed: int
    format: int = 1

    def to_json(self) -> dict[str, str | int]:
        """Return all fields, for hospitals.json."""
        return asdict(self)


def write_site(
    arrays: ImageArrays,
    recipe: Recipe,
    folder: Path,
    number: int,
    share: SiteShare,
    device: Scanner,
) -> Iterator[int]:
    """Write site ``number`` (from 1) into ``folder``, which must not exist.

    Yields the number of images written so far, after each patient.

    Raises:
        OSError: the disk refused.
    """
    root = f"{recipe.arrays}/{recipe.seed}/{number}"
    template = site_template(device, institution(recipe.seed, number), root)
    patients = chain(
        (("train", arrays.train_images, patient) for patient in share.train),
        (("holdout", arrays.val_images, patient) for patient in share.holdout),
    )
    rows: list[tuple[str, str, int, str]] = []
    written = 0
    for index, (split, images, patient) in enumerate(patients):
        person = identity(recipe.seed, number, index)
        header = patient_template(template, person)
        for order, image in enumerate(patient.images):
            place = Place(index, order)
            ds = instance(header, person, device, place, images[image], root)
            path = folder / "dicom" / person.patient_id / person.accession(place.study)
            path.mkdir(parents=True, exist_ok=True)
            dcmwrite(path / f"{ds.InstanceNumber}.dcm", ds, enforce_file_format=True)
            written += 1
        rows.append(("patient", person.patient_id, patient.label, split))
        yield written
    _write_labels(folder / "labels.csv", rows)


def _write_labels(path: Path, rows: list[tuple[str, str, int, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("level", "id", "label", "split"))
        writer.writerows(rows)
