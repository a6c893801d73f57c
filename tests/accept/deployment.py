"""Issue "Deployment": what it must show, at full size.

    python -m tests.accept.deployment [--out FOLDER] [--reduced]

Runs docs/operations.md from nothing to a finished study, the benchmark beside stock Flower and from
5 to 50 daemons, the fault campaign with 5 daemons and with 3, and the suites whose passing is a
figure, and writes ``docs/results/deployment.json`` with commands, versions and figures, and the
picture beside it. ``--reduced`` is what CI runs beside the suites and the transcript: a short
campaign and a small benchmark without bars on times; it writes to FOLDER only. Exits 1 if a check
fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.accept.command import accept_command, attempt
from tests.accept.foundation import ROOT, SIMULATE, Record
from tests.accept.suites import suite

MACHINE_SECONDS = 300.0
ROUND_SECONDS = 3.0
IDLE_SHARES = {"one daemon": 0.05, "server": 0.1}
"""Of one core, while nothing is asked of anybody; the server's processes together."""

LINEAR_SLACK = 1.1
"""Growth no worse than linear, with a tenth for the noise of the clock."""

ATTACKS = sorted(
    str(path.relative_to(ROOT))
    for name in ("gateway", "grid", "nginx", "daemon")
    for path in ROOT.glob(f"tests/security/test_{name}*.py")
)
ORDERS = [
    "tests/protocol/test_admission.py",
    "tests/protocol/test_package_approval.py",
    "tests/protocol/test_secagg_attacks.py",
    "tests/protocol/test_site_orders.py",
    "tests/unit/test_policy.py",
]
"""Plans that are not approved, or ask for too little noise; exchanges outside the table."""

SUITES = {
    "same model, every sum recounted": ["tests/integration/test_same_model.py"],
    "the wire": ["tests/integration/test_wire.py"],
    "separate hosts": ["tests/integration/test_netns.py"],
    "attacks on gateway, grid and daemon": ATTACKS,
    "attacks by a server's orders": ORDERS,
    "bundle with a module that shadows ours": ["tests/integration/test_bundle_is_not_fetched.py"],
}


def accept(out: Path, *, reduced: bool) -> Record:
    record = Record()
    out.mkdir(parents=True, exist_ok=True)
    if reduced:
        attempt(record, campaign, out, daemons=3, rounds=12, kills=8, outages=3)
        small = ["--rounds", "6", "--exchanges", "0", "--growth-rounds", "0"]
        attempt(record, bench, out, small)
        return record
    attempt(record, transcript, out)
    attempt(record, rounds, out)
    attempt(record, campaign, out, daemons=5, rounds=60, kills=100, outages=20)
    attempt(record, campaign, out, daemons=3, rounds=60, kills=100, outages=20)
    for title, tests in SUITES.items():
        attempt(record, suite, title, tests)
    return record


def transcript(record: Record, out: Path) -> None:
    """docs/operations.md, and the CPU time of everything that it started."""
    command = [sys.executable, "-m", "tests.operations", str(out / "operations")]
    record.commands.append("python -m tests.operations FOLDER")
    told = _told(record, command)
    study = out / "operations" / "server" / "server" / "studies" / "chest"
    sums = len(json.loads((study / "history.json").read_text())["rounds"])
    record.figures["operations"] = {
        "cpu_seconds": told["cpu_seconds"],
        "seconds": told["seconds"],
        "commands": len(told["blocks"]),
        "sums": sums,
    }
    record.check("operations.md: sums of the study", sums, "20", passed=sums == 20)
    cpu = told["cpu_seconds"]
    bar = f"<= {MACHINE_SECONDS:g}"
    record.check("operations.md: CPU s in all", cpu, bar, passed=cpu <= MACHINE_SECONDS)


def bench(record: Record, out: Path, options: list[str]) -> dict[str, Any]:
    """Rounds over TLS, as a user would measure them."""
    path = out / "bench.json"
    command = ["bench", "deployment", "--json", *options]
    record.commands.append(" ".join(["OMP_NUM_THREADS=1", "fedward-simulate", *command]))
    figures = _told(record, [*SIMULATE, *command, "--out", str(path)])
    record.versions = figures.pop("versions")
    record.figures["bench"] = figures
    ours = figures["rounds"]["fedward"]
    parameters = ours["parameters"]
    record.check("parameters of the model", parameters, ">= 100000", passed=parameters >= 10**5)
    return figures


def rounds(record: Record, out: Path) -> None:
    """The bars on a round, on idle processes, and on growth."""
    figures = bench(record, out, ["--plot", str(out / "growth.png")])
    ours, stock = figures["rounds"]["fedward"], figures["rounds"]["stock"]
    seconds = ours["median_seconds"]
    name = "a round of 3 daemons over TLS, s"
    record.check(name, seconds, f"<= {ROUND_SECONDS:g}", passed=seconds <= ROUND_SECONDS)
    ratio = stock["median_seconds"] / seconds
    record.check("one exchange of stock Flower over our round", ratio, ">= 1", passed=ratio >= 1)
    for who, most in IDLE_SHARES.items():
        idle = ours["idle_cpu"][who]
        name = f"idle {who}, share of a core"
        record.check(name, idle, f"<= {most:g}", passed=0 <= idle <= most)
    few, many = figures["growth"][0], figures["growth"][-1]
    linear = many["daemons"] / few["daemons"]
    record.check("daemons of the largest run", many["daemons"], "50", passed=many["daemons"] == 50)
    times = {
        "seconds a round": many["median_seconds"] / few["median_seconds"],
        "CPU a round": sum(many["cpu"].values()) / sum(few["cpu"].values()),
        "memory": sum(many["memory"].values()) / sum(few["memory"].values()),
    }
    for what, grown in times.items():
        name = f"{what}, {many['daemons']} daemons over {few['daemons']}"
        bar = f"<= {LINEAR_SLACK * linear:g}"
        record.check(name, grown, bar, passed=grown <= LINEAR_SLACK * linear)


def campaign(record: Record, out: Path, **size: int) -> None:
    """A campaign, each of whose own checks is one of ours."""
    options = [text for name, value in size.items() for text in (f"--{name}", str(value))]
    record.commands.append(" ".join(["fedward-simulate", "faults", *options]))
    place = out / f"faults-{size['daemons']}"
    command = [*SIMULATE, "faults", *options, "--out", str(place), "--json"]
    told = _told(record, command, failing=True)
    title = f"faults, {size['daemons']} daemons"
    record.figures[title] = told
    for check in told["checks"]:
        wrong = float(not check["passed"])
        name = f"{title}: {check['name']}: {check['found']} (wanted {check['wanted']}), wrong"
        record.check(name, wrong, "0", passed=check["passed"])
    for kind, reason in told["skipped"].items():
        record.check(f"{title}: {kind} not made: {reason}", 1.0, "0", passed=False)


def _told(record: Record, command: list[str], *, failing: bool = False) -> Any:
    """What a command prints as JSON; ``failing`` allows it to end with status 1."""
    print("$", record.commands[-1], flush=True)
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=not failing,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    accept_command(__doc__, "deployment", accept, {"growth.png": "deployment.png"})
