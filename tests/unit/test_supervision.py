"""The parts of the supervisor: children, the agenda of studies, the relay of log lines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedward_common.randomness import os_random
from fedward_server import agenda, children
from fedward_server.agenda import Agenda
from fedward_server.children import Child, Program
from fedward_server.control import SuperLinkAwayError
from fedward_server.relay import Relay
from fedward_server.study_files import exclusive, note_failed, note_finished
from fedward_server.superlink import is_free, prepare_superlink

PATIENCE = 60.0


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def program(folder: Path, code: str) -> Program:
    command = (sys.executable, "-c", textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return Program("child", command, environment, folder)


PARENT = """
    import os, subprocess, sys, time
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open("pids", "w").write(f"{os.getpid()} {grandchild.pid} ")
    time.sleep(600)
"""


def pids(folder: Path) -> list[int]:
    wait_until(lambda: (folder / "pids").exists() and (folder / "pids").read_text().endswith(" "))
    return [int(word) for word in (folder / "pids").read_text().split()]


def test_a_child_is_stopped_with_everything_it_started(tmp_path):
    child = Child(program(tmp_path, PARENT))
    child.tick()
    found = pids(tmp_path)
    assert child.pid == found[0]
    child.stop()
    assert child.pid is None
    wait_until(lambda: not any(map(alive, found)))


def test_a_child_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "STOP_SECONDS", 0.2)
    stubborn = PARENT.replace(
        "import os,", "import signal; signal.signal(15, signal.SIG_IGN)\n    import os,"
    )
    child = Child(program(tmp_path, stubborn))
    child.tick()
    found = pids(tmp_path)
    child.stop()
    wait_until(lambda: not any(map(alive, found)))


def test_a_child_that_dies_is_started_again_after_growing_pauses(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "FIRST_PAUSE_SECONDS", 0.05)
    child = Child(program(tmp_path, "open('starts', 'a').write('x')"))
    pauses = []
    for number in range(3):
        wait_until(lambda n=number: _ticked(child, tmp_path / "starts", n + 1))
        wait_until(lambda: child.pid is None)
        child.tick()
        pauses.append(child._pause)
    assert pauses == sorted(set(pauses))
    assert child.restarts == 3
    child.stop()


def _ticked(child: Child, path: Path, count: int) -> bool:
    child.tick()
    return path.exists() and len(path.read_text()) >= count


def test_a_child_may_be_replaced_by_another_program(tmp_path):
    child = Child(program(tmp_path, PARENT))
    child.tick()
    found = pids(tmp_path)
    child.restart(program(tmp_path, "open('other', 'w').write('x')"))
    wait_until(lambda: not any(map(alive, found)))
    child.tick()
    wait_until((tmp_path / "other").exists)
    child.stop()


def test_the_superlinks_port_is_no_ephemeral_one_and_is_seen_to_be_taken(tmp_path):
    link = prepare_superlink(tmp_path / "superlink", datetime.now(UTC), os_random)
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert link.port < low
    assert is_free(link.port)
    with socket.create_server(("127.0.0.1", link.port)):
        assert not is_free(link.port)
    again = prepare_superlink(tmp_path / "superlink", datetime.now(UTC), os_random, port=9400)
    assert again.port == 9400
    assert again.certificate.read_bytes() == link.certificate.read_bytes()


def test_what_a_dead_child_left_behind_is_ended(tmp_path):
    child = Child(program(tmp_path, PARENT))
    child.tick()
    first, grandchild = pids(tmp_path)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: child.pid is None)
    child.tick()
    wait_until(lambda: not alive(grandchild))
    child.stop()


def test_a_child_dies_with_a_supervisor_that_is_killed(tmp_path):
    """The kernel sees to it: nothing of ours runs any more."""
    supervisor = f"""
        import sys, time
        from pathlib import Path
        from fedward_server.children import Child, Program
        import os
        child = Child(Program("child", (sys.executable, "-c", {textwrap.dedent(PARENT)!r}),
                      dict(os.environ), Path({str(tmp_path)!r})))
        child.tick()
        time.sleep(600)
    """
    made = program(tmp_path, supervisor)
    process = subprocess.Popen(made.command, env=dict(made.environment))
    first = pids(tmp_path)[0]
    process.kill()
    process.wait()
    wait_until(lambda: not alive(first))
    os.kill(pids(tmp_path)[1], signal.SIGKILL)  # a child of a child is the child's business


class FakeSuperLink:
    """What the agenda asks of a SuperLink, scripted; it notes what it was asked."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.over: set[int] = set()
        self.away = False
        self.stopped = 0

    def start(self, server_folder: str, study: str) -> int:
        if self.away:
            raise SuperLinkAwayError("away")
        self.started.append(study)
        return len(self.started)

    def outcome(self, run: int) -> str | None:
        return "failed" if run in self.over else None

    def stop_all(self) -> None:
        self.stopped += 1


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name in ("FIRST_PAUSE_SECONDS", "GONE_SECONDS"):
        monkeypatch.setattr(agenda, name, 0.0)
    for number, name in enumerate(("one", "two")):
        folder = tmp_path / "studies" / name
        folder.mkdir(parents=True)
        (folder / "plan.signed").write_text("")
        os.utime(folder / "plan.signed", ns=(number, number))
    return tmp_path


