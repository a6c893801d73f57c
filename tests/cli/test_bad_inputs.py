"""Bad inputs: one line that names the file and the remedy, a fixed status, nothing half-written."""

from __future__ import annotations

import os
import resource
import subprocess

import numpy as np
import pytest
from tests.cli_world import DRAFT, EPSILON, client, ok, run, server, simulate
from tests.dicom_cases import FILES, ct, encoded, image, noise

from fedward_client.site_folder import open_site
from fedward_common.plan.signing import SignedPlan

SCENARIO = """\
title = "Tiny"
seed = 0
evaluate_every = 5
[data]
source = "{source}"
patients = 60
size = 28
sites = {sites}
plain = true
[budget]
epsilon = {epsilon}
delta = 1e-5
patients_per_site = 20
[plan.study]
name = "tiny"
classes = {classes}
[plan.preprocess]
size = 28
[plan.model]
kind = "cnn"
width = 4
[[plan.queries]]
kind = "gradient"
rounds = 2
sampling_rate = 0.5
clip = 0.1
[[plan.queries]]
kind = "histogram"
bins = 4
[plan.schedule]
nominal_patients = 40
[baselines]
pooled = false
pooled_private = false
alone = false
local_fedavg = false
"""


def scenario(folder, *, source="phantom", sites=3, epsilon=8.0, classes='["normal", "opacity"]'):
    path = folder / "scenario.toml"
    text = SCENARIO.format(source=source, sites=sites, epsilon=epsilon, classes=classes)
    path.write_text(text)
    return path


@pytest.fixture
def pacs(tmp_path):
    """Two patients, one image each."""
    folder = tmp_path / "pacs"
    folder.mkdir()
    for number in range(2):
        ds = image(noise((20, 20), number), patient=f"P{number}")
        (folder / f"{number}.dcm").write_bytes(encoded(ds))
    return folder


def labels(folder, *lines):
    path = folder / "labels.csv"
    path.write_text("\n".join(("level,id,label,split", *lines)) + "\n")
    return path


def holds_nothing(site):
    counts = client("status", "--site", site, "--json").json["catalogue"]
    return not any(counts.values()) and not list((site / "vault").iterdir())


# fedward-client add


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Dear colleague, please find attached", "not a DICOM file"),
        (encoded(ct())[:-5000], "truncated DICOM"),
        (encoded(ct())[:400], "is missing or malformed"),
        (b"", "not a DICOM file"),
    ],
    ids=["text", "truncated pixels", "truncated header", "empty"],
)
def test_a_broken_file_stops_the_intake(site, pacs, content, reason):
    bad = pacs / "zz.dcm"
    bad.write_bytes(content)
    done = client("add", pacs, "--site", site)
    done.refused(2, bad, reason, "--skip-unreadable")
    assert done.out == ""
    assert holds_nothing(site)


def test_a_broken_file_stops_the_installed_program_too(site, pacs):
    bad = pacs / "zz.dcm"
    bad.write_bytes((FILES / "MR_truncated.dcm").read_bytes())
    run("fedward-client", "add", pacs, "--site", site).refused(2, bad, "truncated")
    assert holds_nothing(site)


def test_an_empty_folder(site, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    client("add", empty, "--site", site).refused(2, empty, "another folder")
    assert holds_nothing(site)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("patient,P0,1,", "patient,UNKNOWN-1,0,"), "not among the images (first on line 3)"),
        (("patient,P0,1,", "patient,P0,0,"), "line 3: another label"),
    ],
    ids=["unknown patient", "two labels"],
)
def test_bad_labels(site, pacs, tmp_path, lines, words):
    path = labels(tmp_path, *lines)
    done = client("add", pacs, "--labels", path, "--site", site).refused(2, path, words)
    assert "P0" not in done.err
    assert "UNKNOWN" not in done.err
    assert holds_nothing(site)


def test_a_folder_that_is_no_site(tmp_path, pacs):
    client("add", pacs, "--site", tmp_path).refused(2, tmp_path, "fedward-client init")
    assert not (tmp_path / "site.db").exists()


# fedward-server plan create, fedward-client plan import


