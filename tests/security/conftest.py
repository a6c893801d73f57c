"""A federation of four real sites, made once a session; each test takes a copy of its folders."""

from __future__ import annotations

import pytest
from tests.world import GRADIENT, World, make_world

from fedward_server import coordinator, rounds


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four sites, t = t_min = 3, c = 1: a count, then two gradient steps; nine attempts."""
    queries = [{"kind": "count", "noise_multiplier": 5.0}, {**GRADIENT, "rounds": 2}]
    root = tmp_path_factory.mktemp("attacked") / "federation"
    return make_world(root, 4, queries=queries, schedule={"maximum_attempts": 9})


@pytest.fixture(scope="session")
def auditing(federation: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same federation; every site asks for the evidence of every sum (A3.5)."""
    world = federation.copy(tmp_path_factory.mktemp("auditing") / "federation")
    for name in world.names:
        policy = world.root / name / "policy.toml"
        policy.write_text(policy.read_text().replace("audit_share = 0.0", "audit_share = 1.0"))
    return world


@pytest.fixture(autouse=True)
def _no_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "REPEAT_SECONDS", 0.0)
