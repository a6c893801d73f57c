"""The wheel that a user would install, built once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Wheel:
    """A built wheel: its file, and the folder that it was unpacked into."""

    path: Path
    unpacked: Path

    @property
    def names(self) -> set[str]:
        """Every file in it."""
        with ZipFile(self.path) as archive:
            return set(archive.namelist())

    def dist_info(self, name: str) -> str:
        """The text of a file of its metadata."""
        (folder,) = self.unpacked.glob("fedward-*.dist-info")
        return (folder / name).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("fedward-*.whl")
    with ZipFile(path) as archive:
        archive.extractall(folder / "unpacked")
    return Wheel(path, folder / "unpacked")
