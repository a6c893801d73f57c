"""Arrays become hospitals: valid DICOM, exact pixels, planted identities, all or nothing."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from fedward_common.errors import OperatorError, StorageError
from fedward_simulations.arrays import ImageArrays
from fedward_simulations.hospitals import MANIFEST, Hospital, example_instances, make_hospitals
from fedward_simulations.identities import TOKEN_PATTERN, identity
from fedward_simulations.phantom import phantom_arrays
from fedward_simulations.scanners import (
    CT_CENTER,
    CT_WIDTH,
    MODALITIES,
    TEXT_BAND,
    render,
    scanner_for,
    stored_pixels,
)

ARRAYS = phantom_arrays(48, 28, 2, 3)


def coloured() -> ImageArrays:
    rng = np.random.default_rng(1)
    labels = np.arange(12, dtype=np.int64) % 3
    images = rng.integers(0, 256, (12, 9, 11, 3), dtype=np.uint8)
    return ImageArrays(images, labels, images[:3], labels[:3], images[:3], labels[:3])


def files(hospital: Hospital) -> list[Path]:
    return sorted(hospital.dicom.rglob("*.dcm"))


def rows(hospital: Hospital) -> list[dict[str, str]]:
    with hospital.labels.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        assert reader.fieldnames == ["level", "id", "label", "split"]
        return list(reader)


def as_seen(ds: pydicom.Dataset) -> NDArray[np.uint8]:
    """The grey or RGB image of 0 to 255 that a viewer would show."""
    pixels = ds.pixel_array.astype(np.float64)
    if ds.Modality == "CT":
        hu = pixels * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        return np.rint((hu - (CT_CENTER - CT_WIDTH / 2)) / CT_WIDTH * 255).astype(np.uint8)
    top = 2**ds.BitsStored - 1
    seen: NDArray[np.uint8] = np.rint(pixels / top * 255).astype(np.uint8)
    return (255 - seen).astype(np.uint8) if ds.PhotometricInterpretation == "MONOCHROME1" else seen


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hospital, ...]:
    out = tmp_path_factory.mktemp("plain") / "hospitals"
    return make_hospitals(ARRAYS, out, sites=4, plain=True)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hospital, ...]:
    out = tmp_path_factory.mktemp("varied") / "hospitals"
    return make_hospitals(ARRAYS, out, sites=8, images_per_patient=3)


def test_plain_pixels_are_the_arrays_bit_for_bit(plain: tuple[Hospital, ...]) -> None:
    for split, images, labels in (
        ("train", ARRAYS.train_images, ARRAYS.train_labels),
        ("holdout", ARRAYS.val_images, ARRAYS.val_labels),
    ):
        found = Counter[tuple[bytes, int]]()
        for hospital in plain:
            label_of = {row["id"]: row for row in rows(hospital)}
            for path in files(hospital):
                ds = pydicom.dcmread(path)
                row = label_of[ds.PatientID]
                assert ds.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
                assert (ds.BitsStored, ds.PhotometricInterpretation) == (8, "MONOCHROME2")
                if row["split"] == split:
                    found[ds.pixel_array.tobytes(), int(row["label"])] += 1
        pairs = zip(images, labels.tolist(), strict=True)
        assert found == Counter((image.tobytes(), label) for image, label in pairs)


def test_labels_name_each_patient_once(varied: tuple[Hospital, ...]) -> None:
    for hospital in varied:
        table = rows(hospital)
        on_disk = {
            pydicom.dcmread(path, stop_before_pixels=True).PatientID for path in files(hospital)
        }
        assert {row["id"] for row in table} == on_disk
        assert len(table) == len(on_disk) == hospital.train_patients + hospital.holdout_patients
        assert {row["level"] for row in table} == {"patient"}
        trained = Counter(int(row["label"]) for row in table if row["split"] == "train")
        assert trained == hospital.train_classes
        assert Counter(row["split"] for row in table)["holdout"] == hospital.holdout_patients
        assert len(files(hospital)) == hospital.images


def test_scanners_differ_and_decode_to_what_was_put_in(varied: tuple[Hospital, ...]) -> None:
    originals = {image.tobytes() for image in (*ARRAYS.train_images, *ARRAYS.val_images)}
    syntaxes = set()
    for hospital in varied:
        for path in files(hospital):
            ds = pydicom.dcmread(path)
            syntaxes.add(str(ds.file_meta.TransferSyntaxUID))
            if hospital.scanner.min_side == 0:
                assert as_seen(ds).tobytes() in originals
            else:
                assert min(ds.Rows, ds.Columns) >= hospital.scanner.min_side
    assert len(syntaxes) == 6
    assert {h.scanner.bits_stored for h in varied} == {8, 12, 16}
    assert {h.scanner.photometric for h in varied} == {"MONOCHROME1", "MONOCHROME2"}
    assert len({h.scanner.pixel_spacing for h in varied}) > 4
    assert [h.name for h in varied if h.scanner.burned_in] == ["site-03"]


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("plain_pixels", [False, True])
def test_every_modality_and_syntax_decodes(
    tmp_path: Path, modality: str, *, plain_pixels: bool
) -> None:
    arrays = phantom_arrays(16, 32)
    for hospital in make_hospitals(
        arrays, tmp_path / "out", sites=8, modality=modality, plain=plain_pixels
    ):
        ds = pydicom.dcmread(files(hospital)[0])
        assert ds.Modality == modality
        assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == hospital.scanner.sop_class
        if hospital.scanner.min_side == 0:
            wanted = [image.tobytes() for image in (*arrays.train_images, *arrays.val_images)]
            assert as_seen(ds).tobytes() in wanted


@pytest.mark.parametrize("modality", ["auto", "US"])
def test_colour_stays_colour(tmp_path: Path, modality: str) -> None:
    arrays = coloured()
    wanted = {image.tobytes() for image in arrays.train_images}
    for hospital in make_hospitals(arrays, tmp_path / "out", sites=8, modality=modality):
        for path in files(hospital):
            ds = pydicom.dcmread(path)
            assert (ds.PhotometricInterpretation, ds.SamplesPerPixel) == ("RGB", 3)
            if hospital.scanner.min_side == 0:
                assert ds.pixel_array.tobytes() in wanted


@pytest.mark.parametrize("site", range(1, 9))
def test_encoded_pixels_equal_the_rendered_image(tmp_path: Path, site: int) -> None:
    """Also the magnified and burned-in sites: the lossless codec loses nothing."""
    hospitals = make_hospitals(ARRAYS, tmp_path / "out", sites=8, seed=4)
    hospital, scanner = hospitals[site - 1], scanner_for(site, colour=False, plain=False)
    ds = pydicom.dcmread(files(hospital)[0])
    person = identity(4, site, 0)
    birth = f"{person.birth_date:%Y%m%d}"
    text = (f"{person.spoken_name}  {person.sex}", f"{person.patient_id}  {birth}")
    pixels = ds.pixel_array
    candidates = (
        stored_pixels(render(image, scanner, text), scanner)
        for image in (*ARRAYS.train_images, *ARRAYS.val_images)
    )
    assert any(np.array_equal(pixels, candidate) for candidate in candidates)


def test_burned_in_text_is_in_the_band_only() -> None:
    scanner = scanner_for(3, colour=False, plain=False)
    image = ARRAYS.train_images[0]
    said, silent = render(image, scanner, ("Amara Okonkwo", "1957")), render(image, scanner, ())
    assert said.shape == silent.shape == (248, 248)
    changed_rows = np.flatnonzero((said != silent).any(axis=1))
    assert changed_rows.size > 8
    assert changed_rows.max() < TEXT_BAND
    assert said[:TEXT_BAND].max() > 240
    assert silent[:TEXT_BAND].max() == 0


@pytest.mark.parametrize("fixture", ["plain", "varied"])
def test_each_file_holds_its_patients_token_in_every_place(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    hospitals: tuple[Hospital, ...] = request.getfixturevalue(fixture)
    tokens: dict[str, str] = {}
    for hospital in hospitals:
        for path in files(hospital):
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            (token,) = re.findall(TOKEN_PATTERN, ds.PatientID)
            assert tokens.setdefault(token, ds.PatientID) == ds.PatientID
            values = [
                ds.PatientName, ds.AccessionNumber, ds.PatientAddress, ds.PatientComments,
                ds.PatientTelephoneNumbers, ds.ReferringPhysicianName, ds.OtherPatientNames,
                ds.RequestAttributesSequence[0].RequestedProcedureID,
                ds.private_block(0x19, f"{ds.Manufacturer} 1.0")[0x01].value,
            ]  # fmt: skip
            assert all(token in str(value) for value in values)
            assert re.search(TOKEN_PATTERN, ds.InstitutionName)
    assert len(tokens) == sum(h.train_patients + h.holdout_patients for h in hospitals)


def test_headers_are_valid_and_unique(varied: tuple[Hospital, ...]) -> None:
    seen: set[str] = set()
    studies: dict[str, str] = {}
    pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    try:
        for hospital in varied:
            for path in files(hospital):
                ds = pydicom.dcmread(path)
                for element in ds.iterall():
                    assert element.value is not ...
                seen.add(ds.SOPInstanceUID)
                assert studies.setdefault(ds.StudyInstanceUID, ds.PatientID) == ds.PatientID
                assert ds.PatientBirthDate < ds.StudyDate
                assert ds.Modality == hospital.scanner.modality
    finally:
        pydicom.config.settings.reading_validation_mode = pydicom.config.WARN
    assert len(seen) == sum(hospital.images for hospital in varied)


def test_reuses_what_is_complete_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = make_hospitals(ARRAYS, out, sites=3, plain=True)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert make_hospitals(ARRAYS, out, sites=3, plain=True) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps
    for sites, seed, plain_pixels in ((4, 0, True), (3, 1, True), (3, 0, False)):
        with pytest.raises(OperatorError, match="other options"):
            make_hospitals(ARRAYS, out, sites=sites, seed=seed, plain=plain_pixels)
    files(first[1])[0].unlink()
    with pytest.raises(OperatorError, match="added or removed"):
        make_hospitals(ARRAYS, out, sites=3, plain=True)


def test_continues_after_a_kill(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    script = (
        "import os, sys; from pathlib import Path\n"
        "from fedward_simulations.hospitals import make_hospitals\n"
        "from fedward_simulations.phantom import phantom_arrays\n"
        "stop = lambda done, total: os._exit(9) if done >= total // 2 else None\n"
        "make_hospitals(phantom_arrays(48, 28, 2, 3), Path(sys.argv[1]), sites=3, progress=stop)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(out)], check=False)
    assert killed.returncode == 9
    assert not (out / MANIFEST).exists()
    finished = out / "site-01"
    stamp = finished.stat().st_mtime_ns
    with pytest.raises(OperatorError, match="other options"):
        make_hospitals(ARRAYS, out, sites=4)
    make_hospitals(ARRAYS, out, sites=3)
    make_hospitals(ARRAYS, whole, sites=3)
    assert finished.stat().st_mtime_ns == stamp
    assert contents(out) == contents(whole)


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_failing_disk_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from fedward_common.errors import StorageError\n"
        "from fedward_simulations.hospitals import make_hospitals\n"
        "from fedward_simulations.phantom import phantom_arrays\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "arrays = phantom_arrays(48, 28, 2, 3)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    make_hospitals(arrays, Path(sys.argv[1]), sites=3)\n"
        "except StorageError as error:\n"
        "    print(error); sys.exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_refuses_folders_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OperatorError, match="not empty"):
        make_hospitals(ARRAYS, tmp_path, sites=3)
    with pytest.raises(OperatorError, match="is a file"):
        make_hospitals(ARRAYS, tmp_path / "notes.txt", sites=3)
    with pytest.raises(StorageError):
        make_hospitals(ARRAYS, tmp_path / "notes.txt" / "out", sites=3)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("modality", ["ct", "PT", "CT"])
def test_refuses_a_modality_that_cannot_be(tmp_path: Path, modality: str) -> None:
    with pytest.raises(OperatorError, match="modality"):
        make_hospitals(coloured(), tmp_path / "out", sites=2, modality=modality)


def test_examples_and_manifest(varied: tuple[Hospital, ...], tmp_path: Path) -> None:
    out = varied[0].folder.parent
    examples = example_instances(out)
    assert [path.relative_to(out).parts[0] for path in examples] == [h.name for h in varied]
    assert all(path.suffix == ".dcm" for path in examples)
    record = json.loads((out / MANIFEST).read_text())
    assert record["sites"] == [hospital.to_json() for hospital in varied]
    assert record["recipe"]["seed"] == 0
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, *(h.name for h in varied)]
    with pytest.raises(OperatorError, match="no complete set"):
        example_instances(tmp_path)


def test_progress_counts_every_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_hospitals(
        ARRAYS, tmp_path / "out", sites=2, progress=lambda done, total: calls.append((done, total))
    )
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (54, 54)
