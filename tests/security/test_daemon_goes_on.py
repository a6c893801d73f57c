"""The daemon's loop against a coordinator that fails it: it goes on, slowly and with few words."""

from __future__ import annotations

import json
import logging
import time

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from tests.hostile_gateway import HostileGateway
from tests.security.test_daemon_hostile import PROTOBUF, Orders, clock, order

from fedward_client.daemon import loop
from fedward_client.daemon.fleet import FleetLink
from fedward_client.daemon.inbox import FILE, Inbox
from fedward_client.daemon.loop import Daemon
from fedward_client.daemon.state import StateFile
from fedward_client.daemon.stopping import Stop
from fedward_client.round import SiteService
from fedward_client.site import VOLATILE, create_site, open_site
from fedward_server.certificates import SITE_DAYS

UNAVAILABLE = 503, {}, b"the SuperLink does not answer; try again\n"


class After(Stop):
    """Waits no time and notes how long it was to be; the wait after the last of ``count`` ends."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) >= self.count:
            self.set()


class Coordinator:
    """Answers as a sound one that holds one order, but at the paths that ``instead`` names."""

    def __init__(self, **instead) -> None:
        proto, tree, objects = order()
        self.orders = Orders(proto, [tree], objects)
        self.instead = instead
        self.announced = 0

    def __call__(self, method: str, path: str, body: bytes):
        name = path.rsplit("/", 1)[1].replace("-", "_")
        if name in self.instead:
            return self.instead[name](method, path, body)
        match name:
            case "time":
                return clock(0)()
            case "send_node_heartbeat":
                return 200, PROTOBUF, SendNodeHeartbeatResponse(success=True).SerializeToString()
            case "pull_messages":
                self.announced += 1
                if self.announced > 1:
                    return 200, PROTOBUF, PullMessagesResponse().SerializeToString()
        return self.orders(method, path, body)


def unavailable(*_: object):
    return UNAVAILABLE


@pytest.fixture
def served(tmp_path, caplog):
    """Serve a site until ``count`` pauses were made; returns (the pauses, the paths asked for)."""
    create_site(tmp_path / "north", "north")
    caplog.set_level(logging.INFO, "fedward_client.daemon")

    def serve(coordinator, count: int, days_ago: int = 0) -> tuple[list[float], list[str]]:
        stop = After(count)
        with (
            HostileGateway(tmp_path / "gateway", coordinator) as gateway,
            open_site(tmp_path / "north") as site,
        ):
            connection = gateway.connection(days_ago=days_ago)
            folder = site.folder.path
            Daemon(
                SiteService(site),
                Inbox(folder),
                StateFile(folder),
                lambda: connection,
                stop=stop,
                random=lambda count: b"\xff" * count,
            ).run()
        return stop.waits, [path.rsplit("/", 1)[1] for path in gateway.asked]

    return serve


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_an_order_that_cannot_be_fetched_is_given_up(served, tmp_path, caplog):
    """Or it would be the last that this hospital ever looks at."""
    _, asked = served(Coordinator(pull_object=unavailable), loop.MAX_SESSIONS + 3)
    assert asked.count("pull-object") >= loop.MAX_SESSIONS
    assert asked.count("pull-messages") >= 3
    told = warnings(caplog)
    assert sum("given up" in line for line in told) == 1
    assert not (tmp_path / "north" / VOLATILE / FILE).exists()


def test_an_answer_that_nobody_takes_is_given_up(served, caplog):
    _, asked = served(Coordinator(push_messages=unavailable), loop.MAX_SESSIONS + 3)
    assert asked.count("push-messages") == loop.MAX_SESSIONS
    assert asked.count("pull-messages") >= 3
    assert sum("given up" in line for line in warnings(caplog)) == 1


def test_an_order_that_comes_is_answered(served, caplog):
    _, asked = served(Coordinator(), 3)
    assert asked.count("push-messages") == 1
    assert not [line for line in warnings(caplog) if "refused" not in line]


def test_sessions_that_fail_after_their_activation_come_ever_later(served, caplog):
    waits, asked = served(Coordinator(pull_messages=unavailable), 8)
    assert asked.count("pull-messages") == 8
    expected = [min(loop.FIRST_RETRY_SECONDS * 2**i, loop.LAST_RETRY_SECONDS) for i in range(8)]
    assert waits == pytest.approx(expected, rel=1e-6)
    assert len(caplog.records) == 2, caplog.text  # what is wrong, and the end
    assert "does not answer" in caplog.text


@pytest.mark.parametrize(("steady", "growth"), [(-1.0, 1), (20.0, 16)])
def test_a_session_that_lasts_ends_the_pauses_growth(served, monkeypatch, steady, growth):
    """One question that was answered is not enough."""
    monkeypatch.setattr(loop, "STEADY_SECONDS", steady)
    answers = iter([unavailable()] * 4 + [None] + [unavailable()] * 3)

    def sometimes(*_: object):
        return next(answers) or (200, PROTOBUF, PullMessagesResponse().SerializeToString())

    waits, _ = served(Coordinator(pull_messages=sometimes), 8)
    assert waits[3] == pytest.approx(8 * waits[0])
    # 4: the pause between two questions
    assert waits[5:7] == pytest.approx([growth * wait for wait in waits[:2]])


TIMES = (b'{"unix_time": Infinity, "protocol": 1}', b'{"unix_time": 1, "protocol": 1e999}')


@pytest.mark.parametrize("body", TIMES)
def test_a_time_that_is_none_ends_nothing(served, body):
    waits, asked = served(Coordinator(time=lambda *_: (200, {}, body)), 4)
    assert asked == ["time"] * 4
    assert len(waits) == 4


def test_what_nobody_thought_of_ends_a_session_and_no_more(served, caplog, monkeypatch):
    def pull(_link: FleetLink):
        raise ZeroDivisionError("the patient's name")

    monkeypatch.setattr(FleetLink, "pull", pull)
    waits, _ = served(Coordinator(), 4)
    assert waits[3] == pytest.approx(8 * waits[0])
    assert [line for line in warnings(caplog) if "ZeroDivisionError" in line]
    assert len(warnings(caplog)) == 1
    assert "patient" not in caplog.text


def test_a_heartbeat_that_fails_in_a_new_way_is_repeated(caplog):
    done = []

    def beat() -> None:
        done.append(None)
        raise RecursionError("the patient's name")

    with loop._repeating(0.001, beat):
        while len(done) < 3:
            time.sleep(0.001)
    assert warnings(caplog) == ["failed: RecursionError"]


def test_the_certificates_end_is_told_within_a_session_too(served, caplog, monkeypatch):
    monkeypatch.setattr(loop, "EXPIRY_SECONDS", 0.0)
    served(Coordinator(), 4, days_ago=SITE_DAYS - 10)
    ends = [line for line in warnings(caplog) if "certificate ends" in line]
    assert len(ends) >= 4
    monkeypatch.setattr(loop, "EXPIRY_SECONDS", 3600.0)
    caplog.clear()
    served(Coordinator(), 4, days_ago=SITE_DAYS - 10)
    assert sum("certificate ends" in line for line in warnings(caplog)) == 1


def test_the_service_manager_hears_of_a_daemon_that_is_still_getting_ready(served, monkeypatch):
    """A first order may take an hour; the watchdog is fed meanwhile."""
    fed = []
    monkeypatch.setattr(loop, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(loop.Notifier, "alive", lambda _: fed.append(None))

    def warm_up(_service: SiteService) -> None:
        end = time.monotonic() + 60
        while len(fed) < 3 and time.monotonic() < end:
            time.sleep(0.001)

    monkeypatch.setattr(SiteService, "warm_up", warm_up)
    served(Coordinator(), 1)
    assert len(fed) >= 3


def test_the_state_tells_what_is_wrong_until_orders_can_be_asked_for(served, tmp_path):
    served(Coordinator(pull_messages=unavailable), 2)
    record = json.loads((tmp_path / "north" / "daemon.json").read_text())
    assert record["node"] == 17
    assert record["lock"] == ""  # nobody has claimed the folder here
