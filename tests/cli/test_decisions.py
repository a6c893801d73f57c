"""Decisions that are taken back: leaving a study that is running, a hospital verified no more."""

from __future__ import annotations

import io
import sys

import pytest
from tests.cli_world import client, ok, run
from tests.world import GRADIENT, ServerStopped, World, coordinate, make_world

from fedward_client.cli.options import find_study
from fedward_client.site import open_site
from fedward_client.studies import StudyState
from fedward_common.identity import parse_site_public, spell

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

LEAVES = (
    "nothing undoes that",
    "what has left stays in the sums, and the ledger keeps what was spent",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Three hospitals whose study stands after its first sum of three."""
    queries = [{"kind": "count", "noise_multiplier": 5.0}, {**GRADIENT, "rounds": 2}]
    world = make_world(tmp_path_factory.mktemp("running") / "world", 3, queries=queries)

    def on_round(_) -> None:
        raise ServerStopped

    with world.sites() as sites, pytest.raises(ServerStopped):
        coordinate(sites, on_round).run()
    return world


@pytest.fixture
def world(begun, tmp_path) -> World:
    return begun.copy(tmp_path / "world")


@pytest.fixture
def north(world):
    return world.root / "site-1"


def digest_of(world: World) -> str:
    return world.signed.open().digest.hex()


def state_of(path) -> StudyState:
    with open_site(path) as site:
        return find_study(site.studies.all(), "").state


def log_of(path) -> list[str]:
    with open_site(path) as site:
        return [entry.kind for entry in site.audit.entries()]


def test_a_running_study_is_not_left_by_mistake(world, north):
    plan = digest_of(world)[:16]
    before = log_of(north)
    done = run("fedward-client", "plan", "reject", plan, "--site", north)
    done.refused(2, f"plan {plan}: its study is running and goes on; give --yes")
    assert all(words in done.out for words in LEAVES)
    assert state_of(north) is StudyState.RUNNING
    assert list((north / "identity").glob("plan-*.key"))
    assert log_of(north) == before


@pytest.mark.parametrize(("answer", "leaves"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_person_at_a_terminal_is_asked(world, north, monkeypatch, answer, leaves):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    done = client("plan", "reject", digest_of(world), "--site", north)
    assert done.out.index(LEAVES[1]) < done.out.index("Leave the study?")
    assert done.status == (0 if leaves else 2)
    assert state_of(north) is (StudyState.WITHDRAWN if leaves else StudyState.RUNNING)


def test_a_study_that_was_left_is_over_here_and_says_so(world, north):
    digest = digest_of(world)
    spent = client("ledger", "show", "--site", north, "--json").json
    told = client("plan", "reject", digest, "--yes", "--site", north, "--json").json
    assert told == {"plan": digest, "study": "tiny", "state": "withdrawn"}
    assert not list((north / "identity").glob("plan-*.key"))
    assert not list((north / "volatile").glob("*.key"))
    assert log_of(north)[-1] == "leave"
    assert client("ledger", "show", "--site", north, "--json").json == spent
    shown = ok(client("plan", "show", digest, "--site", north)).out
    assert "State: withdrawn" in shown
    assert "upgraded" not in shown
    assert client("plan", "show", "--site", north, "--json").json[0]["state"] == "withdrawn"
    assert (
        ": withdrawn, 0 of 3 sums; this site has left it for good"
        in ok(client("status", "--site", north)).out
    )
    ok(client("audit", "verify", "--site", north))
    again = client("plan", "reject", digest, "--yes", "--site", north)
    again.refused(2, digest[:16], "its study is withdrawn here; nothing is left to decide")


def test_a_hospital_is_verified_until_its_confirmation_is_taken_back(federation):
    site, south = federation.sites[0], federation.sites[1] / "SITE.pub"
    listed = client("members", "list", "--site", site)
    assert "no hospital yet" in ok(listed).out
    federation.import_everywhere(100.0)
    fingerprints = {
        path.name: parse_site_public((path / "SITE.pub").read_text()).fingerprint
        for path in federation.sites[1:]
    }
    assert ok(client("members", "list", "--site", site)).out.splitlines() == [
        f"{name}: {spell(key)}" for name, key in fingerprints.items()
    ]
    assert "site-02: verified" in ok(client("plan", "show", federation.digest, "--site", site)).out

    told = ok(client("members", "withdraw", "site-02", "--site", site)).out
    assert "site-02 is not verified any more" in told
    assert client("members", "list", "--site", site, "--json").json == [
        {"name": "site-03", "fingerprint": fingerprints["site-03"].hex()}
    ]
    shown = client("plan", "show", federation.digest, "--site", site, "--json").json
    assert shown["unverified"] == ["site-02"]
    ok(client("members", "withdraw", "site-03", "--site", site))
    done = client("plan", "approve", federation.digest, "--site", site)
    done.refused(2, "unverified")  # two of them, where the plan tolerates one
    again = client("members", "withdraw", "site-02", "--site", site)
    again.refused(2, "'site-02': not confirmed here", "members list")

    ok(client("members", "confirm", south, "--yes", "--site", site))
    assert log_of(site) == ["confirm", "confirm", "withdraw", "withdraw", "confirm"]
    ok(client("audit", "verify", "--site", site))
    ok(client("plan", "approve", federation.digest, "--site", site))
