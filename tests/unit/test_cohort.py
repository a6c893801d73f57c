"""Cohorts: labelled patients of one split, opened lazily from the vault."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from pydicom.uid import generate_uid
from tests.dicom_cases import encoded, image, noise

from fedward_client.catalogue import Instance, Label
from fedward_client.cohort import FeatureMap, image_cohort, table_cohort
from fedward_client.intake.add import add_folder, deidentifier_of
from fedward_client.intake.table import add_table
from fedward_client.preprocess.pipeline import preprocess_array
from fedward_client.preprocess.spec import PreprocessSpec
from fedward_client.site_folder import create_site, open_site
from fedward_common.errors import IntegrityError, OperatorError
from fedward_common.plan.sections import Column

SPEC = PreprocessSpec(size=20, channels=1)
CLASSES = ("well", "sick")
STUDY = generate_uid()


@pytest.fixture
def site(tmp_path):
    """P0 (two images) sick, P1 well, both for training; P2 sick, held out; P3 has no label."""
    folder = tmp_path / "pacs"
    folder.mkdir()
    for number, patient in enumerate(("P0", "P0", "P1", "P2", "P3")):
        ds = image(noise((20, 20), number), patient=patient, study=STUDY if number == 1 else None)
        (folder / f"{number}.dcm").write_bytes(encoded(ds))
    labels = tmp_path / "labels.csv"
    rows = ("patient,P0,sick,train", "patient,P1,0,train", "patient,P2,1,holdout")
    labels.write_text("\n".join(("level,id,label,split", *rows)))
    create_site(tmp_path / "site", "north")
    with open_site(tmp_path / "site") as site:
        add_folder(site, folder, labels)
        yield site


def cohort_of(site, split="train", **options):
    chosen = {"classes": CLASSES, "spec": SPEC, **options}
    return image_cohort(site.catalogue, site.vault, site.split, split=split, **chosen)


def test_a_cohort_holds_its_split_with_all_images(site):
    train, held = cohort_of(site), cohort_of(site, "holdout")
    assert sorted(train.labels.tolist()) == [0, 1]
    assert train.labels.dtype == np.int64
    assert held.labels.tolist() == [1]
    for index in range(len(train)):
        inputs, label = train.patient(index)
        assert inputs.shape == ((2, 1, 20, 20) if label == 1 else (1, 1, 20, 20))
        assert inputs.dtype == np.float32
    expected = preprocess_array(noise((20, 20), 3)[None], SPEC)
    np.testing.assert_array_equal(held.patient(0)[0], expected)


def test_what_a_cohort_gives_out_cannot_be_changed(site):
    cohort = cohort_of(site)
    with pytest.raises(ValueError, match="read-only"):
        cohort.patient(0)[0][:] = 0
    with pytest.raises(ValueError, match="read-only"):
        cohort.labels[:] = 0


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_the_cache_changes_nothing(site, cache_bytes):
    cohort = cohort_of(site, cache_bytes=cache_bytes)
    first = [cohort.patient(i)[0].copy() for i in (0, 1)]
    for index, before in enumerate(first):
        np.testing.assert_array_equal(cohort.patient(index)[0], before)
    fresh = cohort_of(site)
    np.testing.assert_array_equal(fresh.patient(0)[0], first[0])


def test_memory_stays_within_its_limit(site):
    cohort = cohort_of(site, cache_bytes=2 * 400 * 4)
    for index in (0, 1, 0, 1):
        cohort.patient(index)
    assert cohort._cache._used <= 2 * 400 * 4


def test_preparation_fills_the_sealed_cache_which_is_used(site):
    cohort = cohort_of(site)
    seen = []
    cohort.prepare(lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    name = cohort._object_name(0)
    assert name in site.vault
    for instance in site.catalogue.instances():
        site.vault.remove(instance.object_name)
    assert cohort_of(site).patient(0)[0].shape[1:] == (1, 20, 20)


def test_a_damaged_cache_is_made_again_but_a_damaged_image_is_an_error(site):
    cohort = cohort_of(site)
    before = cohort.patient(0)[0]
    site.vault._path(cohort._object_name(0)).write_bytes(b"damaged")
    np.testing.assert_array_equal(cohort_of(site).patient(0)[0], before)
    site.vault.remove(cohort._object_name(0))
    for instance in site.catalogue.instances():
        site.vault._path(instance.object_name).write_bytes(b"damaged")
    with pytest.raises(IntegrityError):
        cohort_of(site).patient(0)


def test_another_specification_or_feature_map_has_its_own_cache(site):
    plain = cohort_of(site)
    larger = cohort_of(site, spec=PreprocessSpec(size=24, channels=1))
    mean = FeatureMap("mean", lambda images: images.mean(axis=(2, 3)))
    mapped = cohort_of(site, features=mean)
    names = {cohort._object_name(0) for cohort in (plain, larger, mapped)}
    assert len(names) == 3
    inputs, _ = mapped.patient(0)
    np.testing.assert_allclose(inputs, plain.patient(0)[0].mean(axis=(2, 3)), rtol=1e-6)


def test_a_study_label_covers_that_study_only(site):
    pseudonym = deidentifier_of(site).pseudonym
    patient = pseudonym("patient", "P0")
    site.database.execute("DELETE FROM labels WHERE patient = ?", (patient,))
    label = Label("study", pseudonym("study", STUDY), patient, "sick", "train")
    site.catalogue.add_labels([label])
    cohort = cohort_of(site)
    sick = cohort.labels.tolist().index(1)
    np.testing.assert_array_equal(
        cohort.patient(sick)[0], preprocess_array(noise((20, 20), 1)[None], SPEC)
    )


def test_a_label_that_is_no_class_is_an_error_without_its_value(site):
    with pytest.raises(OperatorError, match="1 are not a class") as caught:
        cohort_of(site, classes=("0", "other"))
    assert "sick" not in str(caught.value)


def test_moved_or_altered_labels_are_detected(site):
    rows = site.database.execute("SELECT target, sealed FROM labels").fetchall()
    site.database.execute("UPDATE labels SET sealed = ? WHERE target = ?", (rows[0][1], rows[1][0]))
    with pytest.raises(IntegrityError):
        cohort_of(site)


def test_a_table_cohort_is_scaled_by_public_bounds(site, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "id,age,size,label,split\nA,40,5,sick,train\nB,200,0,well,train\nC,1,1,0,holdout"
    )
    add_table(site, path, deidentifier_of(site).pseudonyms.patient)
    columns = (
        Column(name="size", lower=0.0, upper=10.0),
        Column(name="age", lower=0.0, upper=80.0),
    )
    site.database.execute("DELETE FROM labels WHERE patient NOT IN (SELECT patient FROM features)")
    cohort = table_cohort(
        site.catalogue, site.split, split="train", classes=CLASSES, columns=columns
    )
    found = {cohort.patient(i)[1]: cohort.patient(i)[0].tolist() for i in range(len(cohort))}
    assert found == {1: [[0.0, 0.0]], 0: [[-1.0, 1.0]]}
    missing = (*columns, Column(name="weight", lower=0.0, upper=1.0))
    with pytest.raises(OperatorError, match="weight"):
        table_cohort(site.catalogue, site.split, split="train", classes=CLASSES, columns=missing)


def test_the_keyed_rule_splits_patients_without_a_given_split(site):
    labels = [replace(label, split=None) for label in site.catalogue.labels()]
    site.catalogue.add_labels(labels)
    sizes = [len(cohort_of(site, split)) for split in ("train", "holdout")]
    assert sum(sizes) == 3
    expected = [site.split.split_of(label.patient) for label in labels].count("train")
    assert sizes[0] == expected


@pytest.mark.slow
def test_selection_over_many_rows_is_fast(site):
    rows = [
        Instance(f"i{n}", f"p{n // 4}", f"s{n}", f"r{n}", "CR", n.to_bytes(32, "big"))
        for n in range(100_000)
    ]
    site.catalogue.add(rows)
    site.catalogue.add_labels(
        Label("patient", f"p{n}", f"p{n}", "sick", None) for n in range(25_000)
    )
    start = time.process_time()
    cohort = cohort_of(site)
    spent = time.process_time() - start
    print(f"selection over 100,000 instances: {spent:.2f} s of CPU")
    assert len(cohort) > 15_000
