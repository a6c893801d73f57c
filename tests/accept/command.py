"""The command line that the acceptances share."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.accept.foundation import ROOT, Record

from fedward_common.errors import StorageError

RESULTS = ROOT / "docs" / "results"


def accept_command(
    doc: str,
    name: str,
    accept: Callable[..., Record],
    pictures: Mapping[str, str] | None = None,
) -> None:
    """Run ``accept`` and write ``name``.json; exit 1 if a check fails.

    ``pictures`` maps a file that ``accept`` may leave in its folder to what it is called beside
    the results. ``--reduced`` writes to FOLDER only.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--reduced", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        record = accept(out, reduced=options.reduced)
        folder = out if options.reduced else RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(asdict(record), indent=2) + "\n")
        for source, target in (pictures or {}).items():
            if (out / source).exists():
                (folder / target).write_bytes((out / source).read_bytes())
    sys.exit(0 if all(check.passed for check in record.checks) else 1)


def attempt(record: Record, part: Callable[..., None], *arguments: Any, **options: Any) -> None:
    """Run one part; one that cannot be run is a miss, and the others' figures are still written."""
    try:
        part(record, *arguments, **options)
    except Exception as error:  # noqa: BLE001
        words = (*arguments, *options.values())
        name = " ".join((part.__name__, *(str(a) for a in words if isinstance(a, int | str))))
        record.check(f"{name}: ended by {type(error).__name__}", 1, "0", passed=False)


def simulate_json(record: Record, arguments: list[str], shown: list[str]) -> dict[str, Any]:
    """Run a fedward-simulate command on one thread; returns what it prints.

    ``shown`` is the command without paths of this machine, for the record.
    """
    record.commands.append(" ".join(["OMP_NUM_THREADS=1", "fedward-simulate", *shown]))
    print("$", record.commands[-1], flush=True)
    done = subprocess.run(
        [sys.executable, "-c", "from fedward_simulations.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if not done.stdout:
        raise StorageError(f"{record.commands[-1]}: exit {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
