"""The supervisor goes on: through a full disk, a stray file, a folder that is away for a moment."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from flwr.proto.control_pb2 import ListNodesResponse, RegisterNodeResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.error import ApiErrorCode
from tests.gateway_world import make_world

from fedward_common.errors import StorageError
from fedward_common.randomness import os_random
from fedward_server import supervisor as module
from fedward_server.consortium import revoke_site
from fedward_server.control import Control, Node, SuperLinkAwayError, _pem
from fedward_server.study_files import NODES, PROCESSES, is_held, read_nodes
from fedward_server.superlink import make_tls


class Link:
    """A SuperLink that answers; it notes what it was asked."""

    def __init__(self) -> None:
        self.synced: list[tuple[set[str], set[bytes]]] = []
        self.online: set[str] = set()
        self.begun = 0

    def healthy(self) -> bool:
        return True

    def stop_all(self) -> None:
        pass

    def sync_nodes(self, names, refused):
        self.synced.append((set(names.values()), set(refused)))
        return {
            key: Node(number, name in self.online)
            for number, (key, name) in enumerate(sorted(names.items(), key=lambda i: i[1]), 7)
        }

    def tick(self) -> None:
        self.begun += 1

    def move(self, link) -> None:
        self.moved = link

    log_file, busy = None, False


class Idle:
    """A child that needs nothing."""

    due, pid, restarts = False, 1, 0

    class program:  # noqa: N801  (stands for an attribute)
        name = "idle"

    def tick(self) -> None:
        pass

    def restart(self, program=None) -> None:
        self.restarts += 1


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path, ("north", "south"))


@pytest.fixture
def made(world, monkeypatch):
    """A supervisor whose processes and whose SuperLink are not there; all else is real."""
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.0)
    supervisor = module._Supervisor(world.server, (), None, lambda: False)
    supervisor._control.close()
    supervisor._superlink = supervisor._superexec = Idle()
    supervisor._gateways = ()
    supervisor._children = (Idle(),)
    supervisor._control = supervisor._agenda = Link()
    return supervisor


def ticks(supervisor, caplog, count: int = 3) -> list[str]:
    """What it warns of in so many ticks."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "fedward_server"):
        for _ in range(count):
            supervisor._tick()
    return [record.getMessage() for record in caplog.records]


def test_all_is_well(world, made, caplog):
    assert ticks(made, caplog) == []
    assert made._agenda.begun == 3
    assert read_nodes(world.server) == {7: "north", 8: "south"}
    assert (world.server / PROCESSES).exists()


def test_a_stray_file_among_the_sites_is_said_once_and_studies_go_on(world, made, caplog):
    assert ticks(made, caplog) == []
    stray = world.server / "sites" / "copy of north.pub"
    stray.write_text("hello\n")
    (told,) = ticks(made, caplog)
    assert str(stray) in told
    assert told.endswith("it is tried again")
    assert ticks(made, caplog) == []
    assert made._agenda.begun == 9
    stray.unlink()
    assert ticks(made, caplog) == []
    assert made._control.synced[-1][0] == {"north", "south"}
    stray.write_text("hello\n")
    assert len(ticks(made, caplog)) == 1  # it is another trouble now


def test_sites_that_are_away_at_the_start_let_no_study_begin(world, made, caplog):
    (world.server / "sites").rename(world.server / "moved")
    assert len(ticks(made, caplog)) == 1
    assert made._agenda.begun == 0
    assert not (world.server / NODES).exists()
    (world.server / "moved").rename(world.server / "sites")
    assert ticks(made, caplog) == []
    assert made._agenda.begun == 3


