"""Simulated hospitals: folders of DICOM with planted identities, and a labels file each.

Layout of the output folder::

    hospitals.json                                 written last: the folder is complete
    site-01/labels.csv                             level,id,label,split
    site-01/dicom/<patient>/<study>/<n>.dcm

A site's folder appears under its name only when it is complete, so a killed run continues where
it was. A complete folder made with the same arguments is reused; any other is left alone.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite

from fedward_common.errors import OperatorError, StorageError
from fedward_simulations.arrays import ImageArrays
from fedward_simulations.identities import identity, institution
from fedward_simulations.instances import Place, instance, patient_template, site_template
from fedward_simulations.partition import PatientImages, SiteShare, parse_partition, share_out
from fedward_simulations.scanners import Scanner, scanner_for

MANIFEST = "hospitals.json"
_MAKING = ".making"
_FORMAT = 1


@dataclass(frozen=True)
class Hospital:
    """One simulated site: where its files are, and the true counts that only a simulation knows."""

    name: str
    folder: Path
    scanner: Scanner
    train_patients: int
    holdout_patients: int
    images: int
    train_classes: dict[int, int]

    @property
    def dicom(self) -> Path:
        """The folder of its DICOM files."""
        return self.folder / "dicom"

    @property
    def labels(self) -> Path:
        """Its labels file."""
        return self.folder / "labels.csv"

    def to_json(self) -> dict[str, Any]:
        """Return the record that hospitals.json holds."""
        return {
            "name": self.name,
            "train_patients": self.train_patients,
            "holdout_patients": self.holdout_patients,
            "images": self.images,
            "train_classes": {str(label): n for label, n in sorted(self.train_classes.items())},
            "scanner": self.scanner.to_json(),
        }


def make_hospitals(
    arrays: ImageArrays,
    out: Path,
    *,
    sites: int,
    partition: str = "iid",
    images_per_patient: int = 1,
    plain: bool = False,
    seed: int = 0,
    modality: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Hospital, ...]:
    """Make, finish making, or reuse ``sites`` hospitals in the folder ``out``.

    Train images become training patients and val images held-out patients, each image at exactly
    one site; test images go nowhere. ``partition`` is ``iid`` or ``dirichlet:A``; a patient has 1
    to ``images_per_patient`` images of one label; ``plain`` keeps the pixels exactly, 8-bit and
    uncompressed, at every site (identities are planted all the same); ``modality`` is ``auto`` or
    one of ``scanners.MODALITIES``. ``progress`` is called with (images done, images in all).

    Raises:
        OperatorError: an argument is out of range, or ``out`` holds something else.
        StorageError: the disk failed; what this call wrote was removed.
    """
    spread = parse_partition(partition)
    shares = share_out(
        arrays.train_labels,
        arrays.val_labels,
        sites=sites,
        partition=spread,
        images_per_patient=images_per_patient,
        seed=seed,
    )
    hospitals = tuple(
        _hospital(out, number, share, scanner)
        for number, share in enumerate(shares, start=1)
        for scanner in [scanner_for(number, colour=arrays.colour, plain=plain, modality=modality)]
    )
    parameters = {
        "format": _FORMAT,
        "arrays": arrays.digest(),
        "sites": sites,
        "partition": partition,
        "images_per_patient": images_per_patient,
        "plain": plain,
        "modality": modality,
        "seed": seed,
    }
    report = progress or _silent
    if _is_complete(out, parameters, hospitals):
        total = sum(hospital.images for hospital in hospitals)
        report(total, total)
        return hospitals
    _make(arrays, out, parameters, tuple(zip(hospitals, shares, strict=True)), report)
    return hospitals


def example_instances(out: Path) -> tuple[Path, ...]:
    """Return one DICOM file of each site in ``out``, in the order of the sites."""
    try:
        record = json.loads((out / MANIFEST).read_text("utf-8"))
        return tuple(_first(out / site["name"] / "dicom") for site in record["sites"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise OperatorError(
            f"{out}: holds no complete set of hospitals; run fedward-simulate hospitals"
        ) from error


def _first(folder: Path) -> Path:
    """Return the first file below ``folder`` without listing more of it than needed."""
    while folder.is_dir():
        folder = min(folder.iterdir(), default=folder / "nothing")
    return folder


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def _hospital(out: Path, number: int, share: SiteShare, scanner: Scanner) -> Hospital:
    return Hospital(
        name=f"site-{number:02d}",
        folder=out / f"site-{number:02d}",
        scanner=scanner,
        train_patients=len(share.train),
        holdout_patients=len(share.holdout),
        images=sum(len(patient.images) for patient in (*share.train, *share.holdout)),
        train_classes=dict(Counter(patient.label for patient in share.train)),
    )


def _is_complete(out: Path, parameters: dict[str, Any], hospitals: tuple[Hospital, ...]) -> bool:
    """Whether ``out`` already holds exactly these hospitals; False if it is free to be filled."""
    another = f"{out}: holds other hospitals; choose another folder or delete this one"
    if not out.exists():
        return False
    if not out.is_dir():
        raise OperatorError(f"{out}: is a file; choose a folder for the hospitals")
    if (out / MANIFEST).exists():
        if _read_json(out / MANIFEST).get("parameters") != parameters:
            raise OperatorError(another)
        for hospital in hospitals:
            if sum(1 for _ in hospital.dicom.rglob("*.dcm")) != hospital.images:
                raise OperatorError(
                    f"{hospital.dicom}: files were added or removed; delete {out} and run again"
                )
        return True
    if (out / _MAKING / MANIFEST).exists():
        if _read_json(out / _MAKING / MANIFEST) != parameters:
            raise OperatorError(another)
    elif any(out.iterdir()):
        raise OperatorError(f"{out}: is not empty; choose a new folder for the hospitals")
    return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path}: is damaged; delete its folder and run again") from error
    return record if isinstance(record, dict) else {}


def _make(
    arrays: ImageArrays,
    out: Path,
    parameters: dict[str, Any],
    work: tuple[tuple[Hospital, SiteShare], ...],
    progress: Callable[[int, int], None],
) -> None:
    total = sum(hospital.images for hospital, _ in work)
    done = 0
    existed = out.exists()
    try:
        (out / _MAKING).mkdir(parents=True, exist_ok=True)
        _write_json(out / _MAKING / MANIFEST, parameters)
        for number, (hospital, share) in enumerate(work, start=1):
            if not hospital.folder.exists():
                staging = out / _MAKING / hospital.name
                for count in _write_site(arrays, staging, hospital, share, number, parameters):
                    progress(done + count, total)
                staging.rename(hospital.folder)
            done += hospital.images
            progress(done, total)
        sites = [hospital.to_json() for hospital, _ in work]
        _write_json(out / MANIFEST, {"parameters": parameters, "sites": sites})
        shutil.rmtree(out / _MAKING)
    except OSError as error:
        _remove_all(out, [hospital.folder for hospital, _ in work], keep=existed)
        raise StorageError(
            f"{out}: could not be written ({error.strerror or 'disk error'});"
            " free some space or choose another folder"
        ) from error


def _remove_all(out: Path, folders: list[Path], *, keep: bool) -> None:
    for folder in (*folders, out / _MAKING):
        shutil.rmtree(folder, ignore_errors=True)
    (out / MANIFEST).unlink(missing_ok=True)
    if not keep:
        shutil.rmtree(out, ignore_errors=True)


def _write_site(
    arrays: ImageArrays,
    folder: Path,
    hospital: Hospital,
    share: SiteShare,
    number: int,
    parameters: dict[str, Any],
) -> Iterator[int]:
    """Write one site into ``folder``; yields the number of images so far after each patient."""
    shutil.rmtree(folder, ignore_errors=True)
    seed = int(parameters["seed"])
    root = f"{parameters['arrays']}/{seed}/{number}"
    template = site_template(hospital.scanner, institution(seed, number), root)
    patients = chain(
        (("train", arrays.train_images, patient) for patient in share.train),
        (("holdout", arrays.val_images, patient) for patient in share.holdout),
    )
    rows: list[tuple[str, str, int, str]] = []
    written = 0
    for index, (split, images, patient) in enumerate(patients):
        person = identity(seed, number, index)
        header = patient_template(template, person)
        for order, image in enumerate(_pixels(images, patient)):
            place = Place(index, order)
            ds = instance(header, person, hospital.scanner, place, image, root)
            path = folder / "dicom" / person.patient_id / person.accession(place.study)
            path.mkdir(parents=True, exist_ok=True)
            dcmwrite(path / f"{ds.InstanceNumber}.dcm", ds, enforce_file_format=True)
            written += 1
        rows.append(("patient", person.patient_id, patient.label, split))
        yield written
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("level", "id", "label", "split"))
        writer.writerows(rows)


def _pixels(images: NDArray[np.uint8], patient: PatientImages) -> Iterator[NDArray[np.uint8]]:
    return (images[index] for index in patient.images)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
