"""kill -9 at any moment of an intake: running it again completes with the same catalogue (G6)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from tests.dicom_cases import encoded, image, noise

from fedward_client.intake.add import add_folder
from fedward_client.site_folder import create_site, open_site

FILES = 60
MOMENTS = 12
CHILD = """
import sys
from pathlib import Path
from fedward_client.intake import add
from fedward_client.site_folder import open_site
add.BATCH_FILES = 7
site, pacs, labels = map(Path, sys.argv[1:])
with open_site(site) as opened:
    print("ready", flush=True)
    add.add_folder(opened, pacs, labels)
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
def test_a_killed_intake_is_completed_by_the_next(tmp_path):
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
        started = time.monotonic()
        add_folder(site, pacs, labels)
        takes = time.monotonic() - started
        expected = content(site)
    moments = random.Random(7)
    partial = 0
    for attempt in range(MOMENTS):
        path = tmp_path / f"site-{attempt}"
        create_site(path, "north")
        copied_keys(tmp_path / "whole", path)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(pacs), str(labels)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        child.stdout.readline()
        time.sleep(moments.uniform(0, takes))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with open_site(path) as site:
            partial += 0 < site.catalogue.counts()["instances"] < FILES
            add_folder(site, pacs, labels)
            assert content(site) == expected
    print(f"{partial} of {MOMENTS} kills fell between the first and the last batch")
