"""From step 4 on an attempt is finished, whoever is killed; what is published is adopted on proof.

The server's loop and the sites' services are the production ones (A2, A3.4, A3.5).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from tests.security.test_attacks_restarts import SiteProcess
from tests.world import MemorySites, ServerStopped, World, coordinate, published

from fedward_client.studies import StudyState
from fedward_common.messages import (
    REPLIES,
    AgreeOrder,
    MaskOrder,
    Message,
    Publish,
    Refusal,
    ShareOrder,
    Standing,
    StepReply,
    UnmaskOrder,
    decode_message,
)
from fedward_common.secagg.messages import ShareMessage
from fedward_common.secagg.sharing import CIPHERTEXT_BYTES
from fedward_common.secagg.transcript import Transcript
from fedward_server.coordinator import StudyFailedError

SUMS = 4

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


@pytest.fixture
def world(small, tmp_path) -> World:
    return small.copy(tmp_path / "world")


def ask(sites: MemorySites, name: str, order: Message) -> Message:
    return decode_message(sites.ask(name, order.encode()), REPLIES)


def of(sites: MemorySites, kind: type, name: str, e: int) -> Message:
    """The order of this kind that the server sent this site in attempt e."""
    found = {
        order.encode()
        for n, order, _ in sites.sent
        if type(order) is kind and n == name and order.e == e
    }
    assert len(found) == 1
    return decode_message(found.pop(), (kind,))


def debits(sites: MemorySites, name: str) -> list[int]:
    return [entry.e for entry in sites.site(name).ledger.entries()]


# A3.4: the attempt is finished


@pytest.mark.parametrize("answered", [0, 1, 2, 3])
@pytest.mark.parametrize("reopen", [False, True])
def test_a_server_killed_at_step_4_asks_for_the_same_again(world, answered, reopen):
    """Killed before, between and after the replies: one attempt, one debit, the exact sum."""
    told = []

    def fate(name: str, order: Message) -> str:
        if isinstance(order, UnmaskOrder) and order.e == 2 and len(told) == answered < 3:
            raise ServerStopped
        return "ok"

    def note(name: str, order: Message, _: bytes) -> None:
        if isinstance(order, UnmaskOrder) and order.e == 2:
            told.append(name)

    with world.sites(seed=7, fate=fate, on_order=note, reopen=reopen) as sites:
        if answered < 3:
            with pytest.raises(ServerStopped):
                coordinate(sites).run()
            before = [of(sites, UnmaskOrder, name, 2) for name in told]
        else:
            coordinate(sites).run()
    if answered < 3:
        assert (world.server / "pending.bin").exists()
        with world.sites(seed=7, reopen=reopen) as sites:
            coordinate(sites).run()
            assert sites.refused == []
            again = [(n, o) for n, o, _ in sites.sent if isinstance(o, UnmaskOrder) and o.e == 2]
            assert sorted({name for name, _ in again}) == list(world.names)
            assert {o.encode() for _, o in again} | {o.encode() for o in before} == {
                again[0][1].encode()
            }
            asked = [order for _, order, _ in sites.sent if isinstance(order, MaskOrder)]
            assert all(order.e > 2 for order in asked)  # nobody computes for it again
    with world.sites() as sites:
        assert [debits(sites, name) for name in world.names] == [[1, 2, 3, 4]] * 3


def test_without_enough_who_can_answer_the_study_stops_in_one_line(world):
    """Sites that lost the keys of the round in flight never answer; nothing is repeated."""

    def fate(name: str, order: Message) -> str:
        if isinstance(order, UnmaskOrder) and order.e == 2 and name == "site-3":
            for path in (world.root / name / "volatile").glob("*.key"):
                path.unlink()
        return "ok"

    with world.sites(seed=7, fate=fate) as sites:
        for _ in range(2):  # a coordinator who starts it again is told the same
            with pytest.raises(StudyFailedError) as failed:
                coordinate(sites).run()
            line = str(failed.value)
            assert line.startswith("study tiny: sum 2 cannot be opened: 2 replies with shares")
            assert "sites that lost the attempt: site-3" in line
            assert "make a new plan" in line
            assert "\n" not in line
        assert [debits(sites, name) for name in world.names] == [[1, 2]] * 3
        # A server that would not stop is refused by those who released, and site-3 alone is none.
        study = of(sites, UnmaskOrder, "site-1", 2).study
        for name in world.names:
            assert isinstance(ask(sites, name, ShareOrder(study, 4)), StepReply)
    assert len(published(world, 1)) == 1


def test_the_released_shares_are_served_until_the_attempt_after_next(template, tmp_path):
    """They outlive step 1 that rode on them, the next mask, and the site's process."""
    world = template.copy(tmp_path / "world")
    seen: dict[str, bytes] = {}

    def again(name: str, order: Message, reply: bytes) -> None:
        if name != "site-1" or not isinstance(order, ShareOrder | MaskOrder | UnmaskOrder):
            return
        if isinstance(order, UnmaskOrder):
            seen[f"order {order.e}"], seen[f"reply {order.e}"] = order.encode(), reply
        previous = order.e - 1 if not isinstance(order, UnmaskOrder) else order.e
        if f"order {previous}" in seen:
            sites.restart(name)
            assert sites.ask(name, seen[f"order {previous}"]) == seen[f"reply {previous}"]
        if f"order {previous - 1}" in seen and previous < 6:  # no attempt follows the last one
            reply = decode_message(sites.ask(name, seen[f"order {previous - 1}"]), REPLIES)
            assert isinstance(reply, Refusal)  # since step 1 of the attempt after `previous`

    with world.sites(on_order=again) as sites:
        coordinate(sites).run()
    assert f"order {6}" in seen


