"""Several hospitals' daemons in one process: a thread, a site and a connection of its own for each.

    python -m fedward_simulations.bench.deployment.daemons SITE...

Fifty processes would each load torch; what a round costs server and network is the same.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from fedward_client.daemon.log import log_to_stderr
from fedward_client.daemon.loop import Daemon
from fedward_client.daemon.serve import daemon_of
from fedward_client.serving import claim
from fedward_client.site import open_site


def serve(folder: Path, started: list[Daemon]) -> None:
    """Serve one site until its daemon is stopped."""
    with open_site(folder) as site, claim(folder):
        daemon = daemon_of(site)
        started.append(daemon)
        daemon.run()


def main() -> None:
    """Serve all sites named until SIGTERM."""
    log_to_stderr()
    started: list[Daemon] = []
    folders = [Path(name).resolve() for name in sys.argv[1:]]
    threads = [threading.Thread(target=serve, args=(folder, started)) for folder in folders]
    for thread in threads:
        thread.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for daemon in started:
        daemon.stop()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
