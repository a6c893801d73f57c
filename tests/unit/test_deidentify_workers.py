"""Worker processes: the outcomes of one process, no secret outside it, no trace of a killed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from tests.dicom_cases import SECRET, encoded, file_bytes, image, noise

from fedward_client.deidentify import decoding, workers
from fedward_client.deidentify.outcome import Cleaned, Quarantined, Reason
from fedward_client.deidentify.profile import Profile
from fedward_client.deidentify.workers import (
    HERE,
    SHARE,
    Cleaners,
    Method,
    _answer,
    _packed,
    _unpacked,
    clean_in_order,
    useful_jobs,
)
from fedward_common.errors import OperatorError, StorageError
from fedward_common.secret import SecretBytes

METHOD = Method(SECRET, Profile.for_local_training())


def sources():
    files = ("CT_small.dcm", "MR_small.dcm", "test-SR.dcm", "MR_small_jp2klossless.dcm")
    ds = image(noise((30, 30)), study="1.2.1", series="1.2.2", instance="1.2.3")
    return [*map(file_bytes, files), b"not DICOM", encoded(ds)] * 2


def test_outcomes_are_those_of_one_process_in_the_order_of_the_input():
    alone, together = (list(clean_in_order(METHOD, enumerate(sources()), n)) for n in (1, 3))
    assert [key for key, _ in together] == list(range(12))
    assert together == alone
    assert {type(outcome) for _, outcome in alone} == {Cleaned, Quarantined}


def test_an_outcome_survives_the_pipe_whole():
    """A new field of an outcome has to travel too."""
    assert [f.name for f in fields(Cleaned)] == ["data", "identifiers", "layout", "log"]
    assert [f.name for f in fields(Quarantined)] == ["reason"]
    for reason in Reason:
        assert _unpacked(_packed(Quarantined(reason))) == Quarantined(reason)


def test_what_a_person_must_mend_is_said_by_the_parent():
    class Engine:
        def deidentify(self, data):
            raise OperatorError("pixels.ocr: not installed")

    with pytest.raises(OperatorError, match=r"pixels\.ocr: not installed"):
        _unpacked(_answer(Engine(), b""))


def test_a_profile_reaches_the_workers():
    kept = Profile.model_validate({"retain": {"uids": True}})
    with Cleaners(Method(SECRET, kept), 1) as cleaners:
        ds = image(noise((20, 20)))
        assert cleaners.deidentify(encoded(ds)).identifiers.instance == ds.SOPInstanceUID


def test_the_secret_is_in_no_argument_and_no_environment():
    secret = bytes(range(65, 97))
    with Cleaners(Method(SecretBytes(secret), Profile()), 1) as cleaners:
        cleaners.deidentify(b"")
        (worker,) = cleaners._all
        for file in ("cmdline", "environ"):
            content = (Path("/proc") / str(worker.pid) / file).read_bytes()
            assert content
            assert secret not in content
            assert secret.hex().encode() not in content


class Dying(Cleaners):
    """Worker processes of which the first few die as soon as they have a file."""

    def __init__(self, deaths):
        super().__init__(METHOD, 1)
        self.deaths = deaths

    def _started(self):
        worker = super()._started()
        if self.deaths:
            self.deaths -= 1
            os.kill(worker.pid, signal.SIGKILL)
        return worker


def test_no_child_has_our_environment_or_dumps_its_memory(monkeypatch):
    """The decoder's child and a worker: neither has a FEDWARD_ variable nor room for a core."""
    monkeypatch.setenv("FEDWARD_VAULT_KEY", "planted-secret")
    monkeypatch.setattr(decoding, "_WORKER", decoding._Worker())
    before = children()
    with Cleaners(METHOD, 1) as cleaners:
        cleaners.deidentify(b"")
        assert isinstance(METHOD.engine().deidentify(file_bytes("MR_small_RLE.dcm")), Cleaned)
        ours = children() - before
        assert len(ours) == 2
        for child in ours:
            place = Path("/proc") / child
            assert b"planted-secret" not in (place / "environ").read_bytes()
            (limit,) = [x for x in (place / "limits").read_text().splitlines() if "core" in x]
            assert {int(n) for n in limit.split()[4:6]} <= {0, 1}
    decoding._WORKER._child.kill()
    decoding._WORKER._child.communicate()


