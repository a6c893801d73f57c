"""Our private sum, measured: a whole round of the real machines, every message as bytes (A3).

CPU seconds are of one process (``time.process_time``): what other programs do on the machine
does not count, and a second thread would count twice.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fedward_common.errors import MisuseError, OperatorError
from fedward_common.keys import encryption_public, new_key, signing_public
from fedward_common.randomness import os_random
from fedward_common.secagg.messages import (
    Agreement,
    AgreeRequest,
    MaskedAddend,
    MaskRequest,
    ShareMessage,
    UnmaskReply,
    UnmaskRequest,
)
from fedward_common.secagg.parameters import Group, Member, SiteKeys, threshold
from fedward_common.secagg.server import (
    CollectingAddends,
    CollectingAgreements,
    CollectingReveals,
    CollectingShares,
    ServerState,
    Summed,
)
from fedward_common.secagg.site import Agreed, Masked, Sharing, SiteState, Unmasked, start

STEPS = ("A3.1 share", "A3.2 mask", "A3.3 agree", "A3.4 unmask")
QUERY, ROUND_NUMBER = "gradient", 0
PUBLIC_INPUT = hashlib.sha256(b"public input").digest()
HEAD = (0, bytes(32))
COLLUDING = 1

Vector = npt.NDArray[np.uint32]
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """What is measured: sites, coordinates of an addend, sites that fall silent after A3.1.

    Raises:
        OperatorError: the sites that remain are fewer than the protocol needs.
    """

    sites: int
    parameters: int
    dropouts: int = 0

    def __post_init__(self) -> None:
        needed = max(3, threshold(self.sites))
        if self.sites - self.dropouts < needed:
            raise OperatorError(
                f"dropout: {self.dropouts} of {self.sites} sites; {needed} must stay, use less"
            )


@dataclass(frozen=True)
class Cost:
    """One round. ``steps`` are medians over the sites that stayed, CPU seconds.

    ``client_seconds`` is the median of what a site spent on all four; the bytes are the largest
    of any site.
    """

    steps: Mapping[str, float]
    client_seconds: float
    server_seconds: float
    upload_bytes: int
    download_bytes: int


class Stopwatch:
    """Adds up the CPU seconds of the calls made through it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns."""
        started = time.process_time()
        result = work()
        self.seconds += time.process_time() - started
        return result


@dataclass
class Site:
    """A site behind bytes; ``seconds`` holds what each step took."""

    group: Group
    keys: SiteKeys
    addend: Vector
    sent: int = 0
    received: int = 0
    seconds: list[float] = field(default_factory=list)
    _state: SiteState | None = None

    def share(self) -> bytes:
        """Step A3.1."""

        def work() -> bytes:
            self._state, message = start(self.group, self.keys, 1, HEAD, os_random)
            return message.encode()

        return self._measured(work)

    def answer(self, request: bytes) -> bytes:
        """Take the next of steps A3.2 to A3.4."""
        self.received += len(request)
        return self._measured(lambda: self._step(request))

    def _measured(self, work: Callable[[], bytes]) -> bytes:
        watch = Stopwatch()
        message = watch(work)
        self.seconds.append(watch.seconds)
        self.sent += len(message)
        return message

    def _step(self, data: bytes) -> bytes:
        match self._state:
            case Sharing() as sharing:
                request = MaskRequest.decode(data)
                checked = sharing.check(request, QUERY, ROUND_NUMBER, PUBLIC_INPUT)
                self._state, addend = sharing.mask(checked, self.addend)
                return addend.encode()
            case Masked() as masked:
                self._state, agreement = masked.agree(AgreeRequest.decode(data))
                return agreement.encode()
            case Agreed() as agreed:
                self._state, reply = agreed.unmask(UnmaskRequest.decode(data))
                return reply.encode()
            case Unmasked() | None:
                raise MisuseError("no request is due")


class Relay(Protocol):
    """The server behind bytes, in this process or in another."""

    def receive(self, index: int, message: bytes) -> None:
        """Take a site's message."""

    def close(self) -> Mapping[int, bytes]:
        """End the step; returns the requests of the next one, none at the end."""


