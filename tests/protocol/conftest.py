"""A federation made once a session; each test takes a copy of its folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.world import GRADIENT, World, make_world

from fedward_server import coordinator, rounds


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four sites, t = t_min = 3, c = 1; count, moments, three gradient steps, histogram."""
    return make_world(tmp_path_factory.mktemp("federation") / "template")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three sites, all needed, c = 1, and four sums: for tests that run a study many times."""
    queries = [
        {"kind": "count", "noise_multiplier": 5.0},
        {**GRADIENT, "rounds": 2},
        {"kind": "histogram", "noise_multiplier": 5.0, "bins": 4},
    ]
    root = tmp_path_factory.mktemp("federation") / "small"
    return make_world(root, 3, queries=queries, schedule={"maximum_attempts": 4})


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    return template.copy(tmp_path / "world")


@pytest.fixture(autouse=True)
def _no_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "REPEAT_SECONDS", 0.0)