def test_a_program_forbids_core_dumps():
    code = "import resource as r, fedward_client.cli as c\n"
    code += "try: r.setrlimit(r.RLIMIT_CORE, (1 << 20, 1 << 20))\nexcept ValueError: pass\n"
    code += "try: c.main()\nexcept SystemExit: pass\n"
    code += "print(max(r.getrlimit(r.RLIMIT_CORE)) in (0, 1))"
    for cli in ("fedward_client", "fedward_simulations"):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("fedward_client", cli), "--help"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "True"


def test_a_worker_that_dies_is_replaced():
    with Cleaners(METHOD, 1) as cleaners:
        assert isinstance(cleaners.deidentify(file_bytes("CT_small.dcm")), Cleaned)
        os.kill(cleaners._all[0].pid, signal.SIGKILL)
        assert isinstance(cleaners.deidentify(file_bytes("CT_small.dcm")), Cleaned)


def test_a_file_that_ends_two_workers_is_quarantined_and_the_next_is_cleaned():
    with Dying(2) as cleaners:
        assert cleaners.deidentify(file_bytes("CT_small.dcm")) == Quarantined(Reason.FAILED)
        assert isinstance(cleaners.deidentify(file_bytes("CT_small.dcm")), Cleaned)


def test_workers_that_cannot_start_are_an_error_of_the_site():
    with (
        Cleaners(Method(SecretBytes(b"short"), Profile()), 1) as cleaners,
        pytest.raises(StorageError, match="--jobs"),
    ):
        cleaners.deidentify(file_bytes("CT_small.dcm"))


def test_no_worker_starts_after_the_end():
    before = children()
    with Cleaners(METHOD, 1) as cleaners:
        pass
    with pytest.raises(StorageError, match="ended"):
        cleaners.deidentify(file_bytes("CT_small.dcm"))
    assert children() <= before


@pytest.mark.parametrize("jobs", [HERE, 1, 3])
def test_an_error_of_the_source_comes_after_all_that_it_gave_and_ends_the_workers(jobs):
    def failing():
        yield from enumerate([file_bytes("CT_small.dcm")] * 2)
        raise StorageError("the disk")

    before = children()
    outcomes = clean_in_order(METHOD, failing(), jobs)
    assert [next(outcomes)[0] for _ in range(2)] == [0, 1]
    with pytest.raises(StorageError, match="the disk"):
        next(outcomes)
    assert children() <= before


class Poisoned(Cleaners):
    """One file ends whatever process it is given to."""

    def _tried(self, data):
        worker = self._idle.get() or self._started()
        self._idle.put(worker)
        if data == b"poison":
            os.kill(worker.pid, signal.SIGSEGV)
            worker.wait()
        return super()._tried(data)


def test_a_file_that_crashes_the_only_process_is_quarantined_and_the_run_goes_on(monkeypatch):
    monkeypatch.setattr(workers, "Cleaners", Poisoned)
    good = file_bytes("CT_small.dcm")
    found = dict(clean_in_order(METHOD, enumerate((good, b"poison", good)), 1))
    assert found[1] == Quarantined(Reason.FAILED)
    assert isinstance(found[0], Cleaned)
    assert found[2] == found[0]


def test_few_files_are_not_worth_two_processes():
    cores = len(os.sched_getaffinity(0))
    assert useful_jobs(0, SHARE) == 1
    assert useful_jobs(0, 2 * SHARE) == min(cores, 2)
    assert useful_jobs(0, 10**6) == cores
    assert useful_jobs(8, 3) == 3
    assert useful_jobs(8, 0) == 1
    assert useful_jobs(HERE, 2 * SHARE - 1) == HERE
    assert useful_jobs(HERE, 2 * SHARE) == (2 if cores > 1 else HERE)


def test_a_simulation_cleans_few_files_in_its_own_process():
    before = children()
    found = list(clean_in_order(METHOD, enumerate(sources()), HERE))
    assert children() - before <= {str(decoding._WORKER._child.pid)}
    assert found == list(clean_in_order(METHOD, enumerate(sources()), 1))


CHILD = """
import sys
from tests.unit.test_deidentify_workers import METHOD, file_bytes
from fedward_client.deidentify.workers import Cleaners
cleaners = Cleaners(METHOD, 1)
cleaners.deidentify(file_bytes("CT_small.dcm"))
print(cleaners._all[0].pid, flush=True)
sys.stdin.read()
"""


def test_no_worker_outlives_a_killed_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    for _ in range(200):
        if not alive(worker):
            return
        time.sleep(0.1)
    raise AssertionError("the worker is still there")


def alive(pid):
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def children():
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set((task / "children").read_text().split())
    return found
