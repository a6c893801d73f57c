"""What a scenario trains and tests on: hospitals on disk, and a test set that no hospital holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedward_client.cohort import scaled_rows
from fedward_client.intake.reconcile import Reconciliation
from fedward_client.preprocess.pipeline import preprocess_array
from fedward_client.site import Site
from fedward_common.errors import OperatorError
from fedward_common.models.features import feature_map
from fedward_common.study import Study
from fedward_simulations.arrays import ImageArrays, load_arrays
from fedward_simulations.hospitals import Hospital, make_hospitals
from fedward_simulations.phantom import phantom_arrays
from fedward_simulations.randomness import Randomness
from fedward_simulations.scenario import Scenario
from fedward_simulations.sites import Stage, add_hospital, add_rows, open_sites
from fedward_simulations.tables import breast_cancer, share_table

HOLDOUT_OF_TABLE = 0.1
"""Share of a table's patients whom each site's keyed hash holds out (B6)."""


Pooled = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]
"""All sites' table rows, their labels, and the test rows: for a yardstick without privacy."""


@dataclass(frozen=True)
class Material:
    """Open sites with their patients in place; ``test_inputs`` reads the test set for a study."""

    sites: Sequence[Site]
    test_inputs: Callable[[Study], NDArray[np.float32]]
    test_labels: NDArray[np.int64]
    test_name: str
    hospitals: tuple[Hospital, ...] = ()
    pooled: Pooled | None = None
    reports: dict[str, Reconciliation] = field(default_factory=dict)

    @property
    def folders(self) -> list[Path]:
        """The sites' folders."""
        return [site.folder.path for site in self.sites]


def prepare(
    scenario: Scenario,
    out: Path,
    images: Path | None,
    randomness: Randomness,
    stage: Stage,
    source: str,
) -> Material:
    """Make the hospitals, open their sites and take their patients in; resumes what is there.

    ``source`` names the scenario in errors.
    """
    if scenario.data.source == "breast-cancer":
        return _table_material(scenario, out, randomness)
    arrays = _arrays(scenario, images, stage, source)
    _check_classes(scenario, arrays, source)
    return _image_material(scenario, out, arrays, randomness, stage)


def _arrays(scenario: Scenario, images: Path | None, stage: Stage, source: str) -> ImageArrays:
    data = scenario.data
    if data.source == "phantom":
        stage("drawing phantoms", 0, 0)
        classes = len(scenario.plan.get("study", {}).get("classes", ("", "")))
        return phantom_arrays(data.patients, data.size, classes, scenario.seed)
    path = images or (Path(data.path) if data.path else None)
    if path is None:
        raise OperatorError(
            f"{source}: data.path: no images; name an array file with --images X.npz"
        )
    return load_arrays(path)


def _image_material(
    scenario: Scenario, out: Path, arrays: ImageArrays, randomness: Randomness, stage: Stage
) -> Material:
    data = scenario.data
    hospitals = make_hospitals(
        arrays,
        out / "hospitals",
        sites=data.sites,
        partition=data.partition,
        images_per_patient=data.images_per_patient,
        plain=data.plain,
        seed=scenario.seed,
        progress=lambda done, total: stage("making hospitals' DICOM", done, total),
    )
    names = [hospital.name for hospital in hospitals]
    sites = open_sites(out / "sites", names, randomness, holdout_fraction=0.0)
    total = sum(hospital.images for hospital in hospitals)
    reports, before = {}, 0
    for site, hospital in zip(sites, hospitals, strict=True):
        reports[site.name] = add_hospital(site, hospital, stage, before, total)
        before += hospital.images

    def test_inputs(study: Study) -> NDArray[np.float32]:
        shown = preprocess_array(arrays.test_images, study.plan.preprocess)
        return feature_map(study.input_spec)(shown)

    return Material(
        sites=sites,
        test_inputs=test_inputs,
        test_labels=arrays.test_labels,
        test_name=f"{len(arrays.test_labels)} test images",
        hospitals=hospitals,
        reports=reports,
    )


def _table_material(scenario: Scenario, out: Path, randomness: Randomness) -> Material:
    data = scenario.data
    files, train, test = share_table(
        breast_cancer(),
        out / "hospitals",
        sites=data.sites,
        held_out=data.held_out,
        seed=scenario.seed,
    )
    names = [file.parent.name for file in files]
    sites = open_sites(out / "sites", names, randomness, HOLDOUT_OF_TABLE)
    for site, file in zip(sites, files, strict=True):
        add_rows(site, file)

    def test_inputs(study: Study) -> NDArray[np.float32]:
        scaled = scaled_rows(test.columns, test.features, study.plan.cohort.columns)
        return scaled.astype(np.float32)

    return Material(
        sites=sites,
        test_inputs=test_inputs,
        test_labels=test.labels,
        test_name=f"{len(test.labels)} test patients",
        pooled=(train.features, train.labels, test.features),
    )


def _check_classes(scenario: Scenario, arrays: ImageArrays, source: str) -> None:
    """Every class of the plan needs patients somewhere, and every label a class."""
    classes = scenario.plan.get("study", {}).get("classes", ())
    found = np.bincount(arrays.train_labels, minlength=len(classes))
    if len(found) > len(classes):
        raise OperatorError(
            f"{source}: plan.study.classes: {len(classes)} classes, but the labels go to "
            f"{len(found) - 1}; name every class"
        )
    absent = [name for name, count in zip(classes, found, strict=True) if count == 0]
    if absent:
        raise OperatorError(
            f"{source}: plan.study.classes: no hospital has a training patient of class "
            f"{', '.join(map(repr, absent))}; remove the class or add images of it"
        )
