"""Flower's SuperLink and its SuperExec as children: on loopback, with keys of their own.

The SuperLink's Control API has no authentication of its own, so it listens on 127.0.0.1 only, and
hospitals reach nothing but what the gateway lets through (DESIGN, "Flower 1.41, as measured").
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedward_common.errors import StorageError
from fedward_common.files import write_atomic
from fedward_common.randomness import RandomBytes
from fedward_server.certificates import issue_server, needs_renewal, new_authority
from fedward_server.children import Program

HOST = "127.0.0.1"
SECRET_BYTES = 32
PORTS = range(20_000, 32_000)
PORT_TRIES = 200
LINK_FOLDER = "superlink"
"""In the coordinator's folder."""


@dataclass(frozen=True)
class SuperLink:
    """Where the SuperLink listens and the folder (0700) of its keys, database and bundles."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """The base of its three APIs."""
        return f"https://{HOST}:{self.port}"

    @property
    def certificate(self) -> Path:
        """What its clients trust (PEM)."""
        return self.folder / "authority.crt"

    @property
    def tls(self) -> Path:
        """Its own certificate (PEM)."""
        return self.folder / "tls.crt"

    def needs_tls(self, now: datetime) -> bool:
        """Whether its certificate is not there, or will end soon."""
        return not self.tls.exists() or needs_renewal(self.tls.read_text("ascii"), now)

    def trust(self) -> ssl.SSLContext:
        """A TLS context that accepts this SuperLink and nobody else."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def superlink(self) -> Program:
        """The SuperLink: node authentication, shared secret, durable state, no installation."""
        command = (
            _script("flower-superlink"),
            *("--host", HOST, "--port", str(self.port)),
            *("--ssl-certfile", str(self.tls)),
            *("--ssl-keyfile", str(self.folder / "tls.key")),
            *("--ssl-ca-certfile", str(self.certificate)),
            *("--isolation", "process"),
            *("--superexec-auth-secret-file", str(self.folder / "secret")),
            "--enable-supernode-auth",
            *("--database", str(self.folder / "state.db")),
            "--disable-runtime-dependency-installation",
        )
        return Program("SuperLink", command, self._environment(), self.folder)

    def superexec(self) -> Program:
        """The SuperExec, which starts a process for each run's ServerApp."""
        command = (
            _script("flower-superexec"),
            *("--runtime-api-address", f"{HOST}:{self.port}"),
            *("--root-certificates", str(self.certificate)),
            *("--superexec-auth-secret-file", str(self.folder / "secret")),
        )
        return Program("SuperExec", command, self._environment(), self.folder)

    def _environment(self) -> dict[str, str]:
        """This process's, less what belongs to Flower's defaults: no telemetry, its own home."""
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        own = {k: v for k, v in dict(os.environ).items() if not k.startswith("FLWR_")}
        return own | {
            "PATH": path,  # SuperExec finds flwr-serverapp there
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "FLWR_HOME": str(self.folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_LOG_LEVEL": "WARNING",
        }


def prepare_superlink(
    folder: Path, now: datetime, random: RandomBytes, *, port: int | None = None
) -> SuperLink:
    """Choose a free port unless one is given; make TLS keys and a fresh shared secret.

    The TLS keys are kept while they are good, for an nginx that has read them.
    """
    link = SuperLink(folder, _free_port(random) if port is None else port)
    if link.needs_tls(now):
        make_tls(link, now, random)
    write_atomic(folder / "secret", random(SECRET_BYTES).hex().encode("ascii"), mode=0o600)
    return link


def make_tls(link: SuperLink, now: datetime, random: RandomBytes) -> None:
    """Make the SuperLink's TLS key and the authority that vouches for it, whose key nobody keeps.

    A SuperLink that runs already goes on with the old ones.
    """
    link.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = new_authority(now, random)
    pair = issue_server(authority, [HOST, "localhost"], now, random)
    link.tls.unlink(missing_ok=True)  # it goes last: it says that the others are there
    write_atomic(link.certificate, authority.certificate.encode("ascii"))
    write_atomic(link.folder / "tls.key", pair.key_pem(), mode=0o600)
    write_atomic(link.tls, pair.certificate.encode("ascii"))


def _script(name: str) -> str:
    """A program of Flower, from this very environment."""
    return str(Path(sys.executable).parent / name)


def is_free(port: int) -> bool:
    """Whether nobody else has this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_port(random: RandomBytes) -> int:
    """A port that the kernel gives to no outgoing connection (ip(7), ip_local_port_range)."""
    for _ in range(PORT_TRIES):
        port = PORTS.start + int.from_bytes(random(4), "big") % len(PORTS)
        if is_free(port):
            return port
    raise StorageError(f"no free port on {HOST} from {PORTS.start} to {PORTS.stop}; free some")
