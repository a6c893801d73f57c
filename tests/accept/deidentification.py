"""Issue "De-identification": what it must show, at full size.

    python -m tests.accept.deidentification [--out FOLDER] [--reduced]

Runs the leak harness over the shipped command, hides held-out burned-in text, measures the speed
beside other de-identifiers (extra `bench`) and the catalogue at 100,000 rows, and runs the tests
of the table, the mutations, the kills and the disk at their full size. Writes
``docs/results/deidentification.json``. ``--reduced`` is what CI runs beside those tests: the
harness at one seed; it writes to FOLDER only. Exits 1 if a check fails.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.accept.command import accept_command, attempt
from tests.accept.foundation import ROOT, Record
from tests.accept.suites import suite
from tests.benchmarks.test_catalogue_size import ROWS, seconds
from tests.unit.test_text_finder import measure

SHARED = Path(os.environ.get("FEDWARD_SHARED", ROOT.parent / "shared")).resolve()
HARNESS = SHARED / "tools" / "leak_harness.py"
COMMAND = (
    "K=$(mktemp) && printf %s {key} | sha256sum | cut -c1-64 > $K && chmod 600 $K"
    " && fedward-client deidentify {in} {out} --key-file $K --report {report}"
)
SEEDS = range(5)
TEXTS = 1000
CONTRASTS = {90: 0.99, 30: 0.95}
"""Grey levels of contrast, and the share of strings to be hidden at each."""
ALONE, WITH_MODEL = "finder alone", "finder and the extra ocr"

Result = dict[str, Any]


def accept(out: Path, *, reduced: bool) -> Record:
    record = Record()
    record.versions = {name: version(name) for name in ("fedward", "pydicom", "numpy", "pillow")}
    for seed in SEEDS[:1] if reduced else SEEDS:
        attempt(record, leaks, out, seed)
    if not reduced:
        for net in (ALONE, WITH_MODEL):
            for contrast in CONTRASTS:
                attempt(record, burned_in, contrast, net)
        attempt(record, speed)
        attempt(record, catalogue, out)
        attempt(record, suites)
    return record


def leaks(record: Record, out: Path, seed: int) -> None:
    """The harness at one seed, with its three runs of two keys."""
    corpus = out / f"corpus-{seed}"
    run_harness(record, "make", "--out", str(corpus), "--seed", str(seed))
    options = ("--corpus", str(corpus), "--name", "fedward", "--cmd", COMMAND, "--determinism")
    run_harness(record, "run", *options)
    report = json.loads((corpus / "result_fedward.json").read_text())["report"]
    record.figures[f"harness, seed {seed}"] = kept(report)
    for key, most in (
        ("required_leaked", 0), ("beyond_leaked", 0), ("files_lost", 0), ("unreadable", 0),
        ("refused_without_reason", 0), ("files_refused", 12), ("unkeyed_hash_hits", 0),
    ):  # fmt: skip
        figure = report[key]
        record.check(f"seed {seed}: {key}", figure, f"<= {most}", passed=figure <= most)
    burned = sum("burn" in name for name in refused(corpus))
    record.check(f"seed {seed}: refused of 27 with text", burned, "<= 9", passed=burned <= 9)
    closed = [name for name, open_ in report["GATE"].items() if not open_]
    record.check(f"seed {seed}: gates not passed", len(closed), "0", passed=not closed)
    longitudinal(record, seed, report)


def longitudinal(record: Record, seed: int, report: Result) -> None:
    """Keyed names, references and intervals."""
    for name, found in report["determinism"].items():
        count = found["n"]
        same = count - found["same_key_equal"]
        passed = same == 0 and count == 36
        record.check(
            f"seed {seed}: {name} unlike under the same key", same, "0 of 36", passed=passed
        )
        other = found["other_key_equal"]
        record.check(f"seed {seed}: {name} alike under another key", other, "0", passed=other == 0)
    utility = report["utility"]
    lost = 24 - int(utility["references_resolve"].split("/")[0])
    record.check(f"seed {seed}: references of 24 that are lost", lost, "0", passed=lost == 0)
    # From day 5 of a month to day 16 of the third month after it, in 1994, for three patients.
    passed = utility["study_interval_days"] == ["100", "101", "103"]
    record.check(f"seed {seed}: intervals kept", float(passed), "1", passed=passed)


def kept(report: Result) -> Result:
    """What a reader wants of a report, without this machine's paths and times."""
    left_out = {"cmd", "stderr_tail", "wall_s", "refused_examples", "name"}
    return {key: value for key, value in report.items() if key not in left_out}


