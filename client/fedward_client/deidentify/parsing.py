"""Parsing of a file's bytes, within bounds: a compressed data set may not inflate without limit."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble

from fedward_client.deidentify.container import EXPLICIT_LITTLE_ENDIAN
from fedward_client.deidentify.outcome import Reason, RefusalError

MAX_INFLATED = 1 << 29
"""Bytes of a deflated data set; one kilobyte can claim a thousand times as much."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PREAMBLE = 132
_SHORT = struct.Struct("<HH2sH")
_LONG_VRS = (
    b"OB", b"OW", b"UN", b"SQ", b"UT", b"UC", b"UR", b"OF", b"OD", b"OL", b"OV", b"SV", b"UV",
)  # fmt: skip
_SYNTAX = 0x0010


def parse(source: bytes | Dataset, max_inflated: int = MAX_INFLATED) -> Dataset:
    """Parse a DICOM file; a data set is encoded first, so that both take the same path.

    Raises:
        RefusalError: not DICOM, malformed, truncated, or it inflates beyond ``max_inflated`` bytes.
    """
    try:
        if isinstance(source, Dataset):
            buffer = BytesIO()
            dcmwrite(buffer, source, enforce_file_format=True)
            source = buffer.getvalue()
        parsed = _read(_inflated(source, max_inflated))
    except RefusalError:
        raise
    except InvalidDicomError as error:
        raise RefusalError(Reason.NOT_DICOM) from error
    except (EOFError, zlib.error) as error:
        raise RefusalError(Reason.TRUNCATED) from error
    except Exception as error:  # a parser may raise anything on hostile bytes
        raise RefusalError(Reason.MALFORMED) from error
    if "TransferSyntaxUID" not in parsed.file_meta:
        raise RefusalError(Reason.MALFORMED)
    return parsed


def _read(plain: bytes) -> Dataset:
    """Parse what no longer is deflated: the parser would inflate it without a limit."""
    stream = BytesIO(plain)
    if _DEFLATED in plain:  # unless a value of the data set holds it, the file meta misled us
        read_preamble(stream, force=False)
        if _read_file_meta_info(stream).get("TransferSyntaxUID") == _DEFLATED.decode():
            raise RefusalError(Reason.MALFORMED)
        stream.seek(0)
    return dcmread(stream)


def _inflated(data: bytes, limit: int) -> bytes:
    """Return a deflated file (PS3.5 A.5) as an explicit little-endian one, any other as it is."""
    start, syntax = _data_set_start(data)
    if not syntax:
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(data[start:], limit)
    if inflater.unconsumed_tail:
        raise RefusalError(Reason.TOO_LARGE)
    if not inflater.eof:
        raise RefusalError(Reason.TRUNCATED)
    plain = EXPLICIT_LITTLE_ENDIAN.encode().ljust(len(_DEFLATED), b"\0")
    return data[:syntax] + plain + data[syntax + len(_DEFLATED) : start] + body


def _data_set_start(data: bytes) -> tuple[int, int]:
    """Return where the data set begins and where the deflated syntax stands (0: it is another)."""
    at, syntax = _PREAMBLE, 0
    while at + _SHORT.size <= len(data):
        group, element, vr, length = _SHORT.unpack_from(data, at)
        if group != 2:
            break
        value = at + _SHORT.size
        if vr in _LONG_VRS:
            length = int.from_bytes(data[value : value + 4], "little")
            value += 4
        if element == _SYNTAX and data[value : value + length].strip(b"\0 ") == _DEFLATED:
            syntax = value
        at = value + length
    return at, syntax


@contextmanager
def silence() -> Iterator[None]:
    """Silence the parser: its warnings and its log quote the values that they complain about."""
    logger = logging.getLogger("pydicom")
    was_disabled = logger.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = was_disabled
