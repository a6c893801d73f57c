"""Start a program that dies with its parent: ``python -m fedward_server.bound PROGRAM...``.

The kernel kills the program when the supervisor is gone, however it went (prctl(2),
PR_SET_PDEATHSIG): no orphan keeps a port or a lock. The setting survives execve(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when ``parent``, which started it, ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)


def main() -> None:
    """Bind to the parent named first and become the program named after it."""
    parent, *program = sys.argv[1:]
    die_with_parent(int(parent))
    os.execvp(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main()