# A2: what is published outside a round


@pytest.fixture(scope="module")
def ended(small, tmp_path_factory):
    """Every sum is there, site-3 heard nothing after the first; it may now be told the rest."""
    world: World = small.copy(tmp_path_factory.mktemp("ended") / "world")
    with world.sites(seed=7, fate=lambda *_: "ok") as sites:
        coordinate(sites).run()
    sent = [order for _, order, _ in sites.sent if isinstance(order, Publish)]
    return world, sent[-1]


@pytest.fixture
def behind(small, ended, tmp_path):
    """Site-3 as it was when the study had begun, told the sums by whoever likes."""
    world = small.copy(tmp_path / "behind")
    finished, last = ended

    class Begun(Exception):  # noqa: N818
        pass

    def fate(_: str, order: Message) -> str:
        if isinstance(order, ShareOrder):
            raise Begun
        return "ok"

    with world.sites(seed=7, fate=fate) as sites, pytest.raises(Begun):
        coordinate(sites).run()
    sums = tuple(total.tobytes() for total in published(finished, SUMS))
    with world.sites(seed=7) as sites:
        yield sites, dataclasses.replace(last, position=0, sums=sums)


def progress_of(sites: MemorySites, study: bytes) -> bytes:
    return sites.site("site-3").studies.running(study).progress


def test_the_last_sum_is_adopted_with_the_transcript_of_its_attempt_only(behind, ended):
    sites, last = behind
    before = progress_of(sites, last.study)
    transcript = Transcript.decode(last.transcript)
    forged = dataclasses.replace(transcript.agreements[0], signature=bytes(64))
    false = (np.frombuffer(last.sums[0], "<u4") + np.uint32(1)).astype("<u4").tobytes()
    bad = {
        "none": {"transcript": b""},
        "not one": {"transcript": b"T"},
        "a signature less": {
            "transcript": dataclasses.replace(
                transcript, agreements=transcript.agreements[:2]
            ).encode()
        },
        "a forged signature": {
            "transcript": dataclasses.replace(
                transcript, agreements=(forged, *transcript.agreements[1:])
            ).encode()
        },
        "of another e": {
            "transcript": dataclasses.replace(
                transcript, context=dataclasses.replace(transcript.context, e=3)
            ).encode()
        },
        "after a false sum": {"sums": (false, *last.sums[1:])},
        "before the last sum": {"sums": last.sums[:-1]},
    }
    for fields in bad.values():
        reply = ask(sites, "site-3", dataclasses.replace(last, **fields))
        assert isinstance(reply, Refusal), fields.keys()
        assert "\n" not in reply.reason
        assert progress_of(sites, last.study) == before
        assert sites.site("site-3").studies.running(last.study).state is StudyState.RUNNING
    assert ask(sites, "site-3", last) == Standing(last.study, SUMS)
    assert sites.site("site-3").studies.running(last.study).state is StudyState.FINISHED
    with ended[0].open("site-1") as other:
        assert progress_of(sites, last.study) == other.studies.running(last.study).progress
    assert ask(sites, "site-3", last) == Standing(last.study, SUMS)  # again: nothing changes


def test_sums_without_evidence_are_held_and_nothing_more(behind):
    """A false one is forgotten as soon as the true ones come from where the site stands."""
    sites, last = behind
    before = progress_of(sites, last.study)
    false = (np.frombuffer(last.sums[0], "<u4") + np.uint32(1)).astype("<u4").tobytes()
    lie = Publish(last.study, 0, (false, last.sums[1]))
    assert ask(sites, "site-3", lie) == Standing(last.study, 2)
    assert progress_of(sites, last.study) == before
    continued = dataclasses.replace(last, position=2, sums=last.sums[2:])
    assert isinstance(ask(sites, "site-3", continued), Refusal)  # what it holds has another ctx
    sites.restart("site-3")
    truth = Publish(last.study, 0, last.sums[:2])
    assert ask(sites, "site-3", truth) == Standing(last.study, 2)
    sites.restart("site-3")  # it holds on
    assert progress_of(sites, last.study) == before
    assert ask(sites, "site-3", continued) == Standing(last.study, SUMS)


