"""De-identification in processes of its own: bytes in, outcome out.

A worker is a fresh interpreter that holds the secret and the profile in memory: both come through
its standard input, never through its arguments, its environment or a file. It ends when its input
closes, so it does not outlive a killed parent. What becomes of a file depends on that file alone:
any number of workers gives the same outcomes, in the order of the input.
"""

from __future__ import annotations

import os
import queue
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Self, TypeVar

from fedward_client.deidentify.engine import Deidentifier
from fedward_client.deidentify.outcome import Action, Cleaned, Identifiers, Quarantined, Reason
from fedward_client.deidentify.profile import Profile
from fedward_client.processes import child_environment, forbid_core_dumps
from fedward_common.codec import MAX_PAYLOAD_BYTES, decode, encode
from fedward_common.errors import MisuseError, OperatorError, StorageError
from fedward_common.secret import SecretBytes

Key = TypeVar("Key")
Outcome = Cleaned | Quarantined

SHARE = 64
"""Files a worker must have to be worth its start, which takes a second or two of CPU."""

HERE = -1
"""As many jobs as 0 asks for, but few files are cleaned in this process: for a simulation, which
made the files itself and has many sites. A file that crashes it ends it."""

TRIES = 2
"""Workers that a file may cost; it is refused then, so that it does not stop the others."""

_LENGTH = struct.Struct(">Q")
_LOG_ENTRY = struct.Struct(">IB")
_ACTIONS = tuple(Action)


@dataclass(frozen=True)
class Method:
    """All that decides what becomes of a file: the secret of the pseudonyms, and the profile."""

    secret: SecretBytes
    profile: Profile

    def engine(self) -> Deidentifier:
        """Return a de-identifier for this process."""
        return Deidentifier(self.secret, self.profile)


class Cleaners:
    """``count`` worker processes behind one call that any thread may make. Use it in a ``with``."""

    def __init__(self, method: Method, count: int) -> None:
        self._method = method
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        self._is_over = False
        for _ in range(count):
            self._idle.put(None)

    def deidentify(self, data: bytes) -> Outcome:
        """De-identify one file in the next worker that is free.

        A worker that ends over it, for want of memory most likely, is replaced; a file that ends
        TRIES of them is quarantined.

        Raises:
            OperatorError: the profile asks for what is not installed.
            StorageError: no worker can be started.
        """
        for _ in range(TRIES):
            with suppress(EOFError):
                return self._tried(data)
        return Quarantined(Reason.FAILED)

    def _tried(self, data: bytes) -> Outcome:
        """De-identify in one worker; raises EOFError if it ends over the file."""
        worker = self._idle.get()
        try:
            worker = worker or self._started()
            _send(worker.stdin, data)
            return _unpacked(_receive(worker.stdout))
        except (OSError, EOFError) as error:
            if worker is not None:
                _end(worker)
            worker = None
            raise EOFError from error
        finally:
            self._idle.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for worker in self._all:
            _end(worker)

    def _started(self) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it is ready: what ends it later is a file's doing."""
        try:
            worker = self._spawned()
            self._all.append(worker)
            profile = self._method.profile.model_dump_json(by_alias=True)
            _send(worker.stdin, encode((self._method.secret.reveal(), profile)))
            _receive(worker.stdout)
        except (OSError, EOFError) as error:
            raise StorageError(
                "no de-identifying process starts; free memory or use fewer --jobs, then run again"
            ) from error
        if self._is_over:
            _end(worker)
            raise StorageError("the de-identifying processes were ended")
        return worker

    def _spawned(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  this very module
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment() | {"OMP_NUM_THREADS": "1"},
        )


