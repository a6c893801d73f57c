"""``bench deid``: CPU seconds to de-identify CT slices, beside what others spend on the same files.

The slices are pydicom's own CT, with its real header, enlarged to 512 x 512. Every contender cleans
every block of them in turn, so that a change of pace of the machine meets all; a figure is the
median over the blocks. Growth and memory are measured in processes of their own.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from scipy.ndimage import zoom

from fedward_client.deidentify.release import release_folder
from fedward_client.deidentify.workers import Method
from fedward_common.errors import MisuseError, OperatorError
from fedward_common.secret import SecretBytes
from fedward_simulations.bench.deidentifiers import (
    COPY,
    EXTRA,
    HEADER,
    PEERS,
    Contender,
    contenders,
    header_profile,
)
from fedward_simulations.bench.versions import version_of

SIDE = 512
BLOCKS = 5
PACKAGES = ("fedward", "pydicom", "numpy", *PEERS)
BAR_SLICES, BAR_ANONYMIZER, BAR_DICOGNITO = 150.0, 2.5, 3.5
"""Slices per CPU second, or as ratios to dicom-anonymizer and to dicognito in the same run."""

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Speed:
    """``slices_per_second`` of CPU, the median of the blocks; or None and the reason."""

    name: str
    slices_per_second: float | None
    reason: str = ""


@dataclass(frozen=True)
class Growth:
    """One release of ``slices`` files by one job: CPU seconds, and bytes of memory.

    Both are of the program and the process that it has clean the files, together, and beyond what
    a release of one file takes.
    """

    slices: int
    seconds: float
    working_bytes: int


@dataclass(frozen=True)
class Result:
    """All that was measured."""

    slices: int
    speeds: tuple[Speed, ...]
    growth: tuple[Growth, ...]

    def speed(self, name: str) -> float | None:
        """A contender's slices per CPU second."""
        return next((s.slices_per_second for s in self.speeds if s.name == name), None)

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as fast our header path is as each other contender but a bare copy."""
        ours = self.speed(HEADER)
        others = [s for s in self.speeds if s.name not in (HEADER, COPY) and s.slices_per_second]
        return {s.name: (ours or 0.0) / (s.slices_per_second or 1.0) for s in others}

    @property
    def passes(self) -> bool:
        """True if our header path is fast enough, by itself or beside the peers."""
        fast = (self.speed(HEADER) or 0.0) >= BAR_SLICES
        ratios = self.ratios
        return fast or (
            ratios.get("dicom-anonymizer", 0.0) >= BAR_ANONYMIZER
            and ratios.get("dicognito", 0.0) >= BAR_DICOGNITO
        )

    @property
    def document(self) -> dict[str, Any]:
        """What ``--json`` prints: plain values only."""
        return {
            "unit": "512x512 16-bit CT slices per CPU second of one process",
            "versions": {name: version_of(name) for name in PACKAGES},
            "slices": self.slices,
            "speeds": [asdict(speed) for speed in self.speeds],
            "ratios": self.ratios,
            "growth": [asdict(growth) for growth in self.growth],
            "bar": {
                "slices_per_second": BAR_SLICES,
                "or": {"dicom-anonymizer": BAR_ANONYMIZER, "dicognito": BAR_DICOGNITO},
                "passed": self.passes,
            },
        }


def compare(slices: int, *, peers: bool, notice: Notice) -> Result:
    """Measure everyone over ``slices`` files; ``notice`` is told what runs.

    Raises:
        OperatorError: peers are asked for and none is installed.
    """
    everyone = contenders(peers=peers)
    if peers and not any(one.clean for one in everyone if one.name in PEERS):
        raise OperatorError(f"bench deid: no peer is installed; {EXTRA}, or use --no-peers")
    with tempfile.TemporaryDirectory() as scratch:
        notice(f"{slices} slices of {SIDE} x {SIDE}")
        files = make_slices(Path(scratch, "in"), slices)
        blocks = [files[n::BLOCKS] for n in range(min(BLOCKS, slices))]
        seconds: dict[str, list[float]] = {one.name: [] for one in everyone}
        for number, block in enumerate(blocks):
            notice(f"block {number + 1} of {len(blocks)}")
            for one in _turned(everyone, number):
                if one.clean:
                    seconds[one.name].append(_per_slice(one, block, Path(scratch)))
        speeds = tuple(_speed(one, seconds[one.name]) for one in everyone)
        notice("growth and memory")
        sizes = sorted({max(1, slices // part) for part in (4, 2, 1)})
        growth = tuple(measure_growth(files[:size]) for size in sizes)
    return Result(slices, speeds, growth)


def make_slices(folder: Path, count: int) -> list[Path]:
    """Write ``count`` slices of one series, enlarged from pydicom's small CT."""
    source = get_testdata_file("CT_small.dcm")
    if source is None:
        raise MisuseError("bench deid: pydicom comes without its CT")
    slice_ = pydicom.dcmread(str(source))
    enlarged = zoom(slice_.pixel_array, SIDE // slice_.Rows, order=1).astype("<i2")
    slice_.Rows = slice_.Columns = SIDE
    folder.mkdir()
    for number in range(count):
        slice_.InstanceNumber = number + 1
        slice_.SOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        slice_.PixelData = np.roll(enlarged, number, axis=0).tobytes()
        slice_.save_as(folder / f"{number:05}.dcm")
    return sorted(folder.iterdir())


def _turned(everyone: Sequence[Contender], by: int) -> list[Contender]:
    """Another one begins in every block."""
    by %= len(everyone)
    return [*everyone[by:], *everyone[:by]]


def _per_slice(one: Contender, block: Sequence[Path], scratch: Path) -> float:
    """CPU seconds a slice, after one slice that is not counted."""
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        clean = one.clean
        if clean is None:
            raise MisuseError(f"bench deid: {one.name} cannot take part")
        clean(block[0], Path(out, block[0].name))
        begun = time.process_time()
        for file in block:
            clean(file, Path(out, file.name))
        return (time.process_time() - begun) / len(block)


def _speed(one: Contender, seconds: Sequence[float]) -> Speed:
    return Speed(one.name, 1 / statistics.median(seconds) if seconds else None, one.reason)


def measure_growth(files: Sequence[Path]) -> Growth:
    """Release ``files`` in a fresh process, as ``deidentify --jobs 1`` does."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_release, args=(theirs, list(files)), daemon=True)
    process.start()
    theirs.close()
    try:
        seconds, working = ours.recv()
    finally:
        ours.close()
        process.join()
    return Growth(len(files), seconds, working)


def _release(connection: Connection, files: Sequence[Path]) -> None:
    method = Method(SecretBytes(bytes(range(32))), header_profile())
    spent = [_spent()]
    with tempfile.TemporaryDirectory(dir=files[0].parent.parent) as scratch:
        for number, some in enumerate((files[:1], files)):
            chosen = Path(scratch, f"in-{number}")
            chosen.mkdir()
            for file in some:
                (chosen / file.name).hardlink_to(file)
            release_folder(chosen, Path(scratch, f"out-{number}"), method, jobs=1)
            spent.append(_spent())
    (begun, _), (one, resting), (end, peak) = spent
    connection.send((max(0.0, end - one - (one - begun)), peak - resting))


def _spent() -> tuple[float, int]:
    """CPU seconds so far, and the peak of memory in bytes (getrusage(2): in kB), children included.

    Children count once they have ended; of their memory, the largest one's.
    """
    ours, theirs = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = ours.ru_utime + ours.ru_stime + theirs.ru_utime + theirs.ru_stime
    return seconds, (ours.ru_maxrss + theirs.ru_maxrss) * 1024
