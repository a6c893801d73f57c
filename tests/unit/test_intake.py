"""Intake: everything is looked at before anything is stored; every file is accounted for."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from functools import partial

import numpy as np
import pytest
from pydicom.uid import generate_uid
from tests.dicom_cases import TOKEN, ct, encoded, file_bytes, image, noise

from fedward_client.catalogue import Label
from fedward_client.deidentify import decoding
from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Reason, RefusalError
from fedward_client.intake import add, keeper
from fedward_client.intake.add import add_folder, add_labels, deidentifier_of
from fedward_client.intake.reconcile import Tally, reconcile
from fedward_client.intake.table import add_table
from fedward_client.site_folder import create_site, open_site
from fedward_common.codec import encode
from fedward_common.errors import OperatorError, StorageError


@pytest.fixture
def site(tmp_path):
    create_site(tmp_path / "site", "north")
    with open_site(tmp_path / "site") as site:
        yield site


@pytest.fixture
def pacs(tmp_path):
    """Three patients: P0 with two studies of one image, P1 and P2 with one."""
    folder = tmp_path / "pacs"
    for number, patient in enumerate(("P0", "P0", "P1", "P2")):
        write(folder / patient / f"{number}.dcm", image(noise((20, 20), number), patient=patient))
    return folder


def write(path, ds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ds if isinstance(ds, bytes) else encoded(ds))
    return path


def labels_file(tmp_path, *lines, header="level,id,label,split"):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join((header, *lines)) + "\n", "utf-8")
    return path


def here(method, sources, _jobs):
    """De-identify in this process, where a test can make it fail."""
    engine = method.engine()
    return ((key, engine.deidentify(data)) for key, data in sources)


def stored(site):
    return site.catalogue.counts(), sorted(p.name for p in (site.path / "vault").iterdir())


EMPTY = (
    {"patients": 0, "studies": 0, "instances": 0, "labels": 0, "table_rows": 0, "quarantined": 0},
    [],
)


def test_a_folder_and_its_labels_are_added(site, pacs, tmp_path):
    labels = labels_file(tmp_path, "patient,P0,1,train", "patient,P1,0,holdout", "patient,P2,1,")
    seen = []
    report = add_folder(site, pacs, labels, progress=lambda done, total: seen.append((done, total)))
    assert (report.found, report.used, report.patients) == (4, 4, 3)
    assert report.train_patients + report.holdout_patients == 3
    assert report.patients_without_label == report.labels_without_images == 0
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert site.catalogue.counts()["studies"] == 4
    assert sorted(label.value for label in site.catalogue.labels()) == ["0", "1", "1"]
    assert {label.split for label in site.catalogue.labels()} == {"train", "holdout", None}
    for instance in site.catalogue.instances():
        assert site.vault.get(instance.object_name)[128:132] == b"DICM"


def test_both_passes_tell_how_far_they_are(site, pacs):
    first, second = [], []
    add_folder(
        site,
        pacs,
        looking=lambda *so_far: first.append(so_far),
        progress=lambda *so_far: second.append(so_far),
    )
    assert first == second == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_without_labels_broken_files_are_set_aside_in_one_pass(site, pacs, monkeypatch):
    """Every file is read once, and counted as two passes would count it."""
    write(pacs / "broken.dcm", b"hello, this is not DICOM")
    shutil.copy(pacs / "P1" / "2.dcm", pacs / "copy.dcm")
    read, looked = [], []
    once = add._read
    monkeypatch.setattr(add, "_read", lambda file: read.append(file) or once(file))
    monkeypatch.setattr(add, "MEMORY_BYTES", 0)
    report = add_folder(site, pacs, skip_unreadable=True, looking=lambda *_: looked.append(1))
    assert len(read) == len(set(read)) == report.found == 6
    assert not looked
    assert (report.used, report.duplicates) == (4, 1)
    assert report.excluded == {str(Reason.NOT_DICOM): 1}
    again = add_folder(site, pacs, skip_unreadable=True)
    assert (again.known, again.duplicates, again.used) == (4, 1, 0)
    assert again.excluded == report.excluded


def test_one_pass_begins_with_nothing_it_may_not_read(site, pacs, monkeypatch):
    closed = pacs / "P2" / "3.dcm"
    monkeypatch.setattr(os, "access", lambda file, _mode: file != closed)
    with pytest.raises(OperatorError, match=r"3\.dcm: cannot be read"):
        add_folder(site, pacs, skip_unreadable=True)
    assert stored(site) == EMPTY


def test_a_mask_that_meets_no_image_is_told(site, pacs):
    """A typing error in a mask leaves pixels as they were, so the report says so."""
    (site.path / "profile.toml").write_text(
        '[[mask]]\nmodality = "CR"\nrows = 21\ncolumns = 20\nrectangles = [[0, 0, 5, 5]]\n'
    )
    config = site.path / "config.toml"
    config.write_text(config.read_text().replace('profile = ""', 'profile = "profile.toml"'))
    with open_site(site.path) as masked:
        lines = add_folder(masked, pacs).lines()
        assert "warning, the mask for CR with 21 rows and 20 columns met no image" in lines[-2]
        assert "warning, CR with 20 rows and 20 columns: 4 images without a mask" in lines[-1]
        assert add_folder(masked, pacs).warnings == ()  # nothing new: nothing to say


def test_adding_again_adds_only_what_is_new(site, pacs):
    add_folder(site, pacs)
    before = stored(site)
    again = add_folder(site, pacs)
    assert (again.used, again.known) == (0, 4)
    assert stored(site) == before
    write(pacs / "new.dcm", image(noise((20, 20), 9), patient="P9"))
    assert add_folder(site, pacs).used == 1


def test_duplicates_are_detected_by_content_and_by_instance(site, pacs):
    shutil.copy(pacs / "P1" / "2.dcm", pacs / "copy.dcm")
    uid = generate_uid()
    for number in range(2):
        write(pacs / f"same{number}.dcm", image(noise((20, 20), number + 20), instance=uid))
    report = add_folder(site, pacs)
    assert (report.found, report.used, report.duplicates) == (7, 5, 2)


def test_other_files_and_dicomdir_are_ignored(site, pacs):
    (pacs / "readme.txt").write_text("hello")
    (pacs / "labels.csv").write_text("level,id,label,split\n")
    write(pacs / "DICOMDIR", ct())
    write(pacs / "IM0001", image(noise((20, 20), 5)))
    report = add_folder(site, pacs)
    assert (report.used, report.ignored) == (5, 3)


def test_one_file_may_be_added(site, pacs):
    assert add_folder(site, pacs / "P1" / "2.dcm").used == 1


def test_refused_content_is_recorded_and_stops_nothing(site, pacs):
    ds = image(noise((20, 20)))
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    write(pacs / "report.dcm", ds)
    report = add_folder(site, pacs)
    assert report.excluded == {str(Reason.UNKNOWN_SOP_CLASS): 1}
    assert report.used == 4
    again = add_folder(site, pacs)
    assert again.excluded == {str(Reason.UNKNOWN_SOP_CLASS): 1}
    for each in (report, again):
        assert each.found == each.used + each.known + each.duplicates + sum(each.excluded.values())


def test_a_refusal_lasts_as_long_as_the_profile_and_the_version(site, pacs, monkeypatch):
    write(pacs / "nobody.dcm", image(noise((20, 20), 8), patient=""))
    assert add_folder(site, pacs).excluded == {str(Reason.NO_PATIENT_ID): 1}
    tried = []
    again = partial(add_folder, site, pacs, progress=lambda done, _: tried.append(done))
    assert again().excluded == {str(Reason.NO_PATIENT_ID): 1}
    assert not tried
    monkeypatch.setattr(keeper, "__version__", "99.0")
    assert again().excluded == {str(Reason.NO_PATIENT_ID): 1}
    assert len(tried) == site.catalogue.counts()["quarantined"] == 1
    (site.path / "profile.toml").write_text('missing_patient_id = "study"\n')
    config = site.path / "config.toml"
    config.write_text(config.read_text().replace('profile = ""', 'profile = "profile.toml"'))
    with open_site(site.path) as changed:
        assert changed.profile.missing_patient_id == "study"
        report = add_folder(changed, pacs)
        assert (report.used, report.known, report.excluded) == (1, 4, {})
        assert changed.catalogue.counts()["quarantined"] == 0


def test_a_decoder_that_took_too_long_is_tried_again(site, tmp_path, monkeypatch):
    path = write(tmp_path / "rle.dcm", file_bytes("MR_small_RLE.dcm"))
    monkeypatch.setattr(decoding, "_WORKER", decoding._Worker())
    with monkeypatch.context() as hurry:
        hurry.setattr(decoding, "TIMEOUT_SECONDS", 0.001)
        hurry.setattr(add, "clean_in_order", here)
        with pytest.raises(OperatorError, match="more time or memory"):
            add_folder(site, path)
    assert site.catalogue.counts()["quarantined"] == 0
    assert add_folder(site, path).used == 1


def test_a_decoder_without_memory_says_so(monkeypatch):
    def exhausted(_encoded):
        raise MemoryError

    monkeypatch.setattr(decoding, "_decode_here", exhausted)
    message = decoding._answer(encode(("1.2", "OB", "M", 1, 1, 1, 1, 8, 8, False, False, b"")))
    with pytest.raises(RefusalError) as caught:
        decoding._from_reply(message)
    assert caught.value.reason.is_passing


def test_what_failed_for_no_lasting_reason_is_tried_again(site, pacs, monkeypatch):
    with monkeypatch.context() as failing:
        failing.setattr(Deidentifier, "_clean", lambda *_: 1 // 0)
        failing.setattr(add, "clean_in_order", here)
        with pytest.raises(OperatorError, match=r"cleaning it failed.*: 4"):
            add_folder(site, pacs)
    assert add_folder(site, pacs).used == 4


def test_a_pipe_named_like_dicom_is_refused(site, pacs):
    os.mkfifo(pacs / "x.dcm")
    os.mkfifo(pacs / "other")
    with pytest.raises(OperatorError, match=r"x\.dcm: is not a file"):
        add_folder(site, pacs)
    (pacs / "x.dcm").unlink()
    report = add_folder(site, pacs)
    assert (report.used, report.ignored) == (4, 1)


def test_a_folder_of_which_nothing_can_be_used_is_an_error(site, tmp_path):
    ds = image(noise((20, 20)), patient="")
    write(tmp_path / "bad" / "a.dcm", ds)
    with pytest.raises(OperatorError, match="no patient identifier: 1"):
        add_folder(site, tmp_path / "bad")


@pytest.mark.parametrize("kind", ["text", "truncated", "cut header", "empty"])
def test_an_unreadable_file_is_one_line_and_leaves_nothing(site, pacs, kind):
    whole = encoded(ct())
    content = {
        "text": b"hello, this is not DICOM",
        "truncated": whole[: len(whole) - 5000],
        "cut header": whole[:700],
        "empty": b"",
    }[kind]
    path = write(pacs / "P9" / "bad.dcm", content)
    with pytest.raises(OperatorError) as caught:
        add_folder(site, pacs)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert stored(site) == EMPTY
    report = add_folder(site, pacs, skip_unreadable=True)
    assert report.used == 4
    assert sum(report.excluded.values()) == 1


def test_an_empty_or_missing_folder_is_an_error(site, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(OperatorError, match=path.name):
            add_folder(site, path)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (("patient,NOBODY,1,", "patient,P0,1,"), "line 2"),
        (("patient,P0,1,", "patient,P0,0,"), "line 3"),
        (("patient,P0,1,train", "patient,P0,1,holdout"), "line 3"),
        (("person,P0,1,",), "line 2: level"),
        (("patient,P0,1,test",), "line 2: split"),
        (("patient,P0,,",), "line 2: id and label"),
        (("patient,,1,",), "line 2: id and label"),
        (("patient,P0,1",), "line 2: 3 cells"),
        ((), "no label"),
    ],
)
def test_bad_labels_are_one_line_and_leave_nothing(site, pacs, tmp_path, lines, complaint):
    path = labels_file(tmp_path, *lines)
    with pytest.raises(OperatorError) as caught:
        add_folder(site, pacs, path)
    message = str(caught.value)
    assert str(path) in message
    assert complaint in message
    assert "P0" not in message
    assert "NOBODY" not in message
    assert stored(site) == EMPTY


def test_a_wrong_header_or_encoding_is_an_error(site, pacs, tmp_path):
    with pytest.raises(OperatorError, match="level,id,label,split"):
        add_folder(site, pacs, labels_file(tmp_path, "P0,1", header="id,label"))
    (tmp_path / "labels.csv").write_bytes(b"level,id,label,split\npatient,\xff\xfe,1,\n")
    with pytest.raises(OperatorError, match="UTF-8"):
        add_folder(site, pacs, tmp_path / "labels.csv")
    with pytest.raises(OperatorError, match="cannot be read"):
        add_folder(site, pacs, tmp_path / "nowhere.csv")


def test_studies_and_instances_may_be_labelled(site, pacs, tmp_path):
    study, instance = generate_uid(), generate_uid()
    write(pacs / "a.dcm", image(noise((20, 20), 5), patient="P5", study=study))
    write(pacs / "b.dcm", image(noise((20, 20), 6), patient="P6", instance=instance))
    lines = (f"study,{study},sick,", f"instance,{instance},well,")
    add_folder(site, pacs, labels_file(tmp_path, *lines))
    assert {label.level for label in site.catalogue.labels()} == {"study", "instance"}
    conflicting = labels_file(tmp_path, "patient,P5,well,")
    with pytest.raises(OperatorError, match="one label"):
        add_folder(site, pacs, conflicting)
    corrected = labels_file(tmp_path, f"study,{study},well,")
    add_folder(site, pacs, corrected)
    assert {label.value for label in site.catalogue.labels()} == {"well"}


def test_labels_of_quarantined_images_are_counted(site, pacs, tmp_path):
    ds = image(noise((20, 20), 7), patient="P7")
    ds.HighBit = 3
    write(pacs / "odd.dcm", ds)
    report = add_folder(site, pacs, labels_file(tmp_path, "patient,P7,1,", "patient,P0,1,"))
    assert report.labels_without_images == 1
    assert report.patients_without_label == 2


def test_a_folder_with_labels_of_quarantined_images_may_be_added_again(site, pacs, tmp_path):
    ds = image(noise((20, 20), 7), patient="P7")
    ds.HighBit = 3
    write(pacs / "odd.dcm", ds)
    labels = labels_file(tmp_path, "patient,P7,1,", "patient,P0,1,")
    first = add_folder(site, pacs, labels)
    again = add_folder(site, pacs, labels)
    assert again.labels_without_images == first.labels_without_images == 1
    assert again.excluded == first.excluded


def test_a_report_holds_counts_only(site, pacs, tmp_path):
    text = "\n".join(add_folder(site, pacs, labels_file(tmp_path, "patient,P0,1,")).lines())
    assert "P0" not in text
    assert TOKEN not in text
    assert "used: 4" in text


def test_two_intakes_at_once_store_everything_once(site, pacs, monkeypatch):
    """Another intake runs between the batches of this one."""
    monkeypatch.setattr(keeper, "BATCH_FILES", 2)
    reports = []
    with open_site(site.path) as other:

        def progress(done, total):
            if done == 2:
                reports.append(add_folder(other, pacs))

        mine = add_folder(site, pacs, progress=progress)
    (theirs,) = reports
    assert (theirs.used, theirs.known) == (2, 2)
    assert (mine.used, mine.duplicates) == (2, 2)
    assert site.catalogue.counts()["instances"] == 4
    for instance in site.catalogue.instances():
        assert site.vault.get(instance.object_name)[128:132] == b"DICM"


def test_a_site_that_stays_locked_is_an_error(site, pacs, monkeypatch):
    monkeypatch.setattr(keeper, "LOCK_SECONDS", 0.1)
    with (
        open_site(site.path) as other,
        keeper.exclusive(other),
        pytest.raises(OperatorError, match="another intake"),
    ):
        add_folder(site, pacs)
    assert add_folder(site, pacs).used == 4


@pytest.mark.parametrize("limit", [3_000, 20_000])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(site, tmp_path, limit):
    """A limit on file sizes stands for a full disk: in the vault, or in the database."""
    pacs = tmp_path / "many"
    side = 60 if limit == 3_000 else 16
    for number in range(40):
        write(pacs / f"{number}.dcm", image(noise((side, side), number), patient=f"P{number}"))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        status = 0
        try:
            with open_site(site.path) as mine:
                add_folder(mine, pacs, jobs=1)
        except StorageError as error:
            status = 40 + ("\n" in str(error)) + error.exit_code
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 41
    assert stored(site) == EMPTY
    assert add_folder(site, pacs, jobs=1).used == 40


TABLE = "id,age,label,size\nP0,40,1,2.5\nP1,50.5,0,-1e3\n"


def test_a_table_is_added(site, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    pseudonyms = deidentifier_of(site).pseudonyms
    assert add_table(site, path, pseudonyms.patient) == 2
    columns, values = site.catalogue.features(pseudonyms.patient("P1"))
    assert columns == ("age", "size")
    np.testing.assert_array_equal(values, [50.5, -1000])
    assert site.catalogue.table_patients() == {pseudonyms.patient(p) for p in ("P0", "P1")}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("id,age\nP0,4\n", "column named label"),
        ("id,label\nP0,4\n", "no feature column"),
        ("id,age,age,label\nP0,1,2,1\n", "name of its own"),
        ("id,age,label\nP0,old,1\n", "line 2: column 'age'"),
        ("id,age,label\nP0,nan,1\n", "line 2: column 'age'"),
        ("id,age,label\nP0,inf,1\n", "line 2: column 'age'"),
        ("id,age,label\nP0,1\n", "line 2: 2 cells"),
        ("id,age,label\nP0,1,\n", "line 2: identifier and label"),
        ("id,age,label\nP0,1,1\nP0,2,1\n", "line 3"),
        ("id,age,label,split\nP0,1,1,both\n", "line 2: split"),
        ("id,age,label\n", "no patient"),
        ("", "column named label"),
    ],
)
def test_a_bad_table_is_one_line_and_leaves_nothing(site, tmp_path, text, complaint):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(OperatorError) as caught:
        add_table(site, path, deidentifier_of(site).pseudonyms.patient)
    assert complaint in str(caught.value)
    assert "P0" not in str(caught.value)
    assert stored(site) == EMPTY


def test_no_later_file_moves_a_patient_between_the_splits(site, tmp_path):
    pseudonyms = deidentifier_of(site).pseudonyms
    path = tmp_path / "table.csv"
    rows = [f"P{n},0,{n}.0" for n in range(30)]
    path.write_text("\n".join(["patient,label,x", *rows]) + "\n")
    add_table(site, path, pseudonyms.patient)
    before = site.catalogue.labels()
    path.write_text(
        "\n".join(["patient,label,x,split", *(f"{row},holdout" for row in rows)]) + "\n"
    )
    with pytest.raises(OperatorError, match=r"table\.csv: \d+ patients would move between train"):
        add_table(site, path, pseudonyms.patient)
    assert site.catalogue.labels() == before


def test_what_no_label_covers_is_counted_by_patient_and_by_image(site, pacs, tmp_path):
    study = generate_uid()
    write(pacs / "a.dcm", image(noise((20, 20), 5), patient="P5", study=study))
    write(pacs / "b.dcm", image(noise((20, 20), 6), patient="P5"))
    report = add_folder(site, pacs, labels_file(tmp_path, f"study,{study},1,", "patient,P0,1,"))
    assert (report.patients, report.patients_without_label) == (4, 2)
    assert report.images_without_label == 3
    assert report.patients_in_both_splits == 0


def test_a_patient_in_both_splits_is_counted(site, pacs):
    """Labels files cannot make one; a database that holds one anyway says so."""
    add_folder(site, pacs)
    patient = site.catalogue.instances()[0].patient
    study = next(i.study for i in site.catalogue.instances() if i.patient == patient)
    labels = [
        Label("patient", patient, patient, "1", "train"),
        Label("study", study, patient, "1", "holdout"),
    ]
    site.catalogue.add_labels(labels)
    assert reconcile(Tally(0, 0), site.catalogue, site.split).patients_in_both_splits == 1


def test_labels_may_be_added_later(site, pacs, tmp_path):
    add_folder(site, pacs)
    report = add_labels(site, labels_file(tmp_path, "patient,P0,1,", "patient,P1,0,"))
    assert report.patients_without_label == 1
    assert len(site.catalogue.labels()) == 2
    with pytest.raises(OperatorError, match="not among the images"):
        add_labels(site, labels_file(tmp_path, "patient,P77,1,"))


def test_files_beyond_the_memory_are_read_again(site, pacs, monkeypatch):
    """What the first pass cannot keep is the same in the second."""
    monkeypatch.setattr(add, "MEMORY_BYTES", 0)
    assert add_folder(site, pacs).used == 4


def test_any_number_of_processes_gives_the_same_objects(site, tmp_path):
    """Files, duplicates and refusals included, objects and counts are equal to the last bit."""
    pacs = tmp_path / "many"
    for number in range(40):
        write(pacs / f"{number:02}.dcm", image(noise((20, 20), number), patient=f"P{number % 7}"))
    twin = generate_uid()
    for number in (3, 30):
        ds = image(noise((20, 20), number + 50), patient="P1", instance=twin)
        write(pacs / f"{number:02}b.dcm", ds)
    write(pacs / "17b.dcm", image(noise((20, 20)), patient=""))
    reports, contents = [], []
    for jobs in (1, 2):
        path = tmp_path / f"site-{jobs}"
        create_site(path, "north")
        for key in (site.path / "identity").iterdir():
            (path / "identity" / key.name).write_bytes(key.read_bytes())
        with open_site(path) as copy:
            reports.append(add_folder(copy, pacs, jobs=jobs))
            contents.append(
                [(i, copy.vault.get(i.object_name)) for i in copy.catalogue.instances()]
            )
    assert reports[0] == reports[1]
    assert (reports[0].used, reports[0].duplicates) == (41, 1)
    assert contents[0] == contents[1]