def test_a_site_killed_while_it_adopts_the_last_sum_holds_all_of_it_or_nothing(behind):
    """SIGKILL at any moment: afterwards the same order is answered, and the key is gone."""
    sites, last = behind
    world, before = sites.world, progress_of(sites, last.study)
    key = list((world.root / "site-3" / "identity").glob("plan-*.key"))
    assert len(key) == 1
    for delay in (0.0, 0.005, 0.02, 0.05):
        sites.restart("site-3")
        with SiteProcess(world.root / "site-3") as process:
            process.send(last)
            time.sleep(delay)
            process.kill()
        record = sites.site("site-3").studies.running(last.study)
        assert (record.state is StudyState.FINISHED) == (record.progress != before)
    assert ask(sites, "site-3", last) == Standing(last.study, SUMS)
    assert not key[0].exists()


# A3.5: who dealt wrong shares


class JunkDealer(MemorySites):
    """Behind site-4 sits a member who seals junk for ``victims``, with a valid round key."""

    victims = ("site-1", "site-2", "site-3")

    def exchange(
        self, orders: Mapping[str, Message], deadline_seconds: float
    ) -> Iterator[tuple[str, Message]]:
        for name, reply in super().exchange(orders, deadline_seconds):
            if name == "site-4" and isinstance(reply, StepReply):
                share = isinstance(orders[name], ShareOrder)
                spoilt = {
                    "reply": self._junk(reply.reply) if share else reply.reply,
                    "share": self._junk(reply.share) if reply.share else b"",
                }
                yield name, dataclasses.replace(reply, **spoilt)
            else:
                yield name, reply

    def _junk(self, data: bytes) -> bytes:
        message = ShareMessage.decode(data)
        junk = [
            bytes(CIPHERTEXT_BYTES) if name in self.victims else record
            for name, record in zip(self.world.names, message.ciphertexts, strict=True)
        ]
        return dataclasses.replace(message, ciphertexts=tuple(junk)).encode()


def test_a_dealer_of_wrong_shares_costs_one_attempt_and_is_left_out(template, tmp_path, caplog):
    world = template.copy(tmp_path / "world")
    with JunkDealer(world, seed=1) as sites:
        history = coordinate(sites).run().history
    assert [entry["e"] for entry in history] == [2, 3, 4, 5, 6, 7]
    assert all(entry["sites"] == ["site-1", "site-2", "site-3"] for entry in history)
    record = json.loads((world.server / "left-out.json").read_text())
    assert record == {"site-4": "more than c members hold wrong shares of it in attempt 1"}
    assert "site-4 is left out from now on" in caplog.text


def test_one_complaint_within_c_leaves_nobody_out(template, tmp_path):
    """It may as well be the complaining member who lies."""
    world = template.copy(tmp_path / "world")
    with JunkDealer(world, seed=1) as sites:
        sites.victims = ("site-2",)
        history = coordinate(sites).run().history
    assert [entry["e"] for entry in history] == [1, 2, 3, 4, 5, 6]
    assert all(entry["sites"] == list(world.names) for entry in history)
    assert not (world.server / "left-out.json").exists()


def test_where_t_min_needs_the_dealer_the_study_ends_and_names_it(small, tmp_path):
    world = small.copy(tmp_path / "world")

    class Dealer(JunkDealer):
        pass

    def fate(name: str, order: Message) -> str:
        return "ok"

    with Dealer(world, seed=1, fate=fate) as sites:
        (world.server).mkdir(parents=True, exist_ok=True)
        (world.server / "left-out.json").write_text(json.dumps({"site-2": "dealt junk"}))
        with pytest.raises(StudyFailedError, match="without site-2, who dealt wrong shares"):
            coordinate(sites).run()
        assert not any(isinstance(order, AgreeOrder) for _, order, _ in sites.sent)


# A6: keys of rounds that are over


def test_opening_a_site_destroys_keys_that_open_nothing_and_no_other(world):
    class Masked(Exception):  # noqa: N818
        pass

    def stop(name: str, order: Message, _: bytes) -> None:
        if isinstance(order, MaskOrder) and name == "site-3":
            raise Masked

    with world.sites(seed=7, on_order=stop) as sites, pytest.raises(Masked):
        coordinate(sites).run()
    folder = world.root / "site-1" / "volatile"
    kept = list(folder.glob("*.key"))
    assert len(kept) == 1
    for name in (f"{'ab' * 16}-{'cd' * 8}.key", kept[0].name[:33] + "00" * 8 + ".key"):
        (folder / name).write_bytes(bytes(32))  # a kill between a commit and the deletion
    with world.open("site-1"):
        assert list(folder.glob("*.key")) == kept
    with world.sites(seed=7) as sites:
        assert coordinate(sites).run().progress.position == SUMS
    assert list(folder.glob("*.key")) == []