@pytest.mark.parametrize(
    ("change", "epsilon", "words"),
    [
        (("bins =", "bin ="), EPSILON, ("queries.2.histogram.bin: unknown key",)),
        (("[model]", "[modell]"), EPSILON, ("modell: unknown key", "model: missing")),
        (("t_min = 3", "t_min = 2"), EPSILON, ("secagg.t_min",)),
        (("maximum_attempts = 6", "maximum_attempts = 1"), EPSILON, ("maximum_attempts",)),
        (("[[queries]]", "[queries]"), EPSILON, ("not valid TOML",)),
        (("multiplier = 30.0", "multiplier = 1e-5"), EPSILON, ("noise_multiplier",)),
        (("delta", "delta"), 0, ("epsilon = 0.0", "must be above 0")),
        (("delta", "delta"), "nan", ("epsilon = nan", "must be above 0")),
        (("delta", "delta"), 1e-7, ("out of reach", "raise")),
    ],
)
def test_a_bad_draft(made, tmp_path, change, epsilon, words):
    assert change[0] in DRAFT
    draft, out = tmp_path / "draft.toml", tmp_path / "plan.json"
    draft.write_text(DRAFT.replace(*change))
    where = ("--out", out, "--server", made.server)
    done = server("plan", "create", draft, "--epsilon", epsilon, "--patients-per-site", 20, *where)
    done.refused(2, draft, *words)
    assert not out.exists()


def test_the_installed_program_names_an_unknown_key(made, tmp_path):
    draft, out = tmp_path / "draft.toml", tmp_path / "plan.json"
    draft.write_text(DRAFT + "colour = 1\n")
    sizes = ("--epsilon", 2, "--patients-per-site", 20, "--out", out, "--server", made.server)
    done = run("fedward-server", "plan", "create", draft, *sizes)
    done.refused(2, draft, "schedule.colour: unknown key")
    assert not out.exists()


def test_a_plan_of_two_sites(made, tmp_path):
    folder, out = tmp_path / "server", tmp_path / "plan.json"
    ok(server("init", "--server", folder))
    for site in made.sites[:2]:
        ok(server("enrol", site / "SITE.pub", "--server", folder))
    sizes = ("--epsilon", 2, "--patients-per-site", 20, "--out", out, "--server", folder)
    server("plan", "create", made.draft, *sizes).refused(2, made.draft, "2 sites", "use 3 to 200")
    assert not out.exists()


@pytest.mark.parametrize("fault", ["unknown key", "signature", "not a plan", "other form", "deep"])
def test_a_bad_signed_plan(made, site, tmp_path, fault):
    signed = SignedPlan.from_file(made.plan.read_bytes(), "plan")
    canonical, signature = signed.canonical, signed.signature
    data, words = {
        "unknown key": (
            SignedPlan(canonical.replace(b'"clip":', b'"klip":'), signature).to_file(),
            "klip: unknown key",
        ),
        "signature": (
            SignedPlan(canonical.replace(b'"clip":0.1', b'"clip":0.2'), signature).to_file(),
            "signature",
        ),
        "not a plan": (b"level,id,label,split\n", "not a signed plan"),
        "other form": (SignedPlan(canonical + b" ", signature).to_file(), "canonical"),
        "deep": (SignedPlan(b"[" * 200_000, signature).to_file(), "not JSON"),
    }[fault]
    path = tmp_path / "plan.signed"
    path.write_bytes(data)
    client("plan", "import", path, "--site", site).refused(2, path, words, "ask the coordinator")
    assert client("plan", "show", "--site", site, "--json").json == []


def test_files_that_are_not_what_they_should_be(site, made, tmp_path):
    text = tmp_path / "text"
    text.write_text("hello")
    where = ("--site", site)
    client("members", "confirm", text, "--yes", *where).refused(2, text, "public file")
    server("enrol", text, "--server", made.server).refused(2, text, "public file")
    client("ledger", "forecast", text, *where).refused(2, text, "not a signed plan")
    client("predict", text, tmp_path, *where).refused(2, text, "safetensors")
    client("plan", "approve", "abcd", *where).refused(2, "abcd", "plan show")
    (site / "policy.toml").write_text("[caps.train]\nepsilonn = 1.0\n")
    client("status", *where).refused(2, "policy.toml", "epsilonn")


# fedward-simulate run


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sites": 2}, ("2 sites", "use 3 to 200")),
        ({"epsilon": 0.0}, ("epsilon = 0.0", "must be above 0")),
        ({"classes": '["normal"]'}, ("study.classes",)),
        ({"source": "images"}, ("--images",)),
        ({"source": "tape"}, ("data.source = 'tape'",)),
    ],
)
def test_a_bad_scenario_leaves_no_folder(tmp_path, fields, words):
    path, out = scenario(tmp_path, **fields), tmp_path / "run"
    simulate("run", path, "--out", out, "--quiet").refused(2, path, *words)
    assert not out.exists()


