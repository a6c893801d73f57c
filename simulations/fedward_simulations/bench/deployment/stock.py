"""Stock Flower beside a deployment: SuperLink and SuperNodes over TLS with node authentication.

One exchange: the server sends an array to every node and gets one of the same size back, through
``send_and_receive``. Nothing is computed, clipped, noised or masked. SuperLink and nodes are
Flower's own programs with their defaults; the bundle is the smallest that does this.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from flwr.app.user_config import UserConfig
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient

from fedward_common import keys
from fedward_common.errors import StorageError
from fedward_common.keys import load_transport_key
from fedward_common.randomness import os_random
from fedward_server.children import Program
from fedward_server.control import Control
from fedward_server.superlink import SuperLink, prepare_superlink
from fedward_simulations.faults.deployment import free_ports
from fedward_simulations.faults.processes import Process, bound, descendants, process_of

START_SECONDS, EXCHANGE_SECONDS = 180.0, 900.0

PYPROJECT = """\
[project]
name = "stock"
version = "1.0.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "stock"
[tool.flwr.app.components]
serverapp = "stock.app:server"
clientapp = "stock.app:client"
[tool.flwr.app.config]
out = ""
values = 0
nodes = 0
exchanges = 0
"""

APP = """\
import json, pathlib, time
import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()

@client.query("trivial")
def answer(message, context):
    return Message(message.content, reply_to=message)

@server.main()
def main(grid, context):
    config = context.run_config
    while len(nodes := list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.5)
    seconds = []
    for _ in range(config["exchanges"]):
        array = np.random.default_rng().normal(size=config["values"]).astype(np.float32)
        content = RecordDict({"parameters": ArrayRecord([array])})
        messages = [Message(content, node, "query.trivial") for node in nodes]
        started = time.perf_counter()
        replies = list(grid.send_and_receive(messages, timeout=600))
        seconds.append(time.perf_counter() - started)
        assert len(replies) == len(nodes) and not any(r.has_error() for r in replies)
    pathlib.Path(config["out"]).write_text(json.dumps(seconds))
"""


@dataclass(frozen=True)
class StockCost:
    """Seconds of each exchange, and CPU seconds of all processes over all of them."""

    seconds: tuple[float, ...]
    cpu_seconds: float


def measure_stock(folder: Path, nodes: int, values: int, exchanges: int) -> StockCost:
    """Start SuperLink and ``nodes`` SuperNodes, exchange arrays of ``values`` float32, stop them.

    Raises:
        StorageError: Flower's programs did not come up, or the run did not end.
    """
    link = prepare_superlink(folder / "superlink", datetime.now(UTC), os_random)
    transports = [keys.new_transport_key(os_random) for _ in range(nodes)]
    with ExitStack() as stack:
        roots = [_started(stack, program) for program in (link.superlink(), link.superexec())]
        control = Control(link)
        stack.callback(control.close)
        _await(control.healthy, START_SECONDS, roots)
        privates = [load_transport_key(transport) for transport in transports]
        control.sync_nodes(
            {
                key.public_key().public_bytes(
                    Encoding.DER, PublicFormat.SubjectPublicKeyInfo
                ): f"node-{number}"
                for number, key in enumerate(privates)
            }
        )
        for number, key in enumerate(privates):
            pem = folder / f"node-{number}.pem"
            pem.touch(mode=0o600)
            pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
            roots.append(_started(stack, _supernode(link, pem)))
        out = folder / "seconds.json"
        before = _cpu(roots)
        _start_run(link, out, nodes, values, exchanges)
        _await(out.exists, EXCHANGE_SECONDS, roots)
        used = _cpu(roots) - before
        return StockCost(tuple(json.loads(out.read_text())), used)


def _supernode(link: SuperLink, key: Path) -> Program:
    base = link.superexec()
    command = (
        str(Path(sys.executable).parent / "flower-supernode"),
        *("--superlink", f"127.0.0.1:{link.port}"),
        *("--root-certificates", str(link.certificate)),
        *("--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(free_ports().published)),
        *("--ssl-certfile", str(link.folder / "tls.crt")),
        *("--ssl-keyfile", str(link.folder / "tls.key")),
        *("--ssl-ca-certfile", str(link.certificate)),
    )
    home = key.with_suffix(".home")
    home.mkdir()
    return Program(key.stem, command, {**base.environment, "FLWR_HOME": str(home)}, link.folder)


def _start_run(link: SuperLink, out: Path, nodes: int, values: int, exchanges: int) -> None:
    content, _ = build_fab_from_files(
        {
            "pyproject.toml": PYPROJECT.encode(),
            "stock/__init__.py": b"",
            "stock/app.py": APP.encode(),
        }
    )
    fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
    config: UserConfig = {
        "out": str(out),
        "values": values,
        "nodes": nodes,
        "exchanges": exchanges,
    }
    client = ControlHttpClient(link.url, verify=link.trust(), timeout=30.0)
    try:
        request = StartRunRequest(fab=fab, override_config=user_config_to_proto(config))
        client.StartRun(request)
    finally:
        client.close()


def _started(stack: ExitStack, program: Program) -> Process:
    """Start it in a session of its own, which ends with the measurement."""
    with (program.folder / f"{program.name}.log").open("ab") as log:
        running = subprocess.Popen(  # noqa: S603
            bound(program.command),
            env={**program.environment, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            cwd=program.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process = process_of(running.pid)

    def end() -> None:
        below = descendants(process)
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        for left in below:
            left.kill()

    stack.callback(end)
    return process


def _cpu(roots: Sequence[Process]) -> float:
    """CPU seconds of these and of all that they have started and waited for, or run now."""
    return sum(p.cpu_seconds(children=True) for root in roots for p in (root, *descendants(root)))


def _await(condition: Callable[[], bool], seconds: float, roots: Sequence[Process]) -> None:
    """Wait for it while all programs live."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or not all(root.alive for root in roots):
            raise StorageError("stock Flower did not do its part; its logs say why")
        time.sleep(0.2)
