"""The environment is the pinned one, and CI's carries no GPU packages."""

from __future__ import annotations

import os
import re
import tomllib
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path

import pytest

IN_CI = os.environ.get("FEDWARD_CI") == "1"
PIN = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([0-9][0-9a-z.]*)")
GPU = re.compile(r"nvidia-.*|cuda-.*|triton")
NOT_OURS = {"fedward", "pip", "setuptools"}
"""fedward itself, and what the interpreter brings into every environment."""


def canonical(name: str) -> str:
    """The name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, str]:
    """Name to version, of constraints.txt."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [PIN.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert None not in found, "each line is a plain NAME==VERSION: no option, address or local part"
    return {match[1]: match[2] for match in found if match}


@pytest.fixture(scope="module")
def installed() -> dict[str, str]:
    """Name to public version, of what is installed here."""
    return {
        canonical(item.metadata["Name"]): item.version.partition("+")[0] for item in distributions()
    }


def test_every_declared_requirement_is_pinned(root: Path, pins: dict[str, str]) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {canonical(re.split(r"[<>=!~\[; ]", line)[0]) for line in declared}
    assert names <= pins.keys()


def test_torch_and_flwr_are_pinned_as_the_project_says(pins: dict[str, str]) -> None:
    assert pins["torch"] == "2.13.0"
    assert pins["flwr"].startswith("1.41.")


def test_what_is_installed_has_the_pinned_version(
    pins: dict[str, str], installed: dict[str, str]
) -> None:
    ours = installed.keys() & pins.keys() - NOT_OURS
    assert len(ours) > 50
    assert {n: installed[n] for n in ours} == {n: pins[n] for n in ours}


@pytest.mark.skipif(not IN_CI, reason="a developer may have installed more; CI's is made afresh")
def test_nothing_unpinned_is_installed(pins: dict[str, str], installed: dict[str, str]) -> None:
    assert not installed.keys() - pins.keys() - NOT_OURS


@pytest.mark.skipif(not IN_CI, reason="the default index brings torch's CUDA packages to users")
def test_no_gpu_package_came_along(installed: dict[str, str]) -> None:
    assert not [name for name in installed if GPU.fullmatch(name)]
