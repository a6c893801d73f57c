"""The sites behind Flower's Grid: who is there, orders handed over, replies collected."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedward_common import __version__, keys
from fedward_common.errors import PeerError
from fedward_common.messages import (
    PROTOCOL_VERSION,
    REPLIES,
    Hello,
    HelloReply,
    Refusal,
    decode_message,
)
from fedward_common.messages import Message as Order
from fedward_common.plan.sections import RosterSite
from fedward_common.text import printable
from fedward_server.sites import Traffic

log = logging.getLogger(__name__)

MESSAGE_TYPE = "query.fedward"
RECORD, FIELD, SALT, ORDER = "fedward", "message", "salt", "order"
SALT_BYTES = 16
"""Fresh in each push: Flower names what it stores by its hash, and nobody is to foretell that."""

MESSAGE_UNAVAILABLE = 3
"""Flower's code (``flwr.common.constant.ErrorCode``) of a reply whose parts did not all come."""

POLL_SECONDS, POLL_LIMIT_SECONDS = 0.02, 1.0
POLL_SHARE, POLL_SITE_SECONDS = 0.05, 0.005
"""Pause between two looks for replies: for each site that is waited for, as each costs the
SuperLink a little; and as a share of the time that the exchange has taken, if none has come."""

GREETING_SECONDS = 8.0
"""Twice what a quiet daemon lets pass between two questions."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 15.0, 60.0
"""Before a node that did not greet as a member is greeted again; doubled each time."""

MALFORMED = "its reply is malformed"
INCOMPLETE = "parts of its reply did not come"
NOT_TAKEN = "its order could not be handed over"
LAST_SECONDS = 1.0
"""For a reply's parts, when the deadline has passed and one last look is taken."""


@dataclass
class GridSites:
    """The roster behind a Flower grid. A node is believed by its signature only."""

    grid: Grid
    roster: tuple[RosterSite, ...]
    on_problem: Callable[[str, str], None] = lambda _name, _problem: None
    """Told a member's name and why nothing of use came from it."""
    repeat_seconds: float | None = None
    """An order without an answer is sent again after so long, then after twice as long, and so on:
    Flower delivers once, also into a connection that breaks. A site answers the same request with
    the same bytes (A3). None: nothing is ever lost on the way."""
    enrolled: Callable[[], Mapping[int, str] | None] = lambda: None
    """Names of the sites by node: only members of the roster are greeted, nobody else learns of
    the study. None: every node may be a member's."""
    patience: Callable[[float], None] = lambda _seconds: None
    """Told how long the next pull may wait for the parts of a reply that was announced."""
    _traffic: dict[str, Traffic] = field(default_factory=dict)
    _nodes: dict[str, int] = field(default_factory=dict)
    _pauses: dict[int, tuple[float, float]] = field(default_factory=dict)
    """By node: when it may be greeted again, and how long it was left alone until then."""
    _singly: bool = False
    """Whether a reply has come that Flower cannot read: it would take others down with it."""

    def present(self) -> tuple[str, ...]:
        """Greet nodes that are not known yet; return the names of all that are there."""
        online = set(self.grid.get_node_ids())
        self._nodes = {name: node for name, node in self._nodes.items() if node in online}
        self._pauses = {node: pause for node, pause in self._pauses.items() if node in online}
        if len(self._nodes) < len(self.roster):
            self._greet(self._candidates(online))
        return tuple(self._nodes)

    def exchange(
        self, orders: Mapping[str, Order], deadline_seconds: float
    ) -> Iterator[tuple[str, Order]]:
        """Send and collect; late, failed and malformed replies count as none."""
        names = {self._nodes[name]: name for name in orders if name in self._nodes}
        payloads = {node: orders[name].encode() for node, name in names.items()}
        for node, payload in payloads.items():
            self._count(names[node], Traffic(bytes_sent=len(payload)))
        for node, data in self._send(payloads, names, deadline_seconds):
            self._count(names[node], Traffic(1, len(data)))
            try:
                reply = decode_message(data, REPLIES)
            except PeerError as error:
                log.warning("%s: reply refused: %s", names[node], printable(str(error)))
                self.on_problem(names[node], f"its reply was refused: {error}")
                continue
            if isinstance(reply, Refusal):
                log.warning(
                    "%s refuses (%s): %s",
                    names[node],
                    printable(reply.kind),
                    printable(reply.reason),
                )
            yield names[node], reply

    def _candidates(self, online: set[int]) -> dict[int, str]:
        """Nodes to greet now, with what to call them."""
        names, now = self.enrolled(), time.monotonic()
        members = {site.name for site in self.roster}
        due = {node for node in online if self._pauses.get(node, (0.0, 0.0))[0] <= now}
        unknown = sorted(due - set(self._nodes.values()))
        if names is None:
            return {node: f"node {node}" for node in unknown}
        return {node: names[node] for node in unknown if names.get(node) in members}

    def _greet(self, names: dict[int, str]) -> None:
        nonces = {node: secrets.token_bytes(32) for node in names}
        hellos = {node: Hello(nonce).encode() for node, nonce in nonces.items()}
        for node, data in self._send(hellos, names, GREETING_SECONDS):
            try:
                reply = decode_message(data, (HelloReply,))
                self._nodes[self._member(reply, nonces[node])] = node
            except PeerError as error:
                why = printable(str(error))
                log.warning("%s: not a member of this study: %s", names[node], why)
        for node in names.keys() - self._nodes.values():
            _, last = self._pauses.get(node, (0.0, FIRST_PAUSE_SECONDS / 2))
            pause = min(2 * last, LONGEST_PAUSE_SECONDS)
            self._pauses[node] = (time.monotonic() + pause, pause)

    def _member(self, reply: Order, nonce: bytes) -> str:
        if not isinstance(reply, HelloReply):
            raise PeerError("no greeting")
        for site in self.roster:
            if site.name == reply.name:
                identity = bytes.fromhex(site.identity)
                keys.verify(identity, reply.signature, "hello", nonce, reply.name)
                self._check_version(reply)
                return site.name
        raise PeerError("its name is not on the roster")

    def _check_version(self, reply: HelloReply) -> None:
        if reply.protocol != PROTOCOL_VERSION:
            package = printable(reply.package)
            problem = (
                f"it speaks protocol {reply.protocol} (fedward {package}), this server "
                f"protocol {PROTOCOL_VERSION} (fedward {__version__}); install the same version"
            )
            self.on_problem(reply.name, problem)
            raise PeerError(problem)

    def drain_traffic(self) -> dict[str, Traffic]:
        """What crossed since the last call, by site."""
        counted, self._traffic = self._traffic, {}
        return counted

    def _count(self, name: str, crossed: Traffic) -> None:
        self._traffic[name] = self._traffic.get(name, Traffic()) + crossed

    def _send(
        self, payloads: Mapping[int, bytes], names: Mapping[int, str], deadline_seconds: float
    ) -> Iterator[tuple[int, bytes]]:
        """Push and poll: Flower's own send_and_receive polls only every 3 s.

        Whoever announces a reply and does not upload it may use up the time, not others' replies:
        a pull waits for it half of what is left, and a last look is taken after the deadline.
        """
        asked = self._push(payloads, names)
        open_nodes = set(asked.values())
        start = time.monotonic()
        end = start + deadline_seconds
        repeat = self.repeat_seconds or math.inf
        again = start + repeat
        over, incomplete = False, set[int]()
        while open_nodes and not over:
            singly, left = self._singly, end - time.monotonic()
            over = left <= 0
            self.patience(max(left / 2, LAST_SECONDS))
            replies = self._pull(asked)
            for identifier, reply in replies:
                node = asked.pop(identifier, None)
                if node not in open_nodes:
                    continue
                if reply is not None and _is_incomplete(reply):
                    incomplete.add(node)  # it may answer again
                    continue
                open_nodes.discard(node)
                asked = {i: other for i, other in asked.items() if other != node}
                if reply is not None and reply.has_error():
                    log.warning("%s: it has gone, or its app failed", names[node])
                elif data := _content(reply):
                    yield node, data
                else:
                    log.warning("%s: %s", names[node], MALFORMED)
                    self.on_problem(names[node], MALFORMED)
            if time.monotonic() > again or self._singly != singly:
                silent = open_nodes & set(self.grid.get_node_ids())
                asked |= self._push({node: payloads[node] for node in silent}, names)
                repeat *= 2
                again = time.monotonic() + repeat
            if open_nodes and not over:
                now = time.monotonic()
                pause = _pause(len(open_nodes), 0.0 if replies else now - start)
                time.sleep(min(pause, max(end - now, 0.0)))
        for node in open_nodes & incomplete:
            log.warning("%s: %s", names[node], INCOMPLETE)
            self.on_problem(names[node], INCOMPLETE)

    def _push(self, payloads: Mapping[int, bytes], names: Mapping[int, str]) -> dict[str, int]:
        """Hand messages over, one by one; returns the node of each that was taken.

        Of several at once, Flower announces all before it uploads the parts of any, and each site
        asks for its parts again and again meanwhile. A reply counts for the node that its message
        went to, whatever sender it names. A node may delete what is announced to it before its
        parts are there, and Flower's upload then fails: that is this node's loss alone.

        Raises:
            httpx.HTTPError: the SuperLink does not answer.
        """
        taken: dict[str, int] = {}
        for node, payload in payloads.items():
            try:
                identifiers = list(self.grid.push_messages([_message(payload, node)]))
            except httpx.HTTPError:
                raise
            except Exception as error:  # noqa: BLE001  (whatever a site's requests do to Flower)
                log.warning("%s: %s (%s)", names[node], NOT_TAKEN, type(error).__name__)
                self.on_problem(names[node], NOT_TAKEN)
                continue
            taken |= {identifier: node for identifier in identifiers if identifier}
        return taken

    def _pull(self, asked: Mapping[str, int]) -> list[tuple[str, Message | None]]:
        """Replies that are there, by the message that they answer; None is one beyond reading.

        If Flower cannot read one reply, it loses all of that pull. From the first time on they are
        pulled one by one, and :meth:`_send` asks the others again.

        Raises:
            httpx.HTTPError: the SuperLink does not answer.
        """
        if not self._singly:
            try:
                return _answers(self.grid.pull_messages(list(asked)) if asked else ())
            except httpx.HTTPError:
                raise
            except Exception as error:  # noqa: BLE001  (whatever a site's bytes do to Flower)
                log.warning("a reply cannot be read (%s): pulled singly", type(error).__name__)
                self._singly = True
        found: list[tuple[str, Message | None]] = []
        for identifier in asked:
            try:
                found += _answers(self.grid.pull_messages([identifier]))
            except httpx.HTTPError:
                raise
            except Exception:  # noqa: BLE001
                found.append((identifier, None))
        return found


