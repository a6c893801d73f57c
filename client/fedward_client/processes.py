"""What a process that sees pixels or keys leaves behind, and what it hands to its children."""

from __future__ import annotations

import os
import resource
import sys


def child_environment() -> dict[str, str]:
    """Return the environment for a child: this one's less our own, which may be the vault's key."""
    inherited = {k: v for k, v in dict(os.environ).items() if not k.startswith("FEDWARD_")}
    return inherited | {"PYTHONPATH": os.pathsep.join(sys.path)}


def forbid_core_dumps() -> None:
    """Keep the memory of this process and of its children out of core dumps, which are files.

    The limit is one byte, not none: Linux hands a dump to a collecting program in spite of a limit
    of zero, and gives it up at a limit of one (fs/coredump.c); in a file neither has room.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = min(hard, 1) if hard != resource.RLIM_INFINITY else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
