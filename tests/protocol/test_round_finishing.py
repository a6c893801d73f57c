"""What must not keep an attempt from its end, or a study: other messages, absence, a final no.

The server's loop and the sites' services are the production ones (A2.1, A3.4, A1).
"""

from __future__ import annotations

import shutil

import pytest
from tests.world import ServerStopped, World, coordinate

from fedward_client.round import SiteService
from fedward_common.messages import (
    AgreeOrder,
    Begin,
    MaskOrder,
    Message,
    Propose,
    Publish,
    UnmaskOrder,
    Witnessed,
    WitnessOrder,
)
from fedward_server import rounds
from fedward_server.coordinator import RoundEvent, StudyFailedError

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

AROUND = (Propose, Begin, Witnessed, WitnessOrder)


class Paused(Exception):  # noqa: N818
    """The server stops for a while."""


@pytest.mark.parametrize("killed_at", [AgreeOrder, UnmaskOrder])
def test_a_site_far_behind_is_not_lost_when_the_server_restarts(
    template, tmp_path, monkeypatch, killed_at
):
    """It is sent what it missed once more, after it has masked: the attempt still ends (A2.2)."""
    monkeypatch.setattr(rounds, "MAX_SUMS", 2)  # so that six sums are many
    world: World = template.copy(tmp_path / "world")
    phase = "without site-4"

    def fate(name: str, order: Message) -> str:
        if phase == "without site-4":
            return "lost" if name == "site-4" and not isinstance(order, AROUND) else "ok"
        if name == "site-3" and not isinstance(order, Propose):
            return "lost"
        if phase == "killed" and isinstance(order, killed_at):
            raise ServerStopped
        return "ok"

    def pause(event: RoundEvent) -> None:
        if event.position == 4:
            raise Paused

    with world.sites(seed=7, fate=fate) as sites:
        with pytest.raises(Paused):
            coordinate(sites, pause).run()
        phase = "killed"
        with pytest.raises(ServerStopped):
            coordinate(sites).run()
        caught_up = [n for n, order, _ in sites.sent if isinstance(order, Publish)]
        assert caught_up == ["site-4"]
        phase = "restarted"
        history = coordinate(sites).run().history
        assert sites.refused == []
    assert [entry["e"] for entry in history] == [1, 2, 3, 4, 5, 6]
    assert history[4]["sites"] == ["site-1", "site-2", "site-4"]


def test_a_site_that_knows_the_study_no_more_counts_as_lost(small, tmp_path):
    """Its final refusal at step 4 ends the asking; it is told in one line (A2.1)."""
    world: World = small.copy(tmp_path / "world")
    asked = 0

    def fate(name: str, order: Message) -> str:
        nonlocal asked
        if isinstance(order, UnmaskOrder) and order.e == 2 and name == "site-3":
            asked += 1
            assert asked < 5, "asked for ever"
            sites.restart(name)
            shutil.rmtree(world.root / name)
            shutil.copytree(small.root / name, world.root / name)
        return "ok"

    with world.sites(seed=7, fate=fate) as sites:
        with pytest.raises(StudyFailedError, match="sites that lost the attempt: site-3"):
            coordinate(sites).run()
        assert {refusal.kind for _, _, refusal in sites.refused} == {"PolicyRefusalError"}
    assert asked == 1


def test_a_site_that_cannot_begin_the_next_attempt_still_gives_its_shares(small, tmp_path):
    """All three are needed: without its shares this sum would be lost, and with it the study."""
    world: World = small.copy(tmp_path / "world")
    asked = 0

    def fate(name: str, order: Message) -> str:
        nonlocal asked
        if isinstance(order, UnmaskOrder) and order.e == 2 and name == "site-3":
            asked += 1
            assert asked < 5, "asked for ever"
            if asked > 1:  # with witnesses, now that it has restarted
                return "ok"
            sites.restart(name)  # its cohort is opened anew, and its labels are damaged by now
            sites.site(name).folder.database.execute("UPDATE labels SET sealed = x'00'")
        if isinstance(order, MaskOrder) and order.e == 3:
            raise Paused
        return "ok"

    def pause(event: RoundEvent) -> None:
        if event.position == 2:
            assert set(event.contributors) == set(world.names)
            raise Paused

    with world.sites(seed=7, fate=fate) as sites:
        with pytest.raises(Paused):
            coordinate(sites, pause).run()
        assert sites.refused == []


def test_the_addends_of_an_attempt_that_failed_are_removed(template, tmp_path):
    """Only those of the last sum and of the attempt in flight are on the server's disk."""
    world: World = template.copy(tmp_path / "world")
    kept: list[set[str]] = []

    def fate(name: str, order: Message) -> str:
        if isinstance(order, AgreeOrder) and 1 < order.e < 6:
            kept.append({path.name for path in (world.server / "addends").iterdir()})
            return "lost" if name in ("site-1", "site-2") else "ok"
        return "ok"

    with world.sites(seed=7, fate=fate) as sites:
        assert coordinate(sites).run().history[1]["e"] == 6
    assert set.union(*kept) == {"1", "2", "3", "4", "5"}
    assert all("1" in names and len(names) == 2 for names in kept)


@pytest.mark.parametrize("again", ["opened", "asked"])
def test_a_key_that_outlived_its_study_is_destroyed(small, tmp_path, again):
    """A1: a kill came between the end of the study and the deletion of its key."""
    world: World = small.copy(tmp_path / "world")
    folder = world.root / "site-1" / "identity"
    (key,) = folder.glob("plan-*.key")
    content = key.read_bytes()
    with world.sites(seed=7) as sites:
        coordinate(sites).run()
        assert not key.exists()
        if again == "asked":
            key.write_bytes(content)
            coordinate(sites).run()
            assert not key.exists()
    key.write_bytes(content)
    with world.open("site-1") as site:
        SiteService(site)
        assert not key.exists()
