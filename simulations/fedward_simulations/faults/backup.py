"""One site is restored from an old backup in mid-study: its witnesses must refuse it (B6)."""

from __future__ import annotations

import shutil
import time

from fedward_client.site import open_site
from fedward_server.checkpoints import PENDING
from fedward_simulations.faults.deployment import Deployment
from fedward_simulations.faults.troubles import back_up, exchange

SUMS_BETWEEN = 3
"""Sums that are published between the backup and its restoration."""

REFUSAL = "trains no more"
"""What the site tells its operator."""

LONGEST_SECONDS = 300.0
PUBLISH_SECONDS = 3.0


class RestoredBackup:
    """Stops a site, copies it, starts it; later runs the copy in its place until it is refused."""

    def __init__(self, deployment: Deployment, site: str) -> None:
        self.site = site
        self.away = False
        self.refused = False
        self.debits_before = self.debits_after = 0
        self.tries = 0
        self._deployment = deployment
        self._folder = deployment.made.site(site)
        self._copy = self._folder.with_name(f"{site}.backup")
        self._unit = deployment.daemons[site]
        self._unit.stop()
        back_up(self._folder, self._copy)
        self._unit.start()
        self._position = len(deployment.history)
        self._since = 0.0
        self._seen = 0
        self._done = False

    def tick(self) -> None:
        """Go on with it, as the study goes on."""
        if self._done:
            return
        if not self.away:
            if len(self._deployment.history) >= self._position + SUMS_BETWEEN:
                self._put_back()
            return
        self.refused = self.refused or REFUSAL in self._deployment.log(self.site)[self._seen :]
        waited = time.monotonic() - self._since
        if (self.refused and waited > PUBLISH_SECONDS) or waited > LONGEST_SECONDS:
            self.finish()

    def finish(self) -> None:
        """Put the site's own folder back, for good."""
        self._done = True
        if self.away:
            self._unit.stop()
            exchange(self._folder, self._copy)
            self._unit.start()
            self.away = False
            with open_site(self._copy) as site:
                self.debits_after = site.ledger.head().length

    def _put_back(self) -> None:
        """Not while a sum waits for the shares of all: that one sum could never be opened (A3.4).

        The operator of a site cannot know; the campaign looks, so that what it shows is the refusal
        and not a study that is over.
        """
        self._unit.stop()
        if self._shares_awaited():
            self.tries += 1
            self._unit.start()
            self._position = len(self._deployment.history) - SUMS_BETWEEN + 1
            return
        self._seen = len(self._deployment.log(self.site))
        exchange(self._folder, self._copy)
        shutil.rmtree(self._folder / "volatile", ignore_errors=True)
        (self._folder / "volatile").mkdir()
        with open_site(self._folder) as site:
            self.debits_before = site.ledger.head().length
        self.away, self._since = True, time.monotonic()
        self._unit.start()

    def _shares_awaited(self) -> bool:
        """Whether a step 4 that has begun is not over."""
        path = self._deployment.made.study / PENDING
        if not path.exists():
            return False
        history = self._deployment.history
        done = int(history[-1]["e"]) if history else 0
        following = int.from_bytes(path.read_bytes()[:8], "big")  # e + 1, or 0 after the last
        return following == 0 or following - 1 > done
