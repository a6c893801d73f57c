"""HTTP to the gateway and nowhere else: bounded answers, no redirects, one clear reason a failure.

A coordinator may be malicious. It cannot send this process to another host of the hospital's
network, for redirects are not followed, nor fill its memory, for no answer is read past its limit.
Nor has an answer's header any effect: there are no cookies, and none is handed on.
"""

from __future__ import annotations

import json
import math
import ssl
import threading
import time
from typing import Self

import httpx

from fedward_common.errors import FedwardError
from fedward_common.messages import MAX_MESSAGE_BYTES, PROTOCOL_VERSION
from fedward_common.text import printable

MAX_ANSWER_BYTES = 1 << 20
"""Of every answer but those to :data:`PULL_OBJECT`, which brings the parts of an order."""

PULL_OBJECT, MAX_ORDER_BYTES = "/v1/fleet/pull-object", MAX_MESSAGE_BYTES + (1 << 20)
"""The largest message with its envelope: all parts of one order together."""

HEARTBEAT, BEAT_TIMEOUT = "/v1/fleet/send-node-heartbeat", 3.0
"""A beat that takes longer is lost, and the next one is not late for it."""

ANSWER_SECONDS = 600.0
"""A whole answer arrives within this time; a chunk of it within READ_SECONDS."""

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
MAX_CONNECTIONS, KEEP_ALIVE_SECONDS = 4, 30.0
"""An order's parts come over connections of their own, which the next order finds open."""

MAX_REASON = 200
MAX_AHEAD_SECONDS = 1e8
"""Three years: a clock that is further away is none."""

CLOCK_WARNING_SECONDS = 5.0
"""Flower refuses a timestamp that is this far ahead; see :meth:`Transport.clock_offset`."""


class LinkError(FedwardError):
    """The gateway cannot be reached, or does not serve this site now. It is tried again."""


class Transport:
    """One keep-alive HTTPS client of the gateway at ``address``; close it, or use ``with``."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        self.base = f"https://{address}"
        # Not httpx.Client, which obeys the environment and reads the headers of answers.
        self._http = httpx.HTTPTransport(
            verify=context,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS
            ),
        )
        self._timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS).as_dict()
        self._order = _Allowance(MAX_ORDER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def begin_order(self) -> None:
        """The parts that are pulled from now on are another order's."""
        self._order = _Allowance(MAX_ORDER_BYTES)

    def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the whole answer, as its bytes came; its headers are left.

        Raises:
            LinkError: nobody answers, or the answer is too long or too slow.
        """
        request.headers["accept-encoding"] = "identity"  # nothing here is ever unpacked
        beat = request.url.path == HEARTBEAT
        request.extensions["timeout"] = (
            httpx.Timeout(BEAT_TIMEOUT).as_dict() if beat else dict(self._timeout)
        )
        part = request.url.path == PULL_OBJECT
        allowance = self._order if part else _Allowance(MAX_ANSWER_BYTES)
        try:
            response = self._http.handle_request(request)
            try:
                content = _read(response, allowance)
            finally:
                response.close()
        except httpx.TransportError as error:
            raise LinkError(f"{self.base}: {_network_reason(error)}") from error
        return httpx.Response(response.status_code, content=content, request=request)

    def clock_offset(self) -> float:
        """Seconds that the server's clock is ahead of this one; 0 if it does not tell its time.

        Flower checks the time that a request was signed at, so the site signs with the server's.

        Raises:
            LinkError: no answer, a refusal, or another version of the protocol.
        """
        before = time.time()
        response = self.send(httpx.Request("GET", f"{self.base}/v1/time"))
        after = time.time()
        if response.status_code == httpx.codes.NOT_FOUND:  # a plain proxy instead of the gateway
            return 0.0
        if not response.is_success:
            raise LinkError(refusal_text(response))
        try:
            told = json.loads(response.content)
            server, protocol = float(told["unix_time"]), int(told["protocol"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise LinkError(f"{self.base}/v1/time: malformed answer") from error
        if protocol != PROTOCOL_VERSION:
            raise LinkError(
                f"the coordinator speaks protocol {protocol}, this package {PROTOCOL_VERSION}: "
                "install the same version of fedward on both sides"
            )
        ahead = server - (before + after) / 2
        if not math.isfinite(ahead) or abs(ahead) > MAX_AHEAD_SECONDS:
            raise LinkError(f"{self.base}/v1/time: that is no time")
        return ahead


def refusal_text(response: httpx.Response) -> str:
    """What a refusal says in its first line, as a terminal may show it."""
    lines = response.content[: 4 * MAX_REASON].decode("utf-8", "replace").splitlines()
    reason = printable(lines[0])[:MAX_REASON] if lines else "no reason given"
    return f"the gateway answers {response.status_code}: {reason}"


class _Allowance:
    """Bytes that answers may still have together; they may come in several threads."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Count bytes.

        Raises:
            LinkError: too many.
        """
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise LinkError(f"an answer above {self._most} bytes was cut off")


def _read(response: httpx.Response, allowance: _Allowance) -> bytes:
    content = bytearray()
    end = time.monotonic() + ANSWER_SECONDS
    for chunk in response.iter_raw():
        allowance.take(len(chunk))
        content += chunk
        if time.monotonic() > end:
            raise LinkError(f"an answer was not complete after {ANSWER_SECONDS:.0f} s")
    return bytes(content)


def _network_reason(error: httpx.TransportError) -> str:
    """What a person can act on: the certificate's problem, or the kind of failure."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the gateway's certificate is refused: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason}); is this site's certificate still valid?"
        cause = cause.__cause__ or cause.__context__
    match error:
        case httpx.TimeoutException():
            return "no answer in time"
        case httpx.ConnectError():
            return "cannot be reached"
        case httpx.RemoteProtocolError():  # how a refused client certificate looks under TLS 1.3
            return "the gateway closed the connection; is this site's certificate still valid?"
        case _:
            return f"the connection broke ({type(error).__name__})"
