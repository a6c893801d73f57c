"""Fixtures that every kind of test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def missing(reason: str) -> None:
    """Skip with ``reason``; under FEDWARD_CI=1 a missing part is a failure."""
    if os.environ.get("FEDWARD_CI") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real images and reference tables (FEDWARD_SHARED)."""
    path = Path(os.environ.get("FEDWARD_SHARED", ROOT / ".." / "shared")).resolve()
    if not path.is_dir():
        missing(f"FEDWARD_SHARED: {path} is not a folder")
    return path


@pytest.fixture(scope="session")
def pneumonia_npz(shared_dir: Path) -> Path:
    """The PneumoniaMNIST arrays."""
    path = shared_dir / "data" / "pneumoniamnist.npz"
    if not path.is_file():
        missing("pneumoniamnist.npz is not in FEDWARD_SHARED/data")
    return path
