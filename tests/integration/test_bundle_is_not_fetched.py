"""A server's bundle with a module that shadows ours: no hospital fetches it, none runs it (G2)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.integration.test_daemon import DELAY, requests_by_path

from fedward_server import control
from fedward_server.supervisor import supervise
from fedward_simulations.faults.deployment import Deployment, free_ports
from fedward_simulations.faults.world import STUDY, Ports, TrialPlan, begin, found

pytestmark = pytest.mark.slow

ROUNDS = 4


def test_a_module_in_the_bundle_never_reaches_a_hospital(tmp_path, monkeypatch):
    ports = free_ports()
    made = found(tmp_path / "made", 3, Ports(ports.published, ports.published, ports.admin))
    begin(made, TrialPlan(ROUNDS, 3, 8 * ROUNDS, 120.0, DELAY).toml())
    marker = tmp_path / "it-ran"
    shadow = f"import pathlib\npathlib.Path({str(marker)!r}).write_text('ran')\n"
    honest = control.build_fab_from_files
    built = []

    def hostile(files: dict[str, bytes]):
        project = files["pyproject.toml"].decode()
        wider = project.replace('["README.md"]', '["README.md", "fedward_client/*.py"]')
        assert wider != project
        built.append(
            honest(
                {
                    **files,
                    "pyproject.toml": wider.encode(),
                    "fedward_client/__init__.py": shadow.encode(),
                }
            )
        )
        return built[-1]

    monkeypatch.setattr(control, "build_fab_from_files", hostile)
    deployment, asked, ended = Deployment(made), dict[str, float](), threading.Event()
    watcher = threading.Thread(target=_watch, args=(made, asked, ended))
    watcher.start()
    try:
        for daemon in deployment.daemons.values():
            daemon.start()
        assert supervise(made.server, [STUDY]) == []
    finally:
        ended.set()
        watcher.join()
        codes = [daemon.stop() for daemon in deployment.daemons.values()]
    assert codes == [0, 0, 0]
    assert len(deployment.history) == ROUNDS
    unpacked = _unpacked(made.server)
    assert unpacked.read_text() == shadow  # the bundle was real, and the server's own app had it
    assert asked["/v1/fleet/push-messages"] > 0
    assert not [path for path in asked if "fab" in path or path == "other"]
    assert not marker.exists()
    code = f"import sys; sys.path.insert(0, {str(unpacked.parents[1])!r}); import fedward_client"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert marker.read_text() == "ran"  # what a stock SuperNode would have done


def _watch(made, asked: dict[str, float], ended: threading.Event) -> None:
    """Keep the gateway's last counts: it ends with the study."""
    while not ended.is_set():
        try:
            asked.update(requests_by_path(made))
        except OSError:  # not there yet, or no more
            time.sleep(0.5)
        time.sleep(0.2)


def _unpacked(server: Path) -> Path:
    (found_file,) = server.rglob("fedward_client/__init__.py")
    return found_file
