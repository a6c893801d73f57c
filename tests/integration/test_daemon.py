"""Hospitals' daemons as processes, against the real coordinator and the real SuperLink."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sqlite3
import time
import urllib.request
from pathlib import Path

import pytest
from tests.cli_world import client

from fedward_client.database import open_database
from fedward_client.ledger import Ledger
from fedward_client.studies import Studies, StudyState
from fedward_simulations.faults.deployment import Deployment, free_ports
from fedward_simulations.faults.world import Consortium, Ports, TrialPlan, begin, found

PATIENCE = 900.0
ROUNDS = 6
DELAY = 3.0
"""Seconds; a site that needs longer for its addend sits the attempt out."""


def consortium(root: Path, sites: int = 3, rounds: int = ROUNDS) -> Consortium:
    ports = free_ports()
    made = found(root, sites, Ports(ports.published, ports.published, ports.admin))
    begin(made, TrialPlan(rounds, 3, 8 * rounds, 60.0, DELAY).toml())
    return made


def wait_until(deployment: Deployment, condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        deployment.tick()
        assert time.monotonic() < end, "\n".join(
            f"--- {unit.name}\n{deployment.log(unit.name)[-3000:]}" for unit in deployment.units
        )


def daemon_of(made: Consortium, name: str) -> dict:
    return client("status", "--site", made.site(name), "--json").json["daemon"]


def debits(made: Consortium, name: str) -> list[int]:
    database = open_database(made.site(name) / "site.db")
    try:
        return [entry.e for entry in Ledger(database).entries()]
    finally:
        database.close()


def finished(made: Consortium, name: str) -> bool:
    database = open_database(made.site(name) / "site.db")
    try:
        return Studies(database).all()[0].state is StudyState.FINISHED
    finally:
        database.close()


def requests_by_path(made: Consortium) -> dict[str, float]:
    """What the gateway's metrics say was asked for, whatever came of it."""
    url = f"http://127.0.0.1:{made.ports.admin}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    counts: dict[str, float] = {}
    for line in lines:
        if line.startswith("fedward_gateway_requests_total{"):
            path = line.split('path="')[1].split('"')[0]
            counts[path] = counts.get(path, 0.0) + float(line.rpartition(" ")[2])
    return counts


@pytest.mark.slow
def test_a_study_is_finished_through_kills_drains_and_a_server_that_goes_away(tmp_path):
    made = consortium(tmp_path)
    first, second, third = made.names
    chance = random.Random(5)
    with Deployment(made) as deployment:
        wait_until(deployment, lambda: len(deployment.history) >= 1)
        for _ in range(3):  # SIGKILL at any moment of a round
            seen = deployment.attempts
            wait_until(deployment, lambda before=seen: deployment.attempts > before)
            time.sleep(chance.uniform(0.0, 1.0))
            process = deployment.daemons[first].process
            assert process is not None
            process.kill()
            deployment.tick()
        assert deployment.daemons[second].stop() == 0  # SIGTERM: the order in hand is answered
        told = daemon_of(made, second)
        assert not told["serving"]
        assert told["problem"] == "stopped by its operator"
        assert not (made.site(second) / "volatile" / "order").exists()
        deployment.daemons[second].start()
        assert deployment.server.stop() == 0
        wait_until(deployment, lambda: daemon_of(made, third)["problem"] != "")
        told = client("status", "--site", made.site(third)).out
        assert "daemon: waiting: " in told
        assert "next try in " in told
        deployment.server.start()
        wait_until(deployment, lambda: all(finished(made, name) for name in made.names))
        asked = requests_by_path(made)
        logs = {name: deployment.log(name) for name in made.names}
        history = deployment.history
    assert len(history) == ROUNDS
    attempts = [entry["e"] for entry in history]
    for name in made.names:
        spent = debits(made, name)
        assert len(spent) == len(set(spent))  # each once, however often its process died
        assert set(attempts) <= set(spent)
        assert client("audit", "verify", "--site", made.site(name), "--json").json
        assert daemon_of(made, name)["answer"]
    assert asked["/v1/fleet/pull-messages"] > ROUNDS
    assert not [path for path in asked if "fab" in path or path == "other"]  # G2
    hidden = _secrets(made)
    for name, log in logs.items():
        assert "connected to the coordinator" in log
        assert not [secret for secret in hidden if secret in log], name
        assert "Traceback" not in log


def _secrets(made: Consortium) -> set[str]:
    """What no log may hold: keys, and what the tables say of patients."""
    found = set()
    for name in made.names:
        for key in (made.site(name) / "identity").glob("*.key"):
            found.add(key.read_text().strip()[:64])
        rows = made.site(name).with_suffix(".csv").read_text().splitlines()[1:]
        found |= {row.split(",")[0] + "," for row in rows} | {row.split(",")[2] for row in rows}
    assert len(found) > 50
    return found


def test_a_daemon_waits_for_a_server_that_is_not_there_and_ends_when_told(tmp_path):
    ports = free_ports()
    made = found(tmp_path, 1, Ports(ports.published, ports.published, ports.admin))
    (name,) = made.names
    deployment = Deployment(made)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(0)
    deployment.daemons[name].environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    deployment.daemons[name].start()
    try:
        wait_until(deployment, lambda: "cannot be reached" in _problem(made, name))
        policy = made.site(name) / "policy.toml"
        policy.write_text(policy.read_text() + "\n")
        wait_until(deployment, lambda: "opened anew" in deployment.log(name))
        told = json.loads((made.site(name) / "daemon.json").read_text())
        assert told["node"] == 0
        assert daemon_of(made, name)["serving"]
        client("run", "--site", made.site(name)).refused(2, "another process serves")
    finally:
        status = deployment.daemons[name].stop()
    assert status == 0
    assert not daemon_of(made, name)["serving"]
    line = "it is tried again for as long as it takes"
    assert deployment.log(name).count(line) == 2  # one for one problem, however long it lasts
    told = _datagrams(manager)
    assert told[0] == "READY=1"
    assert any(line.startswith("STATUS=waiting: ") for line in told)
    assert "WATCHDOG=1" in told
    assert told[-1] == "STOPPING=1"


def test_a_policy_that_is_edited_into_nonsense_ends_the_daemon(tmp_path):
    ports = free_ports()
    made = found(tmp_path, 1, Ports(ports.published, ports.published, ports.admin))
    (name,) = made.names
    deployment = Deployment(made)
    deployment.daemons[name].start()
    try:
        wait_until(deployment, lambda: _problem(made, name))
        (made.site(name) / "policy.toml").write_text("[caps.train]\nepsilon = []\n")
        wait_until(deployment, lambda: deployment.daemons[name].status is not None)
        status = deployment.daemons[name].status
    finally:
        deployment.daemons[name].stop()
    assert status == 2  # not restarted: its operator must mend it
    assert "error: " in deployment.log(name)
    assert "policy.toml" in deployment.log(name)


def _datagrams(manager: socket.socket) -> list[str]:
    told = []
    with manager, contextlib.suppress(BlockingIOError):
        while True:
            told.append(manager.recv(4096).decode())
    return told


def _problem(made: Consortium, name: str) -> str:
    try:
        return daemon_of(made, name)["problem"]
    except (TypeError, sqlite3.Error):
        return ""
