"""What the supervisor asks of the SuperLink: nodes registered, runs begun and stopped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError

from fedward_common import __version__
from fedward_common.errors import FedwardError
from fedward_server.superlink import SuperLink

log = logging.getLogger(__name__)

SERVER_FOLDER, STUDY = "server-folder", "study"
"""Keys of a run's configuration, which the ServerApp reads."""

FINISHED = "finished"
TIMEOUT_SECONDS = 10.0

BUNDLE = f"""\
[project]
name = "fedward"
version = "{__version__}"
dependencies = ["flwr"]

[tool.flwr.app]
publisher = "fedward"
fab-include = ["README.md"]

[tool.flwr.app.components]
serverapp = "fedward_server.app:app"
clientapp = "fedward_client.agent:app"

[tool.flwr.app.config]
{SERVER_FOLDER} = ""
{STUDY} = ""
"""
"""A Flower bundle that holds no code: it names what is installed (G2)."""

README = b"This bundle holds no code: sites and the server run what they have installed.\n"


class SuperLinkAwayError(FedwardError):
    """The SuperLink does not answer now, or answers that it will not; it is asked again."""


@dataclass(frozen=True)
class Node:
    """A registered node: its number, and whether its site is connected."""

    number: int
    online: bool


class Control:
    """A client of the SuperLink's Control API."""

    def __init__(self, link: SuperLink) -> None:
        self._lost: set[bytes] = set()
        self._connect(link)

    def move(self, link: SuperLink) -> None:
        """The SuperLink listens elsewhere from now on."""
        self.close()
        self._connect(link)

    def _connect(self, link: SuperLink) -> None:
        self._client = ControlHttpClient(link.url, verify=link.trust(), timeout=TIMEOUT_SECONDS)
        self._health = httpx.Client(base_url=link.url, verify=link.trust(), timeout=2.0)

    def healthy(self) -> bool:
        """Whether the SuperLink answers."""
        try:
            return self._health.get("/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def sync_nodes(
        self, names: Mapping[bytes, str], refused: Collection[bytes] = ()
    ) -> dict[bytes, Node]:
        """Make nodes of these P-384 keys (DER), with their sites' names; returns them by key.

        Those of ``refused`` keys are unregistered. A key in neither stays as it is: Flower takes
        no key twice, so a list that was short for a moment must not cost a site its key.

        Raises:
            SuperLinkAwayError: it did not answer.
        """
        wanted, gone = ({_pem(key): key for key in keys} for keys in (names, refused))
        with _asking("list nodes"):
            nodes = self._client.ListNodes(ListNodesRequest()).nodes_info
            there = {bytes(n.public_key): n for n in nodes if n.status != "unregistered"}
            for key in gone.keys() & there.keys() - wanted.keys():
                self._client.UnregisterNode(UnregisterNodeRequest(node_id=there[key].node_id))
            made = {
                key: self._register(key, names[wanted[key]]) for key in wanted.keys() - there.keys()
            }
        known = {
            k: Node(there[k].node_id, there[k].status == "online")
            for k in wanted.keys() & there.keys()
        }
        return {wanted[key]: node for key, node in (known | made).items() if node is not None}

    def _register(self, key: bytes, name: str) -> Node | None:
        """One key that Flower will not have must not keep the others out."""
        try:
            reply = self._client.RegisterNode(RegisterNodeRequest(public_key=key))
        except httpx.HTTPStatusError as error:
            if not _is_taken(error.response):
                raise
            if key not in self._lost:
                log.warning("%s: Flower has unregistered its key for good; rotate the key", name)
            self._lost.add(key)
            return None
        return Node(int(reply.node_id), online=False)

    def start(self, server_folder: str, study: str) -> int:
        """Begin a run of ``study``; returns its id.

        Raises:
            SuperLinkAwayError: it did not answer, or refused.
        """
        files = {"pyproject.toml": BUNDLE.encode(), "README.md": README}
        content, _ = build_fab_from_files(files)
        fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        config = user_config_to_proto({SERVER_FOLDER: server_folder, STUDY: study})
        with _asking("start a run"):
            reply = self._client.StartRun(StartRunRequest(fab=fab, override_config=config))
        if not reply.HasField("run_id"):
            raise SuperLinkAwayError("the SuperLink did not start a run")
        return int(reply.run_id)

    def outcome(self, run: int) -> str | None:
        """How a run ended, in Flower's words, or None while it goes on.

        Raises:
            SuperLinkAwayError: it did not answer.
        """
        with _asking("tell a run's state"):
            status = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
        return f"{status.sub_status}: {status.details}" if status.status == FINISHED else None

    def stop_all(self) -> None:
        """Stop every run that is not over: their ServerApps died with an earlier supervisor.

        Raises:
            SuperLinkAwayError: it did not answer.
        """
        with _asking("stop runs"):
            runs = self._client.ListRuns(ListRunsRequest()).run_dict
            for run, state in runs.items():
                if state.status.status != FINISHED:
                    self._client.StopRun(StopRunRequest(run_id=run))

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()
        self._health.close()


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Name a failure after what was asked for."""
    try:
        yield
    except httpx.HTTPError as error:
        raise SuperLinkAwayError(f"the SuperLink did not {what}: {type(error).__name__}") from error


def _is_taken(response: httpx.Response) -> bool:
    """Whether Flower has had a node of this key before."""
    try:
        told = FlowerError.from_json(response.content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    return told is not None and told.code == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE


def _pem(transport: bytes) -> bytes:
    """Flower knows a node's key as PEM."""
    key = load_der_public_key(transport)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
