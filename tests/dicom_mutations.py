"""Mutations of DICOM files: bytes, lengths, VRs, cuts, and nested sequences with planted tokens."""

from __future__ import annotations

import random
import re
import struct

import pydicom
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.dicom_cases import FILES, TOKEN, encoded

MAX_SOURCE = 300_000
_VRS = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR "
    b"US UT UV"
).split()
_HEADERS = re.compile(rb"(?s)(?=[\x08-\x54\xe0]\x00..(?:" + b"|".join(_VRS) + rb"))")
_LENGTHS = (0, 1, 2, 8, 0x7F, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_SEQUENCES = (0x00082218, 0x00289110, 0x52009229, 0x00400555, 0x00283010, 0x0040A730, 0x00081140)
_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")


def sources():
    """pydicom's own files of moderate size, by name, each with tokens wherever text may stand."""
    found = {}
    for path in sorted(FILES.rglob("*.dcm")):
        if path.stat().st_size > MAX_SOURCE:
            continue
        found[path.name] = path.read_bytes()
        try:
            found[f"{path.name}, planted"] = planted(pydicom.dcmread(path))
        except Exception:  # noqa: BLE001  some of them are broken on purpose
            continue
    return found


def planted(ds):
    """Return the file of ``ds`` with tokens in its header, private tags, sequences and tail."""
    with config.disable_value_validation():
        ds.PatientName, ds.PatientComments, ds.StationName = TOKEN, TOKEN, TOKEN
        ds.StudyDescription, ds.ImageComments, ds.BodyPartExamined = TOKEN, TOKEN, TOKEN
        ds.AcquisitionMatrix = list(struct.unpack("<4H", TOKEN.encode()))
        ds.TableSpeed = struct.unpack("<d", TOKEN.encode())[0]
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
        ds.private_block(0x0029, TOKEN, create=True).add_new(1, "UN", TOKEN.encode())
        item = Dataset()
        item.PatientName, item.CodeMeaning, item.TextValue = TOKEN, TOKEN, TOKEN
        for tag in _SEQUENCES:
            ds.add_new(tag, "SQ", Sequence([item]))
        ds.add_new(0xFFFCFFFC, "OB", TOKEN.encode())
        ds.preamble = TOKEN.encode() * 16
        ds.file_meta.SourceApplicationEntityTitle = TOKEN
        return encoded(ds)


class DicomMutator:
    """Makes damaged files out of ``files``; the same seed makes the same files."""

    def __init__(self, files, seed):
        self._files = list(files.items())
        self._random = random.Random(seed)
        self._ways = (
            self._flip, self._flip, self._cut, self._length, self._length, self._vr, self._vr,
            self._nest, self._plant, self._move,
        )  # fmt: skip

    def file(self):
        """Return a name and the bytes of a file with one to four mutations."""
        name, data = self._random.choice(self._files)
        for _ in range(self._random.choice((1, 1, 2, 4))):
            data = self._random.choice(self._ways)(data or b"\0")
        return name, data

    def _header_end(self, data):
        ends = [at for mark in _PIXELS if (at := data.find(mark)) > 0]
        return min(ends, default=len(data))

    def _at(self, data):
        """A place in the header, mostly at the start of an element."""
        end = max(1, self._header_end(data))
        if self._random.random() < 0.7:
            places = [m.start() for m in _HEADERS.finditer(data, 132, end)]
            if places:
                return self._random.choice(places)
        return self._random.randrange(end)

    def _flip(self, data):
        out = bytearray(data)
        end = max(1, self._header_end(data))
        for _ in range(self._random.choice((1, 2, 8, 64))):
            out[self._random.randrange(end)] ^= 1 << self._random.randrange(8)
        return bytes(out)

    def _cut(self, data):
        if self._random.random() < 0.5:
            return data[: self._random.randrange(1, len(data) + 1)]
        start = self._at(data)
        return data[:start] + data[start + self._random.choice((1, 2, 8, 100)) :]

    def _length(self, data):
        at, out = self._at(data), bytearray(data)
        value = self._random.choice((*_LENGTHS, self._random.randrange(1 << 16)))
        form = self._random.choice(("<H", "<I"))
        place = at + self._random.choice((4, 6, 8))
        out[place : place + struct.calcsize(form)] = struct.pack(
            form, value % (1 << 8 * struct.calcsize(form))
        )
        return bytes(out)

    def _vr(self, data):
        at, out = self._at(data), bytearray(data)
        out[at + 4 : at + 6] = self._random.choice(_VRS)
        return bytes(out)

    def _plant(self, data):
        at = self._at(data) + self._random.choice((0, 8, 12))
        token = TOKEN.encode()
        return data[:at] + token + data[at + self._random.choice((0, len(token))) :]

    def _move(self, data):
        start, to = sorted((self._at(data), self._at(data)))
        chunk = data[start : start + self._random.choice((8, 32, 200))]
        return data[:to] + chunk + data[to:]

    def _nest(self, data):
        """Insert sequences within each other, of defined or undefined length, around a token."""
        body = b"\x10\x00\x10\x00PN\x08\x00" + TOKEN.encode()
        depth = self._random.choice((1, 3, 9, 60, 600))
        undefined = self._random.random() < 0.5
        for _ in range(depth):
            tag = self._random.choice(_SEQUENCES)
            head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"SQ\0\0"
            if undefined:
                item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + body + b"\xfe\xff\x0d\xe0\0\0\0\0"
                body = head + b"\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
            else:
                item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(body)) + body
                body = head + struct.pack("<I", len(item)) + item
        at = self._at(data)
        return data[:at] + body + data[at:]
