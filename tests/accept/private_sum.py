"""Issue "Private sum": what it must show, at full size.

    python -m tests.accept.private_sum [--out FOLDER] [--reduced]

Measures a private sum beside Flower's SecAgg+ and TenSEAL's CKKS (extra `bench`), feeds a million
messages to the decoders and machines, runs the attacks and dropouts, and writes
``docs/results/private-sum.json`` with commands, versions and figures, and the picture beside it.
``--reduced`` is what CI runs: a small grid of cases, fewer messages, no bar on times; it writes to
FOLDER only. Exits 1 if a check fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.accept.command import accept_command
from tests.accept.foundation import ROOT, Record
from tests.accept.suites import suite
from tests.fuzzing import all_targets, fuzz

BENCH = [sys.executable, "-c", "from fedward_simulations.bench.cli import app; app()", "secagg"]
SHOWN = "fedward-simulate bench secagg"
SMALL = ["--sites", "10", "--sites", "30", "--parameters", "20000", "--no-peers"]
ATTACKS = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("tests/security/test_attacks_*.py"))
MESSAGES = 10**6
MEGA = 10**6

Result = dict[str, Any]
Cases = dict[tuple[int, int, int], Result]
"""Results by sites, parameters and dropouts."""


def accept(out: Path, *, reduced: bool) -> Record:
    record = Record()
    cases = bench(record, out, SMALL if reduced else [])
    sizes(record, cases, (10, 30, 20_000) if reduced else (10, 100, MEGA))
    if not reduced:
        times(record, cases)
        # Every row of A7, and a hundred sites with 33 dropouts and one more.
        suite(record, "attacks and dropouts", ATTACKS)
    messages(record, MESSAGES // 50 if reduced else MESSAGES)
    return record


def bench(record: Record, out: Path, options: list[str]) -> Cases:
    """Run the benchmark as a user would."""
    command = [*options, "--json"]
    record.commands.append(" ".join(["OMP_NUM_THREADS=1", SHOWN, *command]))
    print("$", record.commands[-1], flush=True)
    done = subprocess.run(
        [*BENCH, *command, "--out", str(out)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    figures = json.loads(done.stdout)
    record.versions = figures.pop("versions")
    record.figures["bench"] = figures
    return {(r["sites"], r["parameters"], r["dropouts"]): r for r in figures["results"]}


def sizes(record: Record, cases: Cases, at: tuple[int, int, int]) -> None:
    """Bytes sent, and the server's memory, which must not grow with the sites."""
    few, many, parameters = at
    upload = cases[few, parameters, 0]["upload_bytes"] / MEGA
    limit = (4 * parameters + 10_000) / MEGA
    name = f"upload, {few} sites, {parameters} parameters, MB"
    record.check(name, upload, f"<= {limit}", passed=upload <= limit)
    peaks = [cases[n, parameters, 0]["server_peak_bytes"] for n in (few, many)]
    ratio = peaks[1] / peaks[0]
    name = f"server's peak memory, {many} sites over {few}"
    record.check(name, ratio, "<= 3", passed=ratio <= 3)


def times(record: Record, cases: Cases) -> None:
    """Client CPU against the peers, the bare additions, and the absolute bar for 100 sites."""
    ratios = cases[10, MEGA, 0]["ratios"]
    for peer in ("flower-secagg+", "tenseal-ckks"):
        ratio = ratios.get(peer, 0.0)  # 0: not installed, so not shown
        name = f"client CPU, 10 sites, 10^6: {peer} over ours"
        record.check(name, ratio, ">= 40", passed=ratio >= 40)
    additions = ratios["bare additions per mask"]
    record.check("client CPU in bare additions per mask", additions, "<= 6", passed=additions <= 6)
    seconds = cases[100, MEGA, 0]["client_seconds"]
    record.check("client CPU, 100 sites, 10^6, s", seconds, "<= 0.5", passed=seconds <= 0.5)


def messages(record: Record, count: int) -> None:
    """Random and mutated messages; ``fuzz`` raises at the first that has a forbidden effect."""
    record.commands.append(f"FEDWARD_FUZZ={count} pytest tests/security/test_fuzz.py")
    tally = fuzz(all_targets(), count, seed=1)
    record.figures["messages"] = {
        "taken": dict(tally.taken),
        "refused with a typed error": dict(tally.refused),
    }
    name = "random and mutated messages without a crash, a change or a forgery"
    record.check(name, tally.total, f">= {count}", passed=tally.total >= count)


if __name__ == "__main__":
    accept_command(__doc__, "private-sum", accept, {"secagg.png": "private-sum.png"})
