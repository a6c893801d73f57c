"""A federation of four real sites, made once a session; each test takes a copy of its folders."""

from __future__ import annotations

import pytest
from tests.world import GRADIENT, World, make_world


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four sites, t = t_min = 3, c = 1: a count, then two gradient steps; nine attempts."""
    queries = [{"kind": "count", "noise_multiplier": 5.0}, {**GRADIENT, "rounds": 2}]
    root = tmp_path_factory.mktemp("attacked") / "federation"
    return make_world(root, 4, queries=queries, schedule={"maximum_attempts": 9})
