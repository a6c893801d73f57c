"""The parts of a hospital's daemon that need no server: its files, its lock, its log."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import socket
import stat
import threading
from pathlib import Path

import pytest

from fedward_client.daemon import serve
from fedward_client.daemon import state as state_module
from fedward_client.daemon.inbox import FILE, Announced, Inbox, Order
from fedward_client.daemon.log import log_to_stderr
from fedward_client.daemon.loop import kind_of
from fedward_client.daemon.notify import Notifier
from fedward_client.daemon.pace import LONGEST_SECONDS, SHORTEST_SECONDS, Pace
from fedward_client.daemon.state import DaemonState, StateFile, read_state
from fedward_client.daemon.stopping import Stop
from fedward_client.serving import LOCK, claim, is_served
from fedward_client.site import POLICY, VOLATILE, create_site, open_site
from fedward_common.errors import OperatorError
from fedward_common.messages import Refusal, Standing, StepReply

ORDER = Order(b"to whom", b"what")


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / VOLATILE).mkdir()
    return Inbox(tmp_path)


def test_an_order_is_taken_up_once(inbox, tmp_path):
    assert inbox.take() is None
    inbox.keep(ORDER)
    assert stat.S_IMODE((tmp_path / VOLATILE / FILE).stat().st_mode) == 0o600
    assert Inbox(tmp_path).take() == ORDER
    assert Inbox(tmp_path).take() is None  # it may be what killed the process
    inbox.keep(ORDER)
    inbox.clear()
    assert Inbox(tmp_path).take() is None
    inbox.keep(Announced(b"to whom", b"its parts"))
    assert Inbox(tmp_path).take() == Announced(b"to whom", b"its parts")


@pytest.mark.parametrize("data", [b"", b"\x00", b"order", bytes(1 << 20)])
def test_a_damaged_order_is_left(inbox, tmp_path, data):
    (tmp_path / VOLATILE / FILE).write_bytes(data)
    assert inbox.take() is None


def test_an_order_that_cannot_be_kept_hinders_nothing(tmp_path, caplog):
    (tmp_path / VOLATILE).write_text("a file in the folder's place")
    Inbox(tmp_path).keep(ORDER)
    assert "cannot be written" in caplog.text


def test_a_signal_may_stop_the_thread_that_waits():
    """Thousands of signals, wherever the main thread is: none may find it holding a lock."""
    count = 0

    def handle(*_):
        nonlocal count
        count += 1
        stops[-1].set()

    stops = [Stop()]
    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(300):
            stop = Stop()
            stops[-1] = stop
            while not stop.is_set():
                stop.wait(0.0005)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert count >= 300


def test_a_wait_ends_when_another_thread_stops_it():
    stop = Stop()
    threading.Timer(0.05, stop.set).start()
    stop.wait(3600)
    assert stop.is_set()
    stop.wait(3600)  # at once, from now on


def test_the_state_tells_what_happened_last(tmp_path):
    file = StateFile(tmp_path, clock=lambda: 100.0)
    file.update(problem="cannot be reached", retry=12.5)
    assert read_state(tmp_path) == DaemonState(problem="cannot be reached", retry=12.5)
    file.update(now=False, contact=100.0)  # within the time of the last writing
    assert read_state(tmp_path).contact == 0.0
    file.update(connected=100.0)
    assert read_state(tmp_path).contact == 100.0
    assert StateFile(tmp_path).state == read_state(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"started": "x"}', "\xff"])
def test_a_damaged_state_is_none(tmp_path, text):
    (tmp_path / state_module.FILE).write_text(text, "latin-1")
    assert read_state(tmp_path) is None
    assert StateFile(tmp_path).state == DaemonState()


def test_only_a_session_of_this_boot_and_folder_counts_as_abandoned(tmp_path):
    original, copy = tmp_path / "north", tmp_path / "copy"
    original.mkdir()
    file = StateFile(original)
    assert file.abandoned() == 0
    with claim(original):
        file.begun(7, 0.0)
        assert StateFile(original).abandoned() == 7
        shutil.copytree(original, copy)
        with claim(copy):  # while the original serves
            assert StateFile(copy).state.node == 7
            assert StateFile(copy).abandoned() == 0
    (original / LOCK).unlink()
    assert StateFile(original).abandoned() == 0
    with claim(original):
        file.begun(7, 0.0)
    file.update(boot="another machine's")
    assert StateFile(original).abandoned() == 0


class Saving(Stop):
    """An editor goes on writing while the daemon waits."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__()
        self.path, self.text = path, text

    def wait(self, seconds: float) -> None:
        assert seconds == serve.HALF_SAVED_SECONDS
        self.path.write_text(self.text)


