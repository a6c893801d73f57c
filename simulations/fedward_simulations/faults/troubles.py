"""What may happen to a deployment besides SIGKILL. Each trouble begins, lasts and is over.

``begin`` returns what ends it, or None where this machine cannot make it.
"""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

from fedward_client.site import VOLATILE
from fedward_simulations.faults.deployment import Deployment, Network
from fedward_simulations.faults.processes import Process
from fedward_simulations.faults.relay import HANG, REFUSE

End = Callable[[], None]

FULL_DISK_BYTES = 4096
"""Offset at which every file of the process ends while its disk is full."""

SLOW_SECONDS = 0.5
SKEW_SECONDS = 3600


def cut_off(network: Network, sites: tuple[str, ...], *, hang: bool) -> End:
    """Nothing passes between these sites and the gateway; connections break or hang."""
    for site in sites:
        network.change(site, cut=HANG if hang else REFUSE)

    def end() -> None:
        for site in sites:
            network.change(site, cut="")

    return end


def slow_down(network: Network, site: str) -> End:
    """Every piece of data of this site comes late."""
    network.change(site, delay=SLOW_SECONDS)
    return lambda: network.change(site, delay=0.0)


def fill_disk(process: Process) -> End | None:
    """No file of this process can grow: SQLite and plain files fail as on a full disk (EFBIG).

    None if the process is gone or may not be touched.
    """
    try:
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL_DISK_BYTES, hard))
    except (OSError, ValueError):
        return None

    def end() -> None:
        if process.alive:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (soft, hard))

    return end


def lock_database(site: Path) -> End:
    """Another program holds the site's database for itself."""
    connection = sqlite3.connect(site / "site.db", timeout=30.0, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")

    def end() -> None:
        connection.execute("ROLLBACK")
        connection.close()

    return end


def set_clock_wrong(deployment: Deployment, site: str) -> End | None:
    """Start this site's daemon with a clock that is an hour ahead; None without a C compiler."""
    library = deployment.made.root / "skew.so"
    source = Path(__file__).with_name("skew.c")
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    command = (compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl")
    subprocess.run(command, check=True)  # noqa: S603
    unit = deployment.daemons[site]
    unit.stop()
    unit.environment = {
        "LD_PRELOAD": str(library),
        "FEDWARD_SKEW_SECONDS": str(SKEW_SECONDS),
    }
    unit.start()

    def end() -> None:
        unit.stop()
        unit.environment = {}
        unit.start()

    return end


def back_up(site: Path, to: Path) -> None:
    """Copy a stopped site as its operator would: all of it but the keys of rounds in flight."""
    shutil.copytree(site, to, ignore=shutil.ignore_patterns(VOLATILE))
    (to / VOLATILE).mkdir()


def exchange(site: Path, other: Path) -> None:
    """Put ``other`` in the place of ``site``, and the other way round."""
    aside = site.with_name(f"{site.name}.aside")
    site.rename(aside)
    other.rename(site)
    aside.rename(other)
