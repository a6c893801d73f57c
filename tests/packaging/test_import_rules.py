"""The import contracts hold, and each of them can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDERS = ("common", "client", "server", "simulations")
LINTER = "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"

BREAKS = {
    "common imports the client": ("common/fedward_common/codec.py", "import fedward_client"),
    "client imports the server": ("client/fedward_client/database.py", "import fedward_server"),
    "server imports the client": ("server/fedward_server/planning.py", "import fedward_client"),
    "the core imports torch": ("common/fedward_common/secagg/ring.py", "import torch"),
    "the core reads a clock": ("common/fedward_common/privacy/noise.py", "import time"),
    "flwr away from the edge": ("client/fedward_client/database.py", "import flwr.app"),
    "a cycle": ("common/fedward_common/errors.py", "import fedward_common.codec"),
}


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over ``tree`` with the project's own contracts."""
    path = os.pathsep.join(str(tree / folder) for folder in FOLDERS)
    return subprocess.run(
        [sys.executable, "-c", LINTER, "--no-cache", "--no-logo"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    """A copy of the sources that a test may break."""
    for folder in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(root / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_hold(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize("broken", BREAKS)
def test_contract_is_broken_by(tree: Path, broken: str) -> None:
    name, line = BREAKS[broken]
    file = tree / name
    file.write_text(f"{file.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    done = lint(tree)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout
