"""docs/operations.md as a program: its marked blocks, run in order on machines that are folders.

    python -m tests.operations FOLDER

runs them and prints, as JSON, every block with its seconds, and the CPU time of all processes that
they started, daemons included.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "operations.md"
MACHINES = ("server", "north", "south", "east")
POST = "post"
BLOCK = re.compile(r"^```sh (?P<where>[a-z ]+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK_SECONDS = 900.0
END_SECONDS = 60.0
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Block:
    """Commands for one machine, as they stand in the document."""

    line: int
    machine: str
    code: str


@dataclass(frozen=True)
class Ran:
    """How a block ended."""

    line: int
    machine: str
    seconds: float
    status: int
    out: str


class TranscriptError(Exception):
    """A block failed: its machine, place and output."""


def blocks(text: str) -> list[Block]:
    """The marked blocks in order; one for several machines is run on each of them in turn."""
    found = []
    for match in BLOCK.finditer(text):
        line = text[: match.start()].count("\n") + 2
        for machine in match["where"].split():
            if machine not in (*MACHINES, POST):
                raise TranscriptError(f"line {line}: no machine is called {machine}")
            found.append(Block(line, machine, match["code"]))
    return found


def free_pair() -> int:
    """A port of loopback that is free, as is the one after it (the operator's port)."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def play(folder: Path, *, text: str | None = None) -> list[Ran]:
    """Run the whole transcript below ``folder``.

    Raises:
        TranscriptError: a block has failed; what was started is ended.
    """
    for machine in MACHINES:
        (folder / machine).mkdir(parents=True)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("FEDWARD_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GATEWAY": f"localhost:{free_pair()}",
        "OMP_NUM_THREADS": "1",
    }
    done = []
    try:
        for block in blocks(DOCUMENT.read_text("utf-8") if text is None else text):
            done.append(_run(block, folder, environment))
            if done[-1].status:
                raise TranscriptError(
                    f"docs/operations.md, line {block.line}, on {block.machine}: status "
                    f"{done[-1].status}\n{done[-1].out[-2000:]}\n{_logs(folder)}"
                )
    finally:
        _end(folder)
    return done


def _run(block: Block, folder: Path, environment: dict[str, str]) -> Ran:
    place = folder if block.machine == POST else folder / block.machine
    started = time.monotonic()
    with (place / "block.out").open("w+b") as out:  # a daemon may hold it open: no pipe
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        out.seek(0)
        text = out.read().decode("utf-8", "replace")
    seconds = round(time.monotonic() - started, 2)
    return Ran(block.line, block.machine, seconds, done.returncode, text)


def _logs(folder: Path) -> str:
    """The end of what the daemons said."""
    return "\n".join(
        f"--- {path.name}\n{path.read_text('utf-8', 'replace')[-1500:]}"
        for path in folder.glob("*/*.log")
    )


def _end(folder: Path) -> None:
    """Wait for daemons that were told to stop; end those that were not."""
    end = time.monotonic() + END_SECONDS
    for path in folder.glob("*/*.pid"):
        pid = int(path.read_text())
        while _alive(pid) and time.monotonic() < end:
            time.sleep(0.2)
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def measured(folder: Path) -> dict[str, Any]:
    """Play it and count the CPU time of every process that it started, however it was started."""
    # The daemons' shells end before them: this process reaps the orphans, and so counts them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    started = time.monotonic()
    done = play(folder)
    seconds = time.monotonic() - started
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "blocks": [asdict(ran) for ran in done],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    }


if __name__ == "__main__":
    json.dump(measured(Path(sys.argv[1])), sys.stdout)