def test_a_class_that_no_hospital_has(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    parts = {
        f"{split}_{kind}": array
        for split in ("train", "val", "test")
        for kind, array in (("images", images), ("labels", np.arange(30)[:, None] % 2))
    }
    arrays, out = tmp_path / "x.npz", tmp_path / "run"
    np.savez(arrays, **parts)
    path = scenario(tmp_path, source="images", classes='["normal", "opacity", "effusion"]')
    done = run("fedward-simulate", "run", path, "--images", arrays, "--out", out, "--quiet")
    done.refused(2, path, "'effusion'", "remove the class or add images")
    assert not out.exists()


# Full disks


@pytest.fixture
def small_disk(tmp_path):
    """A function that gives a file system of so many kilobytes; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def make(kilobytes):
        options = f"size={kilobytes}k"
        if os.path.ismount(folder):
            options += ",remount"
        mount = ("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder)
        if os.geteuid() != 0 or subprocess.call(mount):
            pytest.skip("no right to mount a small disk; the file size limit is tried instead")
        return folder

    yield make
    if os.path.ismount(folder):
        subprocess.run(("umount", folder), check=True)


def limit_files():
    """In the child: no file may pass 150 kB, as on a disk that fills up."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))


def many_images(folder, count=40):
    folder.mkdir()
    for number in range(count):
        ds = image(noise((64, 64), number), patient=f"P{number:03d}")
        (folder / f"{number:03d}.dcm").write_bytes(encoded(ds))
    return folder


def whole(site):
    """Every row of the catalogue has its object, every object its row, nothing is half-written."""
    with open_site(site) as folder:
        instances = folder.catalogue.instances()
        for instance in instances:
            assert folder.vault.get(instance.object_name)[128:132] == b"DICM"
    assert len(list((site / "vault").iterdir())) == len(instances)
    return len(instances)


def test_add_on_a_full_disk(small_disk, tmp_path):
    disk, source = small_disk(4000), many_images(tmp_path / "pacs")
    site = disk / "site"
    ok(client("init", "north", "--site", site))
    small_disk(240)
    done = run("fedward-client", "add", source, "--site", site)
    done.refused(1, site, "free disk space")
    assert done.out == ""
    small_disk(4000)
    assert whole(site) < 40
    assert client("add", source, "--site", site, "--json").json["patients"] == 40
    assert whole(site) == 40


def test_add_with_a_file_size_limit(site, tmp_path):
    source = tmp_path / "pacs"
    source.mkdir()
    (source / "small.dcm").write_bytes(encoded(image(noise((20, 20)), patient="P1")))
    (source / "large.dcm").write_bytes(encoded(image(noise((600, 600)), patient="P2")))
    done = run("fedward-client", "add", source, "--site", site, preexec_fn=limit_files)
    done.refused(1, site, "free disk space")
    assert whole(site) == 0
    assert client("add", source, "--site", site, "--json").json["used"] == 2


LATER = [pytest.param(kilobytes, marks=pytest.mark.slow) for kilobytes in (700, 1200)]


@pytest.mark.parametrize("kilobytes", [100, *LATER])
def test_a_simulation_on_a_full_disk(small_disk, tmp_path, kilobytes):
    path = scenario(tmp_path)
    out = small_disk(kilobytes) / "run"
    done = run("fedward-simulate", "run", path, "--out", out, "--quiet")
    done.refused(1, out, "free")
    assert done.out == ""
    assert not [file for file in out.rglob("*") if file.suffix in (".tmp", ".part", ".partial")]
    assert not list(out.rglob(".*.making"))
    assert not (out / "report.html").exists()


@pytest.mark.slow
def test_a_simulation_goes_on_when_the_disk_has_room_again(small_disk, tmp_path):
    path = scenario(tmp_path)
    out = small_disk(1200) / "run"
    run("fedward-simulate", "run", path, "--out", out, "--quiet").refused(1, out, "free")
    small_disk(20_000)
    summary = run("fedward-simulate", "run", path, "--out", out, "--json").json
    assert summary["rounds"] == 3
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_a_simulation_with_a_file_size_limit(tmp_path):
    path, out = scenario(tmp_path), tmp_path / "run"
    done = run("fedward-simulate", "run", path, "--out", out, "--quiet", preexec_fn=limit_files)
    done.refused(1, out, "free")
    assert not (out / "report.html").exists()


def test_deidentify_on_a_full_disk(small_disk, tmp_path):
    source = many_images(tmp_path / "pacs")
    disk = small_disk(100)
    key, out, report = tmp_path / "key", disk / "out", disk / "report.jsonl"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    where = ("--key-file", key, "--report", report)
    run("fedward-client", "deidentify", source, out, *where).refused(1, out, "free disk space")
    assert not list(disk.iterdir())