def _pause(awaited: int, silent: float) -> float:
    """Seconds until the next look for the replies of so many sites; ``silent``: 0 if some came."""
    patience = max(POLL_SHARE * silent, POLL_SECONDS) if silent else 0.0
    return min(max(POLL_SITE_SECONDS * awaited, patience), POLL_LIMIT_SECONDS)


def _message(payload: bytes, node: int) -> Message:
    record = ConfigRecord({FIELD: payload, SALT: secrets.token_bytes(SALT_BYTES)})
    return Message(RecordDict({RECORD: record}), node, MESSAGE_TYPE)


def _answers(replies: Iterable[Message]) -> list[tuple[str, Message | None]]:
    return [(reply.metadata.reply_to_message_id, reply) for reply in replies]


def _is_incomplete(reply: Message) -> bool:
    """Whether the sender was cut off before all parts were uploaded: it will answer again."""
    return reply.has_error() and reply.error.code == MESSAGE_UNAVAILABLE


def _content(reply: Message | None) -> bytes | None:
    """The answer's bytes; None if there are none, or they answer another order."""
    if reply is None or not reply.has_content():
        return None
    record = reply.content.config_records.get(RECORD)
    asked = reply.metadata.reply_to_message_id
    if record is None or record.get(ORDER, asked) != asked:
        return None
    data = record.get(FIELD)
    return data if isinstance(data, bytes) else None
