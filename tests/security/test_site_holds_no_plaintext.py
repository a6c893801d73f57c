"""Nothing below a site folder holds a token, a label or a run of pixels of the input (G8)."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from pynetdicom import AE
from tests.dicom_cases import TOKEN, encoded, image, noise
from tests.dicom_network import CALLER, TITLE, found, part, serving

from fedward_client.cohort import image_cohort
from fedward_client.intake.add import add_folder, deidentifier_of
from fedward_client.intake.dicomweb import fetch
from fedward_client.intake.receiver import Endpoint, Receiver
from fedward_client.intake.source import Source
from fedward_client.intake.table import add_table
from fedward_client.preprocess.spec import PreprocessSpec
from fedward_client.site_folder import create_site, open_site

PATIENT = "MRN7482913"
LABEL = "ADENOCARCINOMA"


def on_disk(folder):
    return b"\n".join(p.name.encode() + p.read_bytes() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("closed", [False, True])
def test_a_grep_of_the_site_folder_finds_nothing(tmp_path, closed):
    pixels = noise((64, 64), 5)
    ds = image(pixels, patient=PATIENT)
    folder = tmp_path / f"pacs-{TOKEN}"
    folder.mkdir()
    (folder / f"{TOKEN}.dcm").write_bytes(encoded(ds))
    labels = tmp_path / "labels.csv"
    labels.write_text(f"level,id,label,split\npatient,{PATIENT},{LABEL},train\n")
    table = tmp_path / "table.csv"
    table.write_text(f"id,age,label\n{PATIENT}9,71.0078125,{LABEL}\n")
    create_site(tmp_path / "site", "north")
    site = open_site(tmp_path / "site")
    add_folder(site, folder, labels)
    add_table(site, table, deidentifier_of(site).pseudonyms.patient)
    spec = PreprocessSpec(size=32, channels=1)
    cohort = image_cohort(
        site.catalogue, site.vault, site.split, split="train", classes=(LABEL,), spec=spec
    )
    cohort.prepare()
    if closed:
        site.close()
    everything = on_disk(tmp_path / "site")
    images = cohort.patient(0)[0]
    uids = (ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID)
    texts = (TOKEN, PATIENT, LABEL, "20010203", *uids)
    runs = [
        pixels[10, 20:44].tobytes(),
        images[0, 0, 10].tobytes(),
        np.float64(71.0078125).tobytes(),
        *(text.encode() for text in texts),
    ]
    assert not [run for run in runs if run in everything]
    site.close()


def planted(pixels):
    """An image, and what nothing on the disk may hold of it."""
    ds = image(pixels, patient=PATIENT)
    texts = (TOKEN, PATIENT, "20010203", ds.SOPInstanceUID, ds.StudyInstanceUID)
    return ds, [pixels[10, 20:44].tobytes(), *(str(text).encode() for text in texts)]


def test_workers_receiver_and_fetch_leave_nothing_in_clear(tmp_path, monkeypatch):
    """The site's folder and the temporary folder, while they run and afterwards."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    create_site(tmp_path / "site", "north")
    everything, runs = b"", []

    def look():
        return on_disk(tmp_path / "site") + on_disk(tmp_path / "tmp")

    pacs = tmp_path / "pacs"
    pacs.mkdir()
    for number in range(16):
        ds, traces = planted(noise((64, 64), number))
        runs += traces
        (pacs / f"{number}.dcm").write_bytes(encoded(ds))
    with open_site(tmp_path / "site") as site:
        seen = []
        add_folder(site, pacs, jobs=2, progress=lambda *_: seen.append(look()))
        everything += b"".join(seen[::4])
        sent, traces = planted(noise((64, 64), 100))
        runs += traces
        with Receiver(site, Endpoint(TITLE, 0), jobs=1) as receiver:
            entity = AE(ae_title=CALLER)
            entity.add_requested_context(sent.SOPClassUID, sent.file_meta.TransferSyntaxUID)
            association = entity.associate("127.0.0.1", receiver.port, ae_title=TITLE)
            assert association.send_c_store(sent).Status == 0
            everything += look()
            association.release()
        pulled, traces = planted(noise((64, 64), 101))
        runs += traces
        answers = {
            "/studies": found(pulled),
            "/instances": found(pulled),
            pulled.SOPInstanceUID: part(encoded(pulled)),
        }
        with serving(answers) as (_, url):
            assert fetch(site, Source(url)).used == 1
        everything += look()
    everything += look()
    assert not [run for run in runs if run in everything]


def test_the_grep_itself_would_find_a_leak(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "leak").write_bytes(b"abc" + TOKEN.encode())
    assert TOKEN.encode() in on_disk(tmp_path)
