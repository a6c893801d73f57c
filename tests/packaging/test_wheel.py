"""The wheel holds the four packages with their data, nothing else, and its commands start."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from email import message_from_string
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.packaging.conftest import Wheel

PACKAGES = {
    "common": "fedward_common",
    "client": "fedward_client",
    "server": "fedward_server",
    "simulations": "fedward_simulations",
}
COMMANDS = {
    "fedward-client": "fedward_client.cli:main",
    "fedward-server": "fedward_server.cli:main",
    "fedward-simulate": "fedward_simulations.cli:main",
}


def source_files(root: Path) -> set[str]:
    """What lies in the four package folders, named as in the wheel."""
    return {
        file.relative_to(root / folder).as_posix()
        for folder, package in PACKAGES.items()
        for file in (root / folder / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_holds_every_file_of_the_packages_and_only_those(wheel: Wheel, root: Path) -> None:
    shipped = {name for name in wheel.names if ".dist-info/" not in name}
    assert shipped == source_files(root)


@pytest.mark.parametrize("package", PACKAGES.values())
def test_packages_are_typed(wheel: Wheel, package: str) -> None:
    assert f"{package}/py.typed" in wheel.names


def test_data_files_are_in_it(wheel: Wheel) -> None:
    suffixes = {Path(name).suffix for name in wheel.names if ".dist-info/" not in name}
    assert {".j2", ".toml", ".json"} <= suffixes  # report templates, scenarios, standard's tables


def test_holds_no_test_and_no_key(wheel: Wheel) -> None:
    forbidden = ("test_", "conftest", ".pem", ".key", ".npz", ".dcm", ".env")
    assert not [name for name in wheel.names if any(part in name for part in forbidden)]


def test_metadata(wheel: Wheel) -> None:
    metadata = message_from_string(wheel.dist_info("METADATA"))
    requirements = metadata.get_all("Requires-Dist", [])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "flwr==1.41.*" in requirements
    assert "torch==2.13.0" in requirements
    assert set(metadata.get_all("Provides-Extra", [])) == {"bench", "dev", "ocr"}
    assert wheel.dist_info("licenses/LICENSE").lstrip().startswith("Apache License")


def test_one_version(wheel: Wheel) -> None:
    metadata = message_from_string(wheel.dist_info("METADATA"))
    said = run(wheel, "import fedward_common; print(fedward_common.__version__)")
    assert said == metadata["Version"] == version("fedward")


def test_console_scripts(wheel: Wheel) -> None:
    entries = configparser.ConfigParser(delimiters=("=",))
    entries.read_string(wheel.dist_info("entry_points.txt"))
    assert dict(entries["console_scripts"]) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_the_installed_wheel(wheel: Wheel, command: str) -> None:
    module, function = COMMANDS[command].split(":")
    code = (
        f"import sys, {module} as m; assert m.__file__.startswith({str(wheel.unpacked)!r}); "
        f"sys.argv = [{command!r}, '--help']; sys.exit(m.{function}())"
    )
    shown = run(wheel, code)
    assert command in shown
    assert "Usage" in shown


def run(wheel: Wheel, code: str) -> str:
    """Run ``code`` with the unpacked wheel ahead of this checkout; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(wheel.unpacked), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=wheel.unpacked,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