def test_studies_run_one_after_another_in_the_order_they_were_signed(server):
    link = FakeSuperLink()
    planned = Agenda(server, (), link)
    planned.tick()
    planned.tick()
    assert link.started == ["one"]
    note_finished(server / "studies" / "one")
    planned.tick()
    planned.tick()
    assert link.started == ["one", "two"]
    note_failed(server / "studies" / "two", "attempts are used up")
    planned.tick()
    planned.tick()
    assert link.started == ["one", "two"]
    assert not planned.done()  # a study that is signed later is taken up
    later = server / "studies" / "three"
    later.mkdir()
    (later / "plan.signed").write_text("")
    planned.tick()
    assert link.started == ["one", "two", "three"]


def test_a_run_that_ends_early_is_begun_anew(server):
    link = FakeSuperLink()
    planned = Agenda(server, (), link)
    planned.tick()
    link.over.add(1)
    planned.tick()
    planned.tick()
    assert link.started == ["one", "one"]
    assert link.stopped == 1


def test_a_server_app_that_vanishes_is_not_waited_for(server):
    """Flower notices only after its heartbeats: the study's lock tells at once."""
    link = FakeSuperLink()
    planned = Agenda(server, (), link)
    planned.tick()
    with exclusive(server / "studies" / "one"):
        planned.tick()
        assert planned.busy
    assert not planned.busy
    for _ in range(4):
        planned.tick()
    assert link.started == ["one", "one"]


def test_pauses_grow_while_a_study_keeps_failing(server, monkeypatch):
    monkeypatch.setattr(agenda, "FIRST_PAUSE_SECONDS", 30.0)
    link = FakeSuperLink()
    planned = Agenda(server, (), link)
    planned.tick()
    link.over.add(1)
    planned.tick()
    planned.tick()
    assert link.started == ["one"]


def test_an_absent_superlink_changes_nothing(server):
    link = FakeSuperLink()
    link.away = True
    planned = Agenda(server, (), link)
    with pytest.raises(SuperLinkAwayError):
        planned.tick()
    link.away = False
    planned.tick()
    assert link.started == ["one"]


def test_lines_are_passed_on_whole_and_once(tmp_path, capsys):
    path, relay = tmp_path / "server.log", Relay()
    relay.tick(None)
    relay.tick(path)
    path.write_text("first\nsec")
    relay.tick(path)
    relay.tick(path)
    assert capsys.readouterr().err == "first\n"
    with path.open("a") as stream:
        stream.write("ond\x1b[31m\n")
    relay.tick(path)
    assert capsys.readouterr().err == "second [31m\n"
    path.write_text("new\n")  # begun anew by the next run
    relay.tick(path)
    assert capsys.readouterr().err == "new\n"