def test_a_policy_that_is_half_saved_is_read_once_more(tmp_path):
    create_site(tmp_path / "north", "north")
    policy = tmp_path / "north" / POLICY
    whole = policy.read_text()
    half = whole + "\n[caps"
    policy.write_text(half)
    with serve._opened(tmp_path / "north", Saving(policy, whole), again=True) as site:
        assert site.folder.name == "north"
    policy.write_text(half)
    with pytest.raises(OperatorError, match="not valid TOML"):  # never the old one
        serve._opened(tmp_path / "north", Saving(policy, half), again=True)
    with pytest.raises(OperatorError, match="not valid TOML"):  # a person waits
        serve._opened(tmp_path / "north", Stop(), again=False)


def test_what_is_saved_while_the_site_is_opened_is_an_edit(tmp_path):
    create_site(tmp_path / "north", "north")
    before = serve._editions(tmp_path / "north")
    with open_site(tmp_path / "north") as site:
        assert not serve.daemon_of(site, opened_with=before)._outdated()
        policy = tmp_path / "north" / POLICY
        policy.with_suffix(".new").write_text(policy.read_text())
        policy.with_suffix(".new").rename(policy)
        assert serve.daemon_of(site, opened_with=before)._outdated()
        assert not serve.daemon_of(site)._outdated()


def test_one_process_serves_a_folder_and_whoever_looks_can_tell(tmp_path):
    assert not is_served(tmp_path)
    with claim(tmp_path):
        assert is_served(tmp_path)
        with pytest.raises(OperatorError, match="another process serves"):
            claim(tmp_path)
    assert not is_served(tmp_path)


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path, monkeypatch, abstract):
    name = f"fedward-{tmp_path.name}"
    address = f"\0{name}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(10)
        notifier = Notifier()
        notifier.ready()
        notifier.alive()
        notifier.status("waiting:\nREADY=1")
        notifier.stopping()
        told = [manager.recv(4096) for _ in range(4)]
    assert told == [b"READY=1", b"WATCHDOG=1", b"STATUS=waiting: READY=1", b"STOPPING=1"]


def test_without_a_service_manager_nothing_happens(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notifier().ready()


@pytest.fixture
def logging_as_before():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("logging_as_before")
def test_the_journal_gets_one_line_an_event_with_its_priority(monkeypatch, capsys):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    log_to_stderr()
    logging.getLogger("fedward_client.daemon").info("two\nlines")
    logging.getLogger("httpx").info("POST https://gateway/v1/fleet/pull-messages")
    logging.getLogger("fedward_client").error("x")
    assert capsys.readouterr().err.splitlines() == [
        "<6>fedward_client.daemon: two lines",
        "<3>fedward_client: x",
    ]


@pytest.mark.usefixtures("logging_as_before")
def test_a_terminal_gets_the_time_instead(monkeypatch, capsys):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log_to_stderr()
    logging.getLogger("fedward_client.daemon").warning("late")
    assert capsys.readouterr().err.endswith(" WARNING fedward_client.daemon: late\n")


def test_the_kind_of_an_answer_is_told_without_its_content():
    assert kind_of(Standing(bytes(32), 3).encode()) == "standing"
    assert kind_of(Refusal("Closed", "outside hours").encode()) == "refusal: Closed"
    assert kind_of(StepReply(bytes(1 << 20), b"").encode()) == "step-reply"
    assert kind_of(b"\x00") == ""


def test_the_state_file_holds_no_order(tmp_path):
    file = StateFile(tmp_path)
    file.update(answer=kind_of(Refusal("PeerError", "secret").encode()))
    assert "secret" not in json.dumps((tmp_path / state_module.FILE).read_text())


def _pauses(pace: Pace, seconds: float) -> list[float]:
    """The pauses until at least ``seconds`` have passed."""
    taken: list[float] = []
    while sum(taken) < seconds:
        taken.append(pace.after_nothing())
    return taken


def test_pauses_grow_while_nothing_comes_and_end_at_the_longest():
    pauses = _pauses(Pace(), 60.0)
    assert pauses[0] == SHORTEST_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_SECONDS


@pytest.mark.parametrize("gap", [0.5, 3.0, 15.0, 30.0])
def test_however_long_rounds_are_a_site_asks_a_few_times_and_comes_little_late(gap):
    pace = Pace()
    pace.after_order(gap)
    pauses = _pauses(pace, gap)
    assert len(pauses) <= 8
    assert sum(pauses) - gap <= min(gap / 2, LONGEST_SECONDS)


def test_after_a_long_silence_the_first_pause_is_the_shortest():
    pace = Pace()
    _pauses(pace, 60.0)
    pace.after_order(3600.0)
    assert pace.after_nothing() == SHORTEST_SECONDS
