"""`audit privacy` at a site, and `audit` of a whole simulated federation."""

from __future__ import annotations

import pytest
from tests.cli_world import client, ok, simulate
from tests.world import World, make_world

from fedward_simulations.arrays import load_arrays


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("audit") / "world", 3)


def test_a_site_audits_itself_without_a_debit_or_a_line_in_its_log(world):
    site = world.root / "site-1"
    with world.open("site-1") as opened:
        before = opened.ledger.head(), opened.audit.verify()
    found = client("audit", "privacy", "--site", site, "--json").json
    assert found["passed"]
    assert found["rounds_rehearsed"] == 3
    names = [check["name"] for check in found["checks"]]
    assert names == ["canaries", "noise", "repeats", "sampling", "clip", "ledger"]
    with world.open("site-1") as opened:
        assert (opened.ledger.head(), opened.audit.verify()) == before


def test_it_says_what_it_found_in_words(world):
    shown = ok(client("audit", "privacy", "--site", world.root / "site-2")).out.splitlines()
    assert len(shown) == 6
    assert all(line.startswith("ok ") for line in shown)
    assert "the plan claims at most" in shown[0]


def test_an_unknown_plan_is_one_line(world):
    done = client("audit", "privacy", "--site", world.root / "site-1", "--plan", "ffffff")
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert "no such plan here" in done.err


def test_images_that_are_not_there_are_told_before_any_work(tmp_path):
    done = simulate("audit", "--images", tmp_path / "no.npz", "--out", tmp_path / "audit")
    assert done.status == 2
    assert "no such file" in done.err
    assert not (tmp_path / "audit").exists()


@pytest.mark.slow
def test_the_audit_of_a_federation_at_full_size(tmp_path, shared_dir):
    images = shared_dir / "data" / "pneumoniamnist.npz"
    out = tmp_path / "audit"
    found = simulate("audit", "--out", out, "--images", images, "--json").json
    assert found["passed"]
    assert found["seconds"] < 180
    checks = {check["name"]: check["figures"] for check in found["checks"]}
    assert 0.5 < checks["canaries"]["epsilon_lower_bound"] < 2
    assert checks["pictures"]["recovered_from_private_sum"] == 0
    assert checks["pictures"]["recovered_from_plain_sum"] > 0
    assert load_arrays(images).digest()[:16] in found["images"]
    page = (out / "audit.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "://" not in page
    for name in ("pictures", "canaries", "noise"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
