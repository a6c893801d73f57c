"""The set-up behind `make`: when it installs, what from, and what it says when it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INDEX = "https://index.example/cpu"


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A copy of what `make` reads."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / ".ci", tmp_path / ".ci")
    return tmp_path


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make apart from any make that runs this test."""
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL"}}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def installs(project: Path, *arguments: str) -> list[str]:
    """The pip commands that `make venv` would run."""
    done = make(project, "--dry-run", "venv", *arguments)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if "pip install" in line]


def stamp(project: Path) -> Path:
    """The stamp that says that the environment is up to date."""
    lines = make(project, "--dry-run", "venv").stdout.splitlines()
    (touched,) = [line.split()[-1] for line in lines if line.startswith("touch ")]
    return project / touched


def test_default_names_no_index_and_every_install_is_constrained(project: Path) -> None:
    commands = installs(project)
    assert commands
    assert all("--constraint constraints.txt" in command for command in commands)
    assert not [command for command in commands if "index" in command]
    assert "--no-build-isolation" in commands[-1]


def test_torch_index_is_for_torch_only_and_first(project: Path) -> None:
    first, *rest = installs(project, f"TORCH_INDEX={INDEX}")
    assert f'--index-url "{INDEX}" torch' in first
    assert "--no-deps" in first
    assert rest == installs(project)


def test_installs_again_when_a_pin_changes_and_only_then(project: Path) -> None:
    done = stamp(project)
    done.parent.mkdir()
    done.touch()
    assert make(project, "--question", "venv").returncode == 0
    os.utime(project / "constraints.txt", (1, 1))  # a checkout changes times, not content
    assert make(project, "--question", "venv").returncode == 0
    with (project / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("another==1.0\n")
    assert make(project, "--question", "venv").returncode == 1


def test_a_wrong_interpreter_is_one_line(project: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    done = make(project, "venv", f"PYTHON={old}")
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("fedward:")]
    remedy = "name one with make PYTHON=/path/to/python3.11"
    assert said == [f"fedward: {old} is not a Python 3.11 or 3.12: {remedy}"]
    assert not (project / ".venv").exists()


def test_a_missing_venv_module_is_one_line(project: Path, tmp_path: Path) -> None:
    bare = tmp_path / "python3.11"
    bare.write_text(
        f'#!/bin/sh\ncase "$2" in *venv*) exit 1;; esac\nexec {sys.executable} "$@"\n',
        encoding="utf-8",
    )
    bare.chmod(0o755)
    done = make(project, "venv", f"PYTHON={bare}")
    assert done.returncode == 2
    assert f"fedward: {bare} cannot make environments: install its venv module" in done.stderr


def test_no_interpreter_is_one_line(project: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", ".ci/python"],
        cwd=project,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("fedward: no Python 3.11 or 3.12 on PATH")
    assert done.stderr.count("\n") == 1


def test_ci_calls_the_same_commands(root: Path) -> None:
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert "FEDWARD_CI=1" in text
    assert {"make lint", "make test"} <= {" ".join(line.split()[:2]) for line in text.splitlines()}
