"""The gateway's decisions, request by request: an ASGI application in front of the SuperLink.

A request passes if its TLS certificate holds the key of an enrolled site, its path is one that a
node needs, and Flower's node key in its header is the certificate's. Then it is streamed to the
SuperLink over a connection of its own, which checks Flower's signature and the node's number. What
announces a message is looked into first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from fedward_common import __version__
from fedward_common.errors import PeerError
from fedward_common.messages import PROTOCOL_VERSION
from fedward_server.gateway_counters import Counters
from fedward_server.gateway_headers import (
    FORWARDED,
    RETURNED,
    Headers,
    RefusedError,
    check_length,
    check_no_body,
    check_node_key,
    check_size,
    filtered,
)
from fedward_server.gateway_limits import (
    FLEET_PATHS,
    PUSH_MESSAGES,
    SEND_SECONDS,
    Limits,
    body_deadline,
)
from fedward_server.gateway_messages import check_push

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

PEER = "peer"
"""Where the TLS layer leaves the :class:`Peer` in the scope's state."""

TIME_PATH = "/v1/time"


@dataclass(frozen=True)
class Peer:
    """Who is at the other end: the key (DER) and the end of the certificate it proved to have."""

    key: bytes
    expires: datetime


class Gateway:
    """The ASGI application. ``admitted`` maps keys of enrolled sites to names, and may change."""

    def __init__(
        self,
        admitted: Callable[[], Mapping[bytes, str]],
        upstream: httpx.AsyncClient,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self._admitted = admitted
        self._upstream = upstream
        self._limits = limits
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        peer: Peer = scope["state"][PEER]
        path = scope["path"] if scope["path"] in (*FLEET_PATHS, TIME_PATH) else "other"
        answer = _Answer(send)
        try:
            await self._serve(peer, path, scope, receive, answer)
        except RefusedError as error:
            name = self._admitted().get(peer.key, "")
            self._counters.refuse(name, str(error))
            log.warning("%s %s refused: %s", name or "unknown key", path, error)
            if not answer.status:
                await answer.text(error.status, str(error))
        finally:
            self._counters.request(path, answer.status)

    async def _serve(
        self, peer: Peer, path: str, scope: Scope, receive: Receive, answer: _Answer
    ) -> None:
        name = self._name(peer)
        if problem := self._limits.begin(peer.key, time.monotonic()):
            raise RefusedError(429, problem)
        try:
            if (scope["method"], path) == ("GET", TIME_PATH):
                check_no_body(scope["headers"])
                answer.request_read = True
                await answer.json(_clock())
            else:
                limit = _check_path(scope["method"], path)
                check_size(scope["headers"])
                check_node_key(scope["headers"], peer.key)
                length = check_length(scope["headers"], limit)
                self._counters.seen(name)
                body = self._body(peer, receive, limit, answer)
                if path == PUSH_MESSAGES:
                    body = await _checked(body)
                await self._forward(name, path, scope["headers"], length, body, answer)
        finally:
            self._limits.end(peer.key)

    def _name(self, peer: Peer) -> str:
        """The TLS layer has checked the certificate; this holds for connections that stay open."""
        name = self._admitted().get(peer.key)
        if name is None:
            raise RefusedError(403, "this key is not enrolled, or was revoked or replaced")
        if datetime.now(UTC) > peer.expires:
            raise RefusedError(403, "the certificate has expired; ask for a new welcome")
        return name

    async def _body(
        self, peer: Peer, receive: Receive, limit: int, answer: _Answer
    ) -> AsyncIterator[bytes]:
        """The request's body, while its site is admitted and it is not too long or too slow."""
        started, received, more = time.monotonic(), 0, True
        while more:
            left = started + body_deadline(received) - time.monotonic()
            try:
                event = await asyncio.wait_for(receive(), left)
            except TimeoutError as error:
                raise RefusedError(408, "the body came too slowly") from error
            if event["type"] == "http.disconnect":
                raise RefusedError(400, "the connection was lost within the body")
            piece, more = event.get("body", b""), event.get("more_body", False)
            answer.request_read = not more
            received += len(piece)
            self._counters.received[self._name(peer)] += len(piece)
            if received > limit:
                raise RefusedError(413, f"the body is longer than {limit} bytes")
            if problem := self._limits.take(peer.key, len(piece)):
                raise RefusedError(429, problem)
            if piece:
                yield piece

    async def _forward(
        self,
        name: str,
        path: str,
        headers: Headers,
        length: int | None,
        body: AsyncIterator[bytes],
        answer: _Answer,
    ) -> None:
        sent = filtered(headers, FORWARDED)
        if length is not None:
            sent.append((b"content-length", str(length).encode("ascii")))
        request = self._upstream.build_request("POST", path, headers=sent, content=body)
        try:
            response = await self._upstream.send(request, stream=True)
        except httpx.HTTPError as error:
            raise RefusedError(503, "the SuperLink does not answer; try again") from error
        try:
            await answer.start(response.status_code, filtered(response.headers.raw, RETURNED))
            async for piece in response.aiter_raw():
                self._counters.sent[name] += len(piece)
                await answer.piece(piece)
            await answer.end()
        except httpx.HTTPError as error:
            raise RefusedError(502, "the SuperLink broke off its answer") from error
        finally:
            await response.aclose()


class _Answer:
    """A response; ``status`` is 0 until it has begun. A reader who stalls is let go.

    Unless ``request_read``, the rest of the request is not read: the connection ends.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.request_read = False

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        if not self.request_read:
            headers = [*headers, (b"connection", b"close")]
        await self._put({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, data: bytes) -> None:
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._put({"type": "http.response.body", "body": b""})

    async def text(self, status: int, line: str) -> None:
        """A refusal."""
        await self._whole(status, b"text/plain; charset=utf-8", f"{line}\n")

    async def json(self, record: Mapping[str, Any]) -> None:
        await self._whole(200, b"application/json", json.dumps(record))

    async def _whole(self, status: int, kind: bytes, text: str) -> None:
        body = text.encode("utf-8")
        length = str(len(body)).encode("ascii")
        await self.start(status, [(b"content-type", kind), (b"content-length", length)])
        await self._put({"type": "http.response.body", "body": body})

    async def _put(self, event: Event) -> None:
        try:
            await asyncio.wait_for(self._send(event), SEND_SECONDS)
        except TimeoutError as error:
            raise RefusedError(408, "the answer was not read") from error


async def _checked(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same body in one piece, after a look into it."""
    whole = b"".join([piece async for piece in body])
    try:
        check_push(whole)
    except PeerError as error:
        raise RefusedError(400, str(error)) from error
    return _in_one(whole)


async def _in_one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _check_path(method: str, path: str) -> int:
    """The largest body of a path that nodes may use."""
    if method != "POST" or path not in FLEET_PATHS:
        raise RefusedError(404, "no such path for a hospital")
    return FLEET_PATHS[path]


def _clock() -> dict[str, Any]:
    return {"unix_time": time.time(), "protocol": PROTOCOL_VERSION, "package": __version__}
