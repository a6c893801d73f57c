"""Tests whose passing is itself a figure of an acceptance."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.accept.foundation import ROOT, Record


def suite(
    record: Record, name: str, arguments: list[str], environment: Mapping[str, str] | None = None
) -> None:
    """Run pytest with ``arguments``; every test must run, and pass."""
    given = dict(environment or {})
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    shown = [*(f"{key}={value}" for key, value in given.items()), "python", *command]
    record.commands.append(" ".join(shown))
    print("$", record.commands[-1], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        subprocess.run(
            [sys.executable, *command, f"--junitxml={report}"],
            cwd=ROOT,
            check=False,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **given},
        )
        found = ET.parse(report).getroot().find("testsuite")
    counts = {key: int(found.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    record.figures[name] = counts
    bad = counts["failures"] + counts["errors"] + counts["skipped"]
    passed = not bad and counts["tests"] > 0
    record.check(f"{counts['tests']} tests of {name}: not passed", bad, "0", passed=passed)
