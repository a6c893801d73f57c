"""A hospital's daemon whose randomness is a seed's: a test build, which no wheel holds.

    python -m tests.seeded_daemon SITE SEED

It passes its randomness to the composition that ``fedward-client run`` uses; there is no other
difference.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from fedward_client.daemon.log import log_to_stderr
from fedward_client.daemon.serve import daemon_of
from fedward_client.serving import claim
from fedward_client.site import Randomness, open_site
from fedward_simulations.randomness import Randomness as SeededRandomness


def randomness_of(name: str, seed: int) -> Randomness:
    """The streams of one site, as a simulation's sites have them."""
    source = SeededRandomness(seed)
    return lambda *label: source(name, *label)


def main() -> None:
    folder, seed = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    log_to_stderr()
    with open_site(folder, randomness=randomness_of(folder.name, seed)) as site, claim(folder):
        daemon = daemon_of(site)
        signal.signal(signal.SIGTERM, lambda *_: daemon.stop())
        daemon.run()


if __name__ == "__main__":
    main()
