"""What the coordinator's supervisor and ServerApp use of Flower's inside is as it was."""

from __future__ import annotations

import inspect
import zipfile
from io import BytesIO

from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode
from flwr.common.serde import user_config_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListNodesResponse,
    ListRunsRequest,
    ListRunsResponse,
    RegisterNodeRequest,
    StartRunRequest,
    StartRunResponse,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.superlink.grid import http_grid
from flwr.superlink.routers.fleet.router import router

from fedward_server.control import BUNDLE, README, SERVER_FOLDER, STUDY
from fedward_server.gateway_limits import FLEET_PATHS
from fedward_server.grid_sites import MESSAGE_UNAVAILABLE
from fedward_server.patience import FIRST_PAUSE_SECONDS, LONGEST_SECONDS, bound_pulls
from fedward_server.superlink import SuperLink

NOT_FOR_SITES = {
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/get-fab",
    "/v1/fleet/get-run",
}


def test_the_bundle_holds_no_code():
    content, _ = build_fab_from_files({"pyproject.toml": BUNDLE.encode(), "README.md": README})
    with zipfile.ZipFile(BytesIO(content)) as bundle:
        assert sorted(bundle.namelist()) == [".info/CONTENT", "README.md", "pyproject.toml"]
        project = bundle.read("pyproject.toml").decode()
    assert 'serverapp = "fedward_server.app:app"' in project
    again, _ = build_fab_from_files({"pyproject.toml": BUNDLE.encode(), "README.md": README})
    assert content == again


def test_the_gateway_knows_every_path_of_the_fleet():
    """A path that a later Flower adds is refused until somebody has thought about it."""
    assert {route.path for route in router.routes} == FLEET_PATHS.keys() | NOT_FOR_SITES


def test_a_runs_configuration_survives():
    config = {SERVER_FOLDER: "/srv/x", STUDY: "chest"}
    request = StartRunRequest(
        fab=Fab(hash_str="aa", content=b"x"), override_config=user_config_to_proto(config)
    )
    again = StartRunRequest.FromString(request.SerializeToString())
    assert user_config_from_proto(again.override_config) == config
    assert StartRunResponse(run_id=3).HasField("run_id")


def test_the_control_client_has_what_is_called():
    calls = {
        "ListNodes": ListNodesRequest,
        "RegisterNode": RegisterNodeRequest,
        "UnregisterNode": UnregisterNodeRequest,
        "ListRuns": ListRunsRequest,
        "StartRun": StartRunRequest,
        "StopRun": StopRunRequest,
    }
    for name, request in calls.items():
        hint = inspect.signature(getattr(ControlHttpClient, name)).parameters["request"].annotation
        assert hint in {request, request.__name__}
    assert ListNodesResponse().nodes_info == []
    assert dict(ListRunsResponse().run_dict) == {}


def test_the_superlink_takes_our_options(tmp_path):
    program = SuperLink(tmp_path, 9).superlink()
    parsed = _parse_args_run_superlink().parse_args(program.command[1:])
    assert (parsed.host, parsed.port) == ("127.0.0.1", 9)
    assert parsed.isolation == "process"
    assert parsed.enable_supernode_auth
    assert not parsed.insecure
    assert not parsed.runtime_dependency_install
    assert parsed.database == str(tmp_path / "state.db")
    assert parsed.superexec_auth_secret_file == str(tmp_path / "secret")


def test_the_grids_patience_is_bounded_by_its_defaults():
    before = dict(pull_objects.__kwdefaults__)
    assert http_grid.pull_objects is pull_objects
    source = inspect.getsource(http_grid.HttpGrid.pull_messages)
    assert "max_time" not in source
    assert "initial_backoff" not in source
    try:
        bound_pulls()
        assert pull_objects.__kwdefaults__["initial_backoff"] == FIRST_PAUSE_SECONDS
        assert pull_objects.__kwdefaults__["max_time"] == LONGEST_SECONDS
        assert pull_objects.__kwdefaults__.keys() == before.keys()
    finally:
        pull_objects.__kwdefaults__.update(before)


def test_the_code_of_an_incomplete_reply():
    assert MESSAGE_UNAVAILABLE == ErrorCode.MESSAGE_UNAVAILABLE