def clean_in_order(
    method: Method, sources: Iterable[tuple[Key, bytes]], jobs: int
) -> Iterator[tuple[Key, Outcome]]:
    """De-identify ``sources`` (key, file) and yield (key, outcome) in their order.

    At most ``jobs`` + 2 files are held at once. One job is a process of its own too, unless it is
    to be HERE: a file that ends it takes nothing else with it. An error of ``sources`` is raised
    after the outcomes of all that they gave before it: a network that fails loses nothing.

    Raises:
        StorageError: no worker can be started.
    """
    if jobs == HERE:
        engine = method.engine()
        yield from ((key, engine.deidentify(data)) for key, data in sources)
        return
    waiting: deque[tuple[Key, Future[Outcome]]] = deque()
    failures: list[Exception] = []
    with Cleaners(method, jobs) as cleaners, ThreadPoolExecutor(jobs) as threads:
        try:
            for key, data in _until_failure(sources, failures):
                waiting.append((key, threads.submit(cleaners.deidentify, data)))
                if len(waiting) > jobs + 1:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    for failure in failures:
        raise failure


def useful_jobs(wanted: int, files: int) -> int:
    """Return how many workers to start for so many files; 0 wanted: as many as are worth it."""
    if wanted > 0:
        return max(1, min(wanted, files))
    worth = min(len(os.sched_getaffinity(0)), files // SHARE)
    return HERE if wanted == HERE and worth < 2 else max(1, worth)


def _until_failure(
    sources: Iterable[tuple[Key, bytes]], failures: list[Exception]
) -> Iterator[tuple[Key, bytes]]:
    """Yield ``sources``; what they raise ends them and is put into ``failures``."""
    each = iter(sources)
    while True:
        try:
            source = next(each)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001  raised at the end
            failures.append(error)
            return
        yield source


def _next(waiting: deque[tuple[Key, Future[Outcome]]]) -> tuple[Key, Outcome]:
    key, future = waiting.popleft()
    return key, future.result()


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            with suppress(OSError):  # what was buffered for it is of no use any more
                stream.close()


def _send(stream: IO[bytes] | None, message: bytes) -> None:
    if stream is None:
        raise EOFError
    stream.write(_LENGTH.pack(len(message)))
    stream.write(message)
    stream.flush()


def _receive(stream: IO[bytes] | None) -> bytes:
    header = stream.read(_LENGTH.size) if stream else b""
    if stream is None or len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    message = stream.read(length)
    if len(message) < length:
        raise EOFError
    return message


def _packed(outcome: Outcome) -> bytes:
    if isinstance(outcome, Quarantined):
        return encode((str(outcome.reason),))
    who = outcome.identifiers
    log = b"".join(_LOG_ENTRY.pack(tag, _ACTIONS.index(action)) for tag, action in outcome.log)
    names = (who.patient, who.study, who.series, who.instance)
    return encode((names, outcome.layout, log, outcome.data))


def _unpacked(message: bytes) -> Outcome:
    match decode(message, max_bytes=MAX_PAYLOAD_BYTES):
        case (str(reason),):
            return Quarantined(Reason(reason))
        case ("operator", str(problem)):
            raise OperatorError(problem)
        case (tuple(names), (str(modality), int(rows), int(columns)), bytes(log), bytes(data)):
            actions = tuple((tag, _ACTIONS[index]) for tag, index in _LOG_ENTRY.iter_unpack(log))
            layout = (modality, rows, columns)
            return Cleaned(data, Identifiers(*map(str, names)), layout, actions)
        case _:
            raise MisuseError("a de-identifying process sent a malformed outcome")


def _answer(engine: Deidentifier, data: bytes) -> bytes:
    try:
        return _packed(engine.deidentify(data))
    except OperatorError as error:
        return encode(("operator", str(error)))


def _serve() -> None:
    """The worker's loop: clean what is sent until the parent is gone."""
    forbid_core_dumps()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        match decode(_receive(source), max_bytes=MAX_PAYLOAD_BYTES):
            case (bytes(secret), str(profile)):
                method = Method(SecretBytes(secret), Profile.model_validate_json(profile))
            case _:
                raise MisuseError("a de-identifying process was sent a malformed method")
        engine = method.engine()
        _send(sink, b"")  # ready
        while True:
            _send(sink, _answer(engine, _receive(source)))


if __name__ == "__main__":
    _serve()
