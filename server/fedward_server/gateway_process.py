"""The gateway as a process: ``python -m fedward_server.gateway_process FOLDER PORT``.

It holds no key but its own TLS key. Hospitals talk to the TLS port; ``/health``, ``/metrics`` and
``/status`` are for operators, on the loopback interface only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import ssl
import sys
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from fedward_common.errors import FedwardError
from fedward_server.admission import Admission
from fedward_server.consortium import CRL, TLS, gateway_of
from fedward_server.gateway import Event, Gateway, Receive, Scope, Send
from fedward_server.gateway_counters import Counters, prometheus
from fedward_server.gateway_limits import REQUESTS_AT_ONCE, UPSTREAM_SECONDS, Limits
from fedward_server.gateway_tls import listen, listen_plain, load_revoked, tls_context
from fedward_server.status import study_samples
from fedward_server.superlink import HOST, LINK_FOLDER, SuperLink

log = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0
CLOSE_SECONDS = 3.0


class Admin:
    """The ASGI application for operators."""

    def __init__(self, server: Path, upstream: httpx.AsyncClient, counters: Counters) -> None:
        self._server = server
        self._upstream = upstream
        self._counters = counters

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer GET /health, /metrics and /status."""
        status, kind, text = 404, "text/plain", "no such path\n"
        if scope["method"] == "GET" and scope["path"] == "/health":
            status, text = (
                (200, "ok\n") if await self._superlink_is_up() else (503, "no SuperLink\n")
            )
        elif scope["method"] == "GET" and scope["path"] == "/metrics":
            samples = [*self._counters.samples(), *study_samples(self._server)]
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


async def serve(server: Path, link: SuperLink) -> None:
    """Serve until SIGTERM."""
    place, gateway = server / "authority", gateway_of(server)
    context = tls_context(server / TLS, place / "certificate", place / CRL)
    admission, limits, counters = Admission(server), Limits(), Counters()
    _take_up(admission, context, place / CRL)
    async with _upstream(link) as upstream:
        application = Gateway(admission.names, upstream, limits, counters)
        admin = Admin(server, upstream, counters)
        listeners = [
            await listen(application, *gateway.bind, context, limits),
            await listen_plain(admin, HOST, gateway.admin_port),
        ]
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        watcher = asyncio.create_task(_watch(admission, context, place / CRL))
        await stopped.wait()
        watcher.cancel()
        await asyncio.gather(*(listener.close(CLOSE_SECONDS) for listener in listeners))


def _upstream(link: SuperLink) -> httpx.AsyncClient:
    # Fewer would be opened anew again and again: a TLS handshake costs more than a request.
    most = httpx.Limits(max_connections=64 * REQUESTS_AT_ONCE, max_keepalive_connections=64)
    return httpx.AsyncClient(
        base_url=link.url,
        verify=link.trust(),
        limits=most,
        timeout=UPSTREAM_SECONDS,
        headers={"accept-encoding": "identity"},
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # sites share no state
    )


async def _watch(admission: Admission, context: ssl.SSLContext, crl: Path) -> None:
    """Take up enrolments and revocations while serving."""
    told = ""
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        problem = _take_up(admission, context, crl)
        if problem != told and problem:
            log.warning("%s; enrolments are read again", problem)
        told = problem


def _take_up(admission: Admission, context: ssl.SSLContext, crl: Path) -> str:
    """Read what has changed; returns why that failed, or nothing. Who was admitted then stays."""
    before = admission.names()
    try:
        if admission.refresh():
            load_revoked(context, crl)
        if admission.names() != before:
            log.info("%d keys may connect", len(admission.names()))
    except (FedwardError, OSError) as error:
        return str(error)
    return ""


def main() -> None:
    """Start with the coordinator's folder and the SuperLink's port."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server, port = Path(sys.argv[1]), int(sys.argv[2])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two a connection are needed
    try:
        asyncio.run(serve(server, SuperLink(server / LINK_FOLDER, port)))
    except FedwardError as error:
        log.error("%s", error)  # noqa: TRY400  (one line, for a person)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