def test_a_full_disk_ends_nothing(world, made, caplog, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise StorageError("disk: cannot be written (No space left on device); free disk space")

    with monkeypatch.context() as patch:
        for name in ("write_atomic", "write_nodes", "gateway_certificate", "ask_to_stop"):
            patch.setattr(module, name, full)
        assert len(ticks(made, caplog, 5)) == 3  # certificate, processes, nodes: once each
        assert made._agenda.begun == 0
        made._drain()
    assert ticks(made, caplog) == []
    assert made._agenda.begun == 3


def test_a_disk_that_is_full_when_a_grace_ends(world, made, caplog, monkeypatch):
    old = world.members["north"].identity
    new = type(old)("north", old.identity, type(old).generate("x", module.os_random).transport)
    world.enrol("north", replace=True, identity=new)
    made._control.online = {"north"}

    def full(*_: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(module, "retire", full)
        assert ticks(made, caplog) == ["disk full; it is tried again"]
        assert made._agenda.begun == 3
    assert ticks(made, caplog) == []
    assert module.retiring(world.server, datetime.now(UTC)) == {}
    assert made._control.synced[-1][1] == {old.public().transport}  # refused from now on


def test_only_a_key_that_was_revoked_is_unregistered(world, made, caplog):
    north = world.members["north"].identity.public()
    ticks(made, caplog)
    (world.server / "sites" / "north.pub").unlink()  # by mistake
    ticks(made, caplog)
    assert made._control.synced[-1] == ({"south"}, set())
    assert read_nodes(world.server) == {7: "south"}
    (world.server / "sites" / "north.pub").write_text(north.to_text())
    revoke_site(world.server, "north", datetime.now(UTC))
    ticks(made, caplog)
    assert made._control.synced[-1] == ({"south"}, {north.transport})


class Register:
    """Flower's register of nodes: as the Control API answers."""

    def __init__(self) -> None:
        self.keys: dict[bytes, int] = {}

    def ListNodes(self, _):  # noqa: N802
        nodes = [
            NodeInfo(node_id=number, public_key=key, status="online")
            for key, number in self.keys.items()
        ]
        return ListNodesResponse(nodes_info=nodes)

    def RegisterNode(self, request):  # noqa: N802
        self.keys[request.public_key] = 100 + len(self.keys)
        return RegisterNodeResponse(node_id=self.keys[request.public_key])

    def UnregisterNode(self, request):  # noqa: N802
        self.keys = {k: n for k, n in self.keys.items() if n != request.node_id}


def test_a_list_that_is_short_for_a_moment_unregisters_nobody(world):
    control = Control.__new__(Control)
    control._client = Register()
    names = {member.identity.public().transport: name for name, member in world.members.items()}
    first = control.sync_nodes(names)
    assert {names[key]: node.online for key, node in first.items()} == {
        "north": False, "south": False,
    }  # fmt: skip
    assert control.sync_nodes({}) == {}
    again = control.sync_nodes(names)
    assert {k: n.number for k, n in again.items()} == {k: n.number for k, n in first.items()}
    assert all(node.online for node in again.values())
    north, south = sorted(names, key=names.__getitem__)
    assert control.sync_nodes({south: "south"}, {north}).keys() == {south}
    assert control._client.keys.keys() == {_pem(south)}


@pytest.mark.parametrize(
    ("code", "status"), [(ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE, 409), (0, 500)]
)
def test_a_key_that_flower_has_had_keeps_nobody_out_and_is_told_once(world, caplog, code, status):
    """Any other refusal passes: nobody is to rotate a sound key for it."""

    class Refusing(Register):
        def RegisterNode(self, request):  # noqa: N802
            if request.public_key == lost:
                request = httpx.Request("POST", "https://127.0.0.1/")
                body = {"code": int(code), "detail": "no"}
                httpx.Response(status, json=body, request=request).raise_for_status()
            return super().RegisterNode(request)

    names = {member.identity.public().transport: name for name, member in world.members.items()}
    north, south = sorted(names, key=names.__getitem__)
    lost = _pem(north)
    control = Control.__new__(Control)
    control._client, control._lost = Refusing(), set()
    for _ in range(3):
        if status == 409:
            assert control.sync_nodes(names).keys() == {south}
        else:
            with pytest.raises(SuperLinkAwayError):
                control.sync_nodes(names)
    told = [record.message for record in caplog.records if "rotate the key" in record.message]
    assert told == ["north: Flower has unregistered its key for good; rotate the key"] * (
        status == 409
    )


def test_an_old_list_of_processes_is_nobodys(world, monkeypatch):
    """Its numbers may be other programs' by now: `stop` must not end those."""
    path = world.server / PROCESSES
    path.write_text('{"pid": 1, "processes": {}}')
    seen: list[bool] = []

    class Watched:
        def __init__(self, *_: object) -> None:
            seen.append(path.exists())

        def run(self) -> list[str]:
            return ["held"] if is_held(world.server) else []

    monkeypatch.setattr(module, "_Supervisor", Watched)
    assert module.supervise(world.server, ()) == ["held"]
    assert seen == [False]
    shutil.rmtree(world.server / "sites")


def test_a_server_that_runs_for_a_year_renews_the_superlinks_certificate(made, world, caplog):
    link = made._link
    good = link.certificate.read_bytes()
    ticks(made, caplog)
    assert link.certificate.read_bytes() == good
    make_tls(link, datetime.now(UTC) - timedelta(days=360), os_random)
    old = link.certificate.read_bytes()
    made._next_renewal = 0.0
    ticks(made, caplog)
    assert link.certificate.read_bytes() not in {good, old}
    assert not made._link.needs_tls(datetime.now(UTC))
    assert made._control.moved == made._link  # who asks it trusts the new one
    assert made._superlink.restarts == 2  # it and the SuperExec, which share a stand-in here