class Server:
    """The server's machine behind bytes; ``watch`` holds its CPU seconds."""

    def __init__(self, group: Group, parameters: int) -> None:
        self.watch = Stopwatch()
        self._parameters = parameters
        self._state: ServerState = CollectingShares(group, 1)

    @property
    def total(self) -> Vector:
        """The sum, once the last step is closed."""
        if not isinstance(self._state, Summed):
            raise MisuseError("the round is not finished")
        return self._state.total

    def receive(self, index: int, message: bytes) -> None:
        """Take a site's message."""
        self.watch(lambda: self._receive(index, message))

    def close(self) -> Mapping[int, bytes]:
        """End the step; returns the requests of the next one, none at the end."""
        return self.watch(self._close)

    def _receive(self, index: int, data: bytes) -> None:
        match self._state:
            case CollectingShares() as shares:
                self._state = shares.receive(index, ShareMessage.decode(data))
            case CollectingAddends() as addends:
                addend = MaskedAddend.decode(data, self._parameters)
                self._state = addends.receive(index, addend)
            case CollectingAgreements() as agreements:
                self._state = agreements.receive(index, Agreement.decode(data))
            case CollectingReveals() as reveals:
                self._state = reveals.receive(index, UnmaskReply.decode(data))
            case Summed():
                raise MisuseError("no message is due")

    def _close(self) -> dict[int, bytes]:
        requests: Mapping[int, MaskRequest | AgreeRequest | UnmaskRequest]
        match self._state:
            case CollectingShares() as shares:
                self._state, requests = shares.close(
                    QUERY, ROUND_NUMBER, PUBLIC_INPUT, self._parameters
                )
            case CollectingAddends() as addends:
                self._state, requests = addends.close()
            case CollectingAgreements() as agreements:
                self._state, requests = agreements.close()
            case CollectingReveals() as reveals:
                self._state, requests = reveals.close()
            case Summed():
                raise MisuseError("the round is finished")
        return {index: request.encode() for index, request in requests.items()}


def make_group(sites: int) -> tuple[Group, tuple[SiteKeys, ...]]:
    """A roster of fresh keys, with the thresholds of a deployment: t_min = t, c = 1."""
    keys = tuple(SiteKeys(i, new_key(os_random), new_key(os_random)) for i in range(sites))
    members = tuple(
        Member(f"site-{k.index}", signing_public(k.identity), encryption_public(k.encryption))
        for k in keys
    )
    plan_digest = hashlib.sha256(b"plan and approvals").digest()
    return Group(members, max(3, threshold(sites)), COLLUDING, plan_digest), keys


def make_addend(parameters: int) -> Vector:
    """An addend; the cost does not depend on what is in it."""
    return np.frombuffer(os_random(4 * parameters), dtype="<u4")


def play(sites: Sequence[Site], server: Relay, dropouts: int) -> None:
    """Run a round in which the last ``dropouts`` sites fall silent after A3.1."""
    staying = len(sites) - dropouts
    for site in sites:
        server.receive(site.keys.index, site.share())
    while requests := server.close():
        for index, request in requests.items():
            if index < staying:
                server.receive(index, sites[index].answer(request))


def measure(case: Case) -> Cost:
    """Run one round of ``case`` and return what it cost.

    Raises:
        MisuseError: the sum is not exact, so that a figure would mean nothing.
    """
    group, keys = make_group(case.sites)
    addend = make_addend(case.parameters)
    sites = [Site(group, key, addend) for key in keys]
    server = Server(group, case.parameters)
    play(sites, server, case.dropouts)
    staying = sites[: case.sites - case.dropouts]
    if not np.array_equal(server.total, addend * np.uint32(len(staying))):
        raise MisuseError("the private sum is not the sum of the addends")
    columns = zip(*(site.seconds for site in staying), strict=True)
    return Cost(
        steps=dict(zip(STEPS, map(statistics.median, columns), strict=True)),
        client_seconds=statistics.median(sum(site.seconds) for site in staying),
        server_seconds=server.watch.seconds,
        upload_bytes=max(site.sent for site in staying),
        download_bytes=max(site.received for site in staying),
    )
