"""Simulated hospitals: folders of DICOM with planted identities, and a labels file each.

Layout of the output folder::

    hospitals.json                                 written last: the set is complete
    site-01/labels.csv                             level,id,label,split
    site-01/dicom/<patient>/<study>/<n>.dcm

A site's folder appears under its name only when it is complete, so a killed run continues where
it was. A complete set made with the same arguments is reused; any other folder is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedward_common.errors import OperatorError, StorageError
from fedward_simulations.arrays import ImageArrays
from fedward_simulations.partition import SiteShare, parse_partition, share_out
from fedward_simulations.scanners import Scanner, scanner_for
from fedward_simulations.site_writer import Recipe, write_site

MANIFEST = "hospitals.json"
_MAKING = ".making"  # holds the recipe and the site being written, until the set is complete


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
        StorageError: the disk failed; the unfinished set was removed.
    """
    recipe = Recipe(arrays.digest(), sites, partition, images_per_patient, plain, modality, seed)
    shares = share_out(
        arrays.train_labels,
        arrays.val_labels,
        sites=sites,
        partition=parse_partition(partition),
        images_per_patient=images_per_patient,
        seed=seed,
    )
    hospitals = tuple(
        _hospital(out, number, share, colour=arrays.colour, recipe=recipe)
        for number, share in enumerate(shares, start=1)
    )
    if not _is_complete(out, recipe, hospitals):
        _make(arrays, out, recipe, tuple(zip(hospitals, shares, strict=True)), progress)
    return hospitals


def example_instances(out: Path) -> tuple[Path, ...]:
    """Return one DICOM file of each site in ``out``, in the order of the sites.

    Raises:
        OperatorError: ``out`` holds no complete set of hospitals.
    """
    try:
        record = json.loads((out / MANIFEST).read_text("utf-8"))
        return tuple(min((out / site["name"]).rglob("*.dcm")) for site in record["sites"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OperatorError(
            f"{out}: holds no complete set of hospitals; run fedward-simulate hospitals"
        ) from error


def _hospital(
    out: Path, number: int, share: SiteShare, *, colour: bool, recipe: Recipe
) -> Hospital:
    name = f"site-{number:02d}"
    return Hospital(
        name=name,
        folder=out / name,
        scanner=scanner_for(number, colour=colour, plain=recipe.plain, modality=recipe.modality),
        train_patients=len(share.train),
        holdout_patients=len(share.holdout),
        images=sum(len(patient.images) for patient in (*share.train, *share.holdout)),
        train_classes=dict(Counter(patient.label for patient in share.train)),
    )


def _is_complete(out: Path, recipe: Recipe, hospitals: Sequence[Hospital]) -> bool:
    """Whether ``out`` already holds exactly these hospitals; False if it is free to be filled."""
    if out.exists() and not out.is_dir():
        raise OperatorError(f"{out}: is a file; choose a folder for the hospitals")
    manifest, unfinished = out / MANIFEST, out / _MAKING / MANIFEST
    made_as = recipe.to_json()
    if manifest.exists():
        made_as = _read_json(manifest).get("recipe", {})
    elif unfinished.exists():
        made_as = _read_json(unfinished)
    elif out.exists() and any(entry.name != _MAKING for entry in out.iterdir()):
        raise OperatorError(f"{out}: is not empty; choose a new folder for the hospitals")
    if made_as != recipe.to_json():
        raise OperatorError(
            f"{out}: holds hospitals made with other options; choose another folder or delete it"
        )
    if not manifest.exists():
        return False
    for hospital in hospitals:
        files = sum(1 for _ in hospital.dicom.rglob("*.dcm"))
        if files != hospital.images or not hospital.labels.exists():
            raise OperatorError(
                f"{hospital.folder}: files were added or removed; delete {out} and run again"
            )
    return True


def _make(
    arrays: ImageArrays,
    out: Path,
    recipe: Recipe,
    work: Sequence[tuple[Hospital, SiteShare]],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write what is missing of the set, then the manifest."""
    report = progress or (lambda _done, _total: None)
    total = sum(hospital.images for hospital, _ in work)
    done = 0
    existed = out.exists()
    staging = out / _MAKING / "site"
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        _write_json(staging.with_name(MANIFEST), recipe.to_json())
        for number, (hospital, share) in enumerate(work, start=1):
            if not hospital.folder.exists():
                shutil.rmtree(staging, ignore_errors=True)
                scanner = hospital.scanner
                for count in write_site(arrays, recipe, staging, number, share, scanner):
                    report(done + count, total)
                staging.rename(hospital.folder)
            done += hospital.images
            report(done, total)
        sites = [hospital.to_json() for hospital, _ in work]
        _write_json(out / MANIFEST, {"recipe": recipe.to_json(), "sites": sites})
        shutil.rmtree(staging.parent)
    except OSError as error:
        _remove(out, [hospital.folder for hospital, _ in work], keep_out=existed)
        raise StorageError(
            f"{out}: could not be written ({error.strerror or 'disk error'});"
            " free some space or choose another folder"
        ) from error


def _remove(out: Path, folders: Sequence[Path], *, keep_out: bool) -> None:
    """Remove what ``_make`` wrote, and the folder if it was not there before."""
    for path in (*folders, out / _MAKING, *(() if keep_out else (out,))):
        shutil.rmtree(path, ignore_errors=True)
    for name in (MANIFEST, _partial(out / MANIFEST).name):
        with contextlib.suppress(OSError):
            (out / name).unlink()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path}: is damaged; delete its folder and run again") from error
    return record if isinstance(record, dict) else {}


def _write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    with _partial(path).open("w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    _partial(path).replace(path)
