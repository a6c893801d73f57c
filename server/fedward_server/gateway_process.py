"""The gateway as a process: ``python -m fedward_server.gateway_process SERVER LISTEN PORT``.

It holds no key but its own TLS key. Hospitals talk to the TLS port; ``/health``, ``/metrics`` and
``/status`` are for operators, on the loopback interface only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from fedward_common.errors import FedwardError
from fedward_server.consortium import CRL, TLS, admitted, gateway_of
from fedward_server.gateway import Event, Gateway, Receive, Scope, Send
from fedward_server.gateway_counters import Counters, prometheus
from fedward_server.gateway_limits import REQUESTS_AT_ONCE, UPSTREAM_SECONDS, Limits
from fedward_server.gateway_tls import listen, listen_plain, load_revoked, tls_context
from fedward_server.server_folder import ServerFolder, open_server
from fedward_server.status import study_samples
from fedward_server.superlink import HOST, SuperLink

log = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0


@dataclass
class Admission:
    """The enrolled sites, read again when a file of theirs has changed."""

    folder: ServerFolder
    _names: dict[bytes, str] = field(default_factory=dict)
    _read: object = None

    def names(self) -> dict[bytes, str]:
        """Keys (DER) of the sites that may connect now, with their names."""
        return self._names

    def refresh(self) -> bool:
        """Read what has changed; True if anything has."""
        state = self._state()
        if state == self._read:
            return False
        self._names, self._read = admitted(self.folder), state
        return True

    def _state(self) -> object:
        files = [*(self.folder.path / "sites").glob("*.pub"), self.folder.path / "authority" / CRL]
        stats = [(file.name, file.stat()) for file in files if file.exists()]
        return sorted((name, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)


class Admin:
    """The ASGI application for operators."""

    def __init__(self, folder: ServerFolder, upstream: httpx.AsyncClient, counters: Counters):
        self._folder = folder
        self._upstream = upstream
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer GET /health, /metrics and /status."""
        status, kind, text = 404, "text/plain", "no such path\n"
        if scope["method"] == "GET" and scope["path"] == "/health":
            status, text = (
                (200, "ok\n") if await self._superlink_is_up() else (503, "no SuperLink\n")
            )
        elif scope["method"] == "GET" and scope["path"] == "/metrics":
            samples = [*self._counters.samples(), *study_samples(self._folder)]
            status, kind, text = 200, "text/plain; version=0.0.4", prometheus(samples)
        elif scope["method"] == "GET" and scope["path"] == "/status":
            status, kind, text = 200, "application/json", json.dumps(self._counters.as_dict())
        body = text.encode("utf-8")
        headers = [
            (b"content-type", kind.encode("ascii")),
            (b"content-length", str(len(body)).encode("ascii")),
        ]
        start: Event = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": body})

    async def _superlink_is_up(self) -> bool:
        try:
            reply = await self._upstream.get("/health", timeout=2.0)
        except httpx.HTTPError:
            return False
        return reply.status_code == httpx.codes.OK


async def serve(folder: ServerFolder, host: str, link: SuperLink) -> None:
    """Serve until SIGTERM."""
    place, gateway = folder.path / "authority", gateway_of(folder)
    context = tls_context(folder.path / TLS, place / "certificate", place / CRL)
    admission, limits, counters = Admission(folder), Limits(), Counters()
    admission.refresh()
    async with _upstream(link) as upstream:
        application = Gateway(admission.names, upstream, limits, counters)
        admin = Admin(folder, upstream, counters)
        servers = [
            await listen(application, host, gateway.port, context, limits),
            await listen_plain(admin, HOST, gateway.admin_port),
        ]
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        watcher = asyncio.create_task(_watch(admission, context, place / CRL))
        await stopped.wait()
        watcher.cancel()
        for server in servers:
            server.close()


def _upstream(link: SuperLink) -> httpx.AsyncClient:
    most = httpx.Limits(max_connections=64 * REQUESTS_AT_ONCE, max_keepalive_connections=64)
    return httpx.AsyncClient(
        base_url=link.url,
        verify=link.trust(),
        limits=most,
        timeout=UPSTREAM_SECONDS,
        headers={"accept-encoding": "identity"},
        follow_redirects=False,
        trust_env=False,
    )


async def _watch(admission: Admission, context: ssl.SSLContext, crl: Path) -> None:
    """Take up enrolments and revocations while serving."""
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        try:
            if admission.refresh():
                load_revoked(context, crl)
                log.info("%d sites may connect", len(admission.names()))
        except (FedwardError, OSError) as error:
            log.warning("enrolments are read again in %g s: %s", REFRESH_SECONDS, error)


def main() -> None:
    """Start with the server's folder, the address to listen on and the SuperLink's port."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    folder, host, port = sys.argv[1:]
    server = open_server(Path(folder))
    asyncio.run(serve(server, host, SuperLink(server.path / "superlink", int(port))))


if __name__ == "__main__":
    main()