def refused(corpus: Path) -> list[str]:
    lines = (corpus / "out_fedward.report.jsonl").read_text().splitlines()
    return [item["input"] for item in map(json.loads, lines) if item["status"] == "refused"]


def run_harness(record: Record, *arguments: str) -> None:
    shown = [word if "/corpus-" not in word else Path(word).name for word in arguments]
    record.commands.append(" ".join(["python", "leak_harness.py", *shown]))
    print("$", record.commands[-1], flush=True)
    programs = str(Path(sys.executable).parent)
    subprocess.run(
        [sys.executable, str(HARNESS), *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PATH": os.pathsep.join([programs, os.environ["PATH"]])},
    )


def burned_in(record: Record, contrast: int, net: str) -> None:
    """Text on held-out images, in held-out fonts; what stays unsure is quarantined."""
    images, least = SHARED / "data" / "pneumoniamnist.npz", CONTRASTS[contrast]
    found = measure("held-out", TEXTS, contrast, images, with_model=net != ALONE)
    where = f"contrast {contrast}, {net}"
    record.figures[f"burned-in text, {where}"] = asdict(found)
    name = f"strings hidden at {where}, of {TEXTS}"
    record.check(name, found.hidden, f">= {least}", passed=found.hidden >= least)
    name = f"pixels outside the text masked at {where}"
    record.check(name, found.beyond, "<= 0.02", passed=found.beyond <= 0.02)


def speed(record: Record) -> None:
    """Slices per CPU second, growth with the number of files, and memory."""
    record.commands.append("OMP_NUM_THREADS=1 fedward-simulate bench deid --json")
    print("$", record.commands[-1], flush=True)
    done = subprocess.run(
        [
            sys.executable, "-c", "from fedward_simulations.bench.cli import app; app()",
            "deid", "--json",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    figures = json.loads(done.stdout)
    record.figures["speed"] = figures
    ours = next(s for s in figures["speeds"] if s["name"] == "fedward, header")
    passed = figures["bar"]["passed"]
    record.check(
        "header path, slices per CPU second", ours["slices_per_second"], ">= 150", passed=passed
    )
    per_file = [growth["seconds"] / growth["slices"] for growth in figures["growth"]]
    ratio = max(per_file) / statistics.median(per_file)
    record.check(
        "CPU a file, most over median of 125, 250, 500", ratio, "<= 1.5", passed=ratio <= 1.5
    )
    least, *_, most = (growth["working_bytes"] for growth in figures["growth"])
    more = (most - least) / (1 << 20)
    record.check("MiB of memory more for 500 than for 125", more, "<= 16", passed=more <= 16)


def catalogue(record: Record, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, spent in seconds(out).items():
        record.check(f"{ROWS} rows: {name}, CPU s", spent, "< 1", passed=spent < 1)


def suites(record: Record) -> None:
    suite(record, "rows x options at depth 0 and 3", ["tests/unit/test_deidentify_table.py"])
    mutations = {"FEDWARD_FUZZ_DICOM": "10000"}
    suite(record, "10,000 mutated files", ["tests/security/test_fuzz_dicom.py"], mutations)
    kills = {"FEDWARD_KILLS": "20"}
    suite(record, "20 kills of an intake", ["tests/security/test_intake_kill.py"], kills)
    suite(record, "the disk", ["tests/security/test_site_holds_no_plaintext.py"])
    network = ["tests/integration/test_receive.py", "tests/integration/test_fetch.py"]
    suite(record, "DCMTK and Orthanc", network)


if __name__ == "__main__":
    accept_command(__doc__, "deidentification", accept)
