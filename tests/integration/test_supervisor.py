"""`fedward-server run` with the real SuperLink: whatever dies, the study goes on and nothing stays.

Sites are real daemons. The faults campaign is longer; here each process dies once, in turn.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request

import pytest
from tests.cli_world import run, server

from fedward_server.study_files import is_held, read_receipts
from fedward_simulations.faults.deployment import Deployment, free_ports
from fedward_simulations.faults.processes import marked
from fedward_simulations.faults.world import STUDY, Ports, TrialPlan, begin, found

pytestmark = pytest.mark.slow

PATIENCE = 900.0
ROUNDS = 10
WITHDRAWN = "withdrawn by the coordinator's operator"
ROLES = ("SuperLink", "SuperExec", "gateway", "ServerApp")


def wait_until(deployment, condition, *, tick: bool = True) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if tick:
            deployment.tick()
        else:
            time.sleep(0.1)
        assert time.monotonic() < end, deployment.log("supervisor")[-4000:]


def server_processes(deployment) -> set[int]:
    ours = {unit.process.pid for unit in deployment.daemons.values() if unit.process}
    return {process.pid for process in marked(deployment.mark)} - ours


def status(made) -> dict:
    return server("status", "--server", made.server, "--json").json


def test_every_process_may_die_and_the_supervisor_leaves_nothing_behind(tmp_path):
    ports = free_ports()
    made = found(tmp_path, 3, Ports(ports.published, ports.published, ports.admin))
    begin(made, TrialPlan(ROUNDS, 3, 4 * ROUNDS, 120.0, 3.0).toml())
    with Deployment(made) as deployment:
        for role in ROLES:
            seen = len(deployment.history)
            wait_until(deployment, lambda n=seen: len(deployment.history) > n)
            found_role = deployment.processes().get(role)
            if found_role is not None:  # the ServerApp may just be between two runs
                os.kill(found_role.pid, signal.SIGKILL)
        seen = len(deployment.history)
        wait_until(deployment, lambda n=seen: len(deployment.history) > n)
        told = status(made)
        assert told["running"]
        assert sum(process["restarts"] for process in told["processes"].values()) >= 3
        assert {site["name"] for site in told["sites"] if site["last_seen"] > 0} == set(made.names)
        health = urllib.request.urlopen(f"http://127.0.0.1:{ports.admin}/health", timeout=30)
        assert health.read() == b"ok\n"

        supervisor = deployment.server.process
        assert supervisor is not None
        server("run", "--server", made.server).refused(2, "runs here already")
        supervisor.kill()  # SIGKILL: the kernel ends its children
        wait_until(deployment, lambda: not server_processes(deployment), tick=False)
        assert not is_held(made.server)
        assert not status(made)["running"]

        deployment.server.start()
        seen = len(deployment.history)
        wait_until(deployment, lambda n=seen: len(deployment.history) > n)

        assert run("fedward-server", "plan", "withdraw", STUDY, "--server", made.server).status == 0
        wait_until(deployment, lambda: not is_held(made.study))
        at_rest = len(deployment.history)
        told = status(made)["studies"][0]
        assert (told["state"], told["reason"]) == ("failed", WITHDRAWN)
        assert run("fedward-server", "plan", "resume", STUDY, "--server", made.server).status == 0
        wait_until(deployment, lambda: len(deployment.history) > at_rest)

        stopped = run("fedward-server", "stop", "--server", made.server)
        assert stopped.status == 0, stopped.err
        wait_until(deployment, lambda: not server_processes(deployment), tick=False)
        at_rest = len(deployment.history)
        time.sleep(2.0)
        assert len(deployment.history) == at_rest

        finished = run("fedward-server", "run", STUDY, "--server", made.server)
        assert finished.status == 0, finished.err
        log = deployment.log("supervisor")
    assert "Traceback" not in log
    told = status(made)["studies"][0]
    assert (told["state"], told["position"], told["late"]) == ("finished", ROUNDS, {})
    receipts = [entry for entry in read_receipts(made.study) if "round" in entry]
    assert sorted({entry["round"] for entry in receipts}) == list(range(1, ROUNDS + 1))
    for entry in receipts:
        assert set(entry["contributed"]) | set(entry["absent"]) == set(made.names)
    report = json.loads((made.study / "summary.json").read_text())
    assert report["rounds"]
    server("stop", "--server", made.server).refused(2, "no server runs here")
