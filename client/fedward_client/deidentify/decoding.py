"""Decoding of pixel data; whatever is compressed, in a process of its own.

Decoders are native code, and on damaged streams some of them end the whole process (found by
fuzzing: GDCM aborts, pylibjpeg-rle panics). So a child decodes, which may die or hang: it takes
only the file at hand with it. It starts when first needed and ends when its standard input closes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder

from fedward_client.deidentify.outcome import Reason, RefusalError
from fedward_client.processes import child_environment, forbid_core_dumps
from fedward_common.codec import decode, encode

PIXEL_DATA = 0x7FE00010
TIMEOUT_SECONDS = 120.0
MAX_MESSAGE_BYTES = (1 << 32) - 1
NATIVE_LITTLE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")
NATIVE = (*NATIVE_LITTLE, "1.2.840.10008.1.2.2")
"""Transfer syntaxes without compressed pixels: implicit, explicit, deflated; big-endian."""

_LENGTH_BYTES = 8

Image = NDArray[Any]


@dataclass(frozen=True)
class Encoded:
    """Pixel data as a file holds it, with the attributes that describe it (PS3.3 C.7.6.3)."""

    syntax: str
    vr: str
    photometric: str
    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    planar: bool
    raw: bytes


def decode_pixels(encoded: Encoded) -> tuple[Image, int]:
    """Return the decoded array, YBR converted to RGB, and how many bits of a value are used.

    Raises:
        RefusalError: the pixels cannot be decoded, or not with the time and memory there is.
    """
    try:
        if encoded.syntax in NATIVE:
            return _decode_here(encoded)
        return _WORKER.decode(encoded)
    except RefusalError:
        raise
    except MemoryError as error:
        raise RefusalError(Reason.EXHAUSTED) from error
    except Exception as error:  # decoders raise whatever they like on hostile bytes
        raise RefusalError(Reason.UNDECODABLE_PIXELS) from error


def _decode_here(encoded: Encoded) -> tuple[Image, int]:
    bare = describe(encoded)
    bare.add_new(PIXEL_DATA, encoded.vr, encoded.raw)
    array, facts = get_decoder(encoded.syntax).as_array(bare)
    return array, int(facts["bits_stored"])


def describe(encoded: Encoded) -> Dataset:
    """Return a data set that holds the description of the pixels, and nothing of the patient."""
    bare = Dataset()
    bare.SamplesPerPixel, bare.PhotometricInterpretation = encoded.samples, encoded.photometric
    bare.Rows, bare.Columns, bare.NumberOfFrames = encoded.rows, encoded.columns, encoded.frames
    bare.BitsAllocated, bare.BitsStored = encoded.allocated, encoded.stored
    bare.HighBit, bare.PixelRepresentation = encoded.stored - 1, int(encoded.signed)
    if encoded.samples > 1:
        bare.PlanarConfiguration = int(encoded.planar)
    return bare


class _Worker:
    """The child process, one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def decode(self, encoded: Encoded) -> tuple[Image, int]:
        with self._lock:
            child = self._running()
            watchdog = threading.Timer(TIMEOUT_SECONDS, child.kill)
            watchdog.start()
            try:
                reply = _ask(child, encode(astuple(encoded)))
            except (OSError, EOFError) as error:
                child.kill()
                self._child = None
                if child.wait() == -signal.SIGKILL:  # the watchdog, or the kernel out of memory
                    raise RefusalError(Reason.EXHAUSTED) from error
                raise
            finally:
                watchdog.cancel()
        return _from_reply(reply)

    def _running(self) -> subprocess.Popen[bytes]:
        """Start the child, again after a fork: pipes cannot be shared between two parents."""
        ours = self._child is not None and self._owner == os.getpid()
        if self._child is None or not ours or self._child.poll() is not None:
            self._owner = os.getpid()
            self._child = subprocess.Popen(  # noqa: S603  this very module
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
            )
        return self._child


_WORKER = _Worker()


def _ask(child: subprocess.Popen[bytes], request: bytes) -> bytes:
    if child.stdin is None or child.stdout is None:
        raise EOFError
    _send(child.stdin, request)
    return _receive(child.stdout)


def _send(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(_LENGTH_BYTES, "big"))
    stream.write(message)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    header = stream.read(_LENGTH_BYTES)
    length = int.from_bytes(header, "big")
    message = stream.read(length)
    if len(header) < _LENGTH_BYTES or len(message) < length:
        raise EOFError
    return message


def _from_reply(reply: bytes) -> tuple[Image, int]:
    match decode(reply, max_bytes=MAX_MESSAGE_BYTES):
        case (tuple(shape), str(kind), int(bits), bytes(data)):
            return np.frombuffer(data, kind).reshape([int(str(n)) for n in shape]), bits
        case ("exhausted",):
            raise RefusalError(Reason.EXHAUSTED)
        case _:
            raise RefusalError(Reason.UNDECODABLE_PIXELS)


def _answer(request: bytes) -> bytes:
    """Decode one request in the child; an empty tuple says that it cannot be."""
    try:
        array, bits = _decode_here(Encoded(*decode(request, max_bytes=MAX_MESSAGE_BYTES)))  # type: ignore[misc]
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
        return encode((little.shape, little.dtype.str, bits, little.tobytes()))
    except MemoryError:
        return encode(("exhausted",))
    except Exception:  # noqa: BLE001  decoders raise whatever they like on hostile bytes
        return encode(())


def _serve() -> None:
    """The child's loop: decode what is asked until the parent is gone."""
    forbid_core_dumps()  # decoders do crash
    with suppress(EOFError, BrokenPipeError):
        while True:
            _send(sys.stdout.buffer, _answer(_receive(sys.stdin.buffer)))


if __name__ == "__main__":
    _serve()
