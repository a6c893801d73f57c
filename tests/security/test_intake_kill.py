"""kill -9 at any moment of an intake: running it again completes with the same catalogue (G6)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from tests.dicom_cases import encoded, image, noise

from fedward_client.intake.add import add_folder, deidentifier_of
from fedward_client.site_folder import create_site, open_site

FILES = 60
MOMENTS = int(os.environ.get("FEDWARD_KILLS", "6"))
"""Kills for each number of processes; the acceptance asks for 20."""

CHILD = """
import sys
from pathlib import Path
from fedward_client.intake import add, keeper
from fedward_client.site_folder import open_site
keeper.BATCH_FILES = 7
site, pacs, labels = map(Path, sys.argv[1:4])
tell = lambda done, total: print(done, flush=True)
with open_site(site) as opened:
    tell(0, 0)
    add.add_folder(opened, pacs, labels, jobs=int(sys.argv[4]), progress=tell)
"""


def content(site):
    held = [(i.instance, i.patient, i.study) for i in site.catalogue.instances()]
    labels = [(x.level, x.target, x.value, x.split) for x in site.catalogue.labels()]
    objects = sorted(p.name for p in (site.path / "vault").iterdir())
    return held, labels, objects


def copied_keys(source, target):
    for key in (source / "identity").iterdir():
        (target / "identity" / key.name).write_bytes(key.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_intake_is_completed_by_the_next(tmp_path, jobs):
    pacs = tmp_path / "pacs"
    pacs.mkdir()
    for number in range(FILES):
        ds = image(noise((32, 32), number), patient=f"P{number // 2}")
        (pacs / f"{number:03}.dcm").write_bytes(encoded(ds))
    labels = tmp_path / "labels.csv"
    rows = [f"patient,P{n},{n % 2}," for n in range(FILES // 2)]
    labels.write_text("\n".join(("level,id,label,split", *rows)))
    create_site(tmp_path / "whole", "north")
    with open_site(tmp_path / "whole") as site:
        add_folder(site, pacs, labels, jobs=jobs)
        expected = content(site)
    moments = random.Random(7)
    partial = 0
    for attempt in range(MOMENTS):
        path = tmp_path / f"site-{attempt}"
        create_site(path, "north")
        copied_keys(tmp_path / "whole", path)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(pacs), str(labels), str(jobs)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(moments.randrange(FILES)):
            child.stdout.readline()
        time.sleep(moments.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with open_site(path) as site:
            partial += 0 < site.catalogue.counts()["instances"] < FILES
            add_folder(site, pacs, labels, jobs=1)
            assert content(site) == expected
    assert partial >= MOMENTS // 3, "the kills fell outside of the storing"


SENDER = """
import sys
from pathlib import Path
from fedward_client.intake.receiver import Endpoint, Receiver
from fedward_client.site_folder import open_site
with open_site(Path(sys.argv[1])) as opened, Receiver(opened, Endpoint("A", 0), jobs=1) as running:
    print(running.port, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_what_a_killed_receiver_acknowledged_is_stored(tmp_path):
    """kill -9 while a PACS sends: every object with status 0000 is there, and nothing is half."""
    create_site(tmp_path / "site", "north")
    sources = [image(noise((32, 32), n), patient=f"P{n}") for n in range(40)]
    moments = random.Random(11)
    acknowledged = set()
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", SENDER, str(tmp_path / "site")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        port = int(child.stdout.readline())
        entity = AE(ae_title="B")
        entity.dimse_timeout = 3
        entity.add_requested_context(sources[0].SOPClassUID, ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", port, ae_title="A")
        last = moments.randrange(5, 30)
        for number, ds in enumerate(sources):
            if number == last:
                threading.Timer(moments.uniform(0, 0.05), child.kill).start()
            try:
                status = association.send_c_store(ds)
            except (RuntimeError, ValueError):  # the association is gone
                break
            if status.get("Status") == 0:
                acknowledged.add(ds.SOPInstanceUID)
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
        with open_site(tmp_path / "site") as site:
            uid = deidentifier_of(site).pseudonyms.uid
            held = {i.instance for i in site.catalogue.instances()}
            assert {uid(instance) for instance in acknowledged} <= held
            for instance in site.catalogue.instances():
                assert site.vault.get(instance.object_name)[128:132] == b"DICM"
