"""The most memory that a function holds, in a process of its own.

``tracemalloc`` does not see what torch allocates; the kernel does (proc(5), VmHWM and VmRSS).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_peak(
    prepare: Callable[[], Callable[[], object]], preload: Sequence[str] = ()
) -> int | None:
    """Return the most bytes held during ``prepare()()`` beyond those held after ``prepare()``.

    Args:
        prepare: Called in the other process, so it must be picklable.
        preload: Modules that the process has imported before, to save their time.

    None where the kernel does not tell.
    """
    if not _STATUS.exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, prepare), daemon=True)
    process.start()
    theirs.close()
    try:
        peak: int = ours.recv()
    finally:
        ours.close()
        process.join()
    return peak


def _measure(connection: Connection, prepare: Callable[[], Callable[[], object]]) -> None:
    run = prepare()
    before = _kilobytes("VmRSS")
    run()
    connection.send(1024 * max(0, _kilobytes("VmHWM") - before))


def _kilobytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0
