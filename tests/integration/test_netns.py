"""Separate hosts: a network namespace each for the coordinator, every hospital and the network.

A hospital's host has one wire, to the network's host, and no route to anybody else; the relay there
is the only way to the gateway. Wires are pulled out and put back while a study runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.conftest import missing

from fedward_simulations.faults.deployment import Deployment, Network
from fedward_simulations.faults.verdict import examine
from fedward_simulations.faults.world import Ports, TrialPlan, begin, found

pytestmark = pytest.mark.slow

ROUNDS, SECONDS = 8, 900.0
LATENCY_SECONDS = 0.05
WIRE_OUT_SECONDS = 6.0
PORTS = Ports(8443, 8444, 8445, outside="10.77.0.1", inside="10.77.1.2")
SITES = ("site-01", "site-02", "site-03")


def ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    command = ["ip", *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True)


class Hosts:
    """``PREFIX-net`` in the middle; ``PREFIX-0`` the coordinator, 1 to 3 the hospitals."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.names = [f"{prefix}-{tail}" for tail in ("net", 0, 1, 2, 3)]

    def make(self) -> None:
        net = self.names[0]
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", net, "addr", "add", f"{PORTS.outside}/32", "dev", "lo")
        for number, name in enumerate(self.names[1:], 1):
            ours, theirs = f"{self.prefix}h{number}", f"{self.prefix}n{number}"
            ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
            ip("link", "set", ours, "netns", name)
            ip("link", "set", theirs, "netns", net)
            ip("-n", name, "addr", "add", f"10.77.{number}.2/24", "dev", ours)
            ip("-n", net, "addr", "add", f"10.77.{number}.1/24", "dev", theirs)
            ip("-n", name, "link", "set", ours, "up")
            ip("-n", net, "link", "set", theirs, "up")
            ip("-n", name, "route", "add", f"{PORTS.outside}/32", "via", f"10.77.{number}.1")

    def remove(self) -> None:
        for name in self.names:
            ip("netns", "del", name, check=False)

    def on(self, number: int) -> tuple[str, ...]:
        """What runs a command on a host; -1 is the network's."""
        return ("ip", "netns", "exec", self.names[number + 1])

    def pull_out(self, number: int) -> None:
        ip("-n", self.names[0], "link", "set", f"{self.prefix}n{number + 1}", "down")

    def put_back(self, number: int) -> None:
        ip("-n", self.names[0], "link", "set", f"{self.prefix}n{number + 1}", "up")

    def reaches(self, number: int, address: str, port: int) -> bool:
        """Whether a TCP connection opens."""
        code = f"import socket; socket.create_connection(('{address}', {port}), 3)"
        command = (*self.on(number), "python3", "-c", code)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def separate_hosts() -> Iterator[Hosts]:
    hosts = Hosts(f"fw{os.getpid() % 10_000}")
    try:
        hosts.make()
        yield hosts
    finally:
        hosts.remove()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if shutil.which("ip") is None:
        missing("ip (iproute2) is not installed")
    probe = f"fwprobe{os.getpid()}"
    made = ip("netns", "add", probe, check=False)
    ip("netns", "del", probe, check=False)
    if made.returncode:  # also in CI: what a kernel allows is no part of this repository
        pytest.skip(f"this kernel or user makes no network namespace: {made.stderr.strip()}")
    with separate_hosts() as found_hosts:
        yield found_hosts


def test_a_study_over_separate_hosts_survives_pulled_wires(hosts, tmp_path):
    made = found(tmp_path / "made", len(SITES), PORTS)
    begin(made, TrialPlan(ROUNDS, 3, ROUNDS + 20, 20.0, 2.0).toml())
    places = {"supervisor": hosts.on(0)} | {n: hosts.on(i) for i, n in enumerate(SITES, 1)}
    network = Network(made, host=hosts.on(-1))
    try:
        for name in SITES:
            network.change(name, delay=LATENCY_SECONDS)
        with Deployment(made, places) as deployment:
            _until(deployment, 1)
            assert hosts.reaches(1, PORTS.outside, PORTS.published)
            assert not hosts.reaches(1, PORTS.inside, PORTS.listening)
            assert not hosts.reaches(1, "10.77.2.2", 22)
            for number in (1, 0, 2):  # a hospital, the coordinator, a hospital
                hosts.pull_out(number)
                _wait(deployment, WIRE_OUT_SECONDS)
                hosts.put_back(number)
                _until(deployment, len(deployment.history) + 1)
            network.change(SITES[2], cut="hang")
            _wait(deployment, WIRE_OUT_SECONDS)
            network.change(SITES[2], cut="")
            _until(deployment, ROUNDS)
            end = time.monotonic() + SECONDS
            while not deployment.finished and time.monotonic() < end:
                deployment.tick()
            attempts = deployment.attempts
        checks, _ = examine(made, network.addends(), attempts)
    finally:
        network.close()
    assert [check for check in checks if not check.passed] == []


def _until(deployment: Deployment, sums: int) -> None:
    end = time.monotonic() + SECONDS
    while len(deployment.history) < min(sums, ROUNDS):
        deployment.tick()
        assert time.monotonic() < end, deployment.log("supervisor")[-3000:]


def _wait(deployment: Deployment, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        deployment.tick()
