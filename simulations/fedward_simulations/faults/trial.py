"""One campaign from empty folders to its verdict."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedward_common.errors import OperatorError
from fedward_common.secagg.parameters import threshold
from fedward_simulations.faults.campaign import (
    KILL,
    OLD_BACKUP,
    OTHERS,
    OUTAGE,
    SHORTEST_ROUNDS,
    Campaign,
    Event,
)
from fedward_simulations.faults.deployment import Deployment, Network, free_ports
from fedward_simulations.faults.processes import marked
from fedward_simulations.faults.verdict import Check, examine
from fedward_simulations.faults.world import TrialPlan, begin, found

DELAY_SECONDS = 3.0
DEADLINE_SECONDS = 30.0
SPARE_ATTEMPTS = 2
"""Attempts that the plan allows beyond its rounds, for each kill and each outage."""

RELEASE_SECONDS = 120.0
"""From the last sum until every site holds it."""


@dataclass(frozen=True)
class Size:
    """How long and how bad."""

    daemons: int
    rounds: int
    kills: int
    outages: int


def trial(size: Size, root: Path, tell: Callable[[Event], None]) -> dict[str, Any]:
    """Run a campaign in the folder ``root``; returns its record for people and programs.

    Raises:
        OperatorError: the folder is in use.
        StorageError: a command has failed, or the study makes no end.
    """
    if root.exists() and any(root.iterdir()):
        raise OperatorError(f"{root}: is not empty; choose a new folder")
    made = found(root, size.daemons, free_ports())
    spare = SPARE_ATTEMPTS * (size.kills + size.outages) + size.rounds
    plan = TrialPlan(
        size.rounds,
        threshold(size.daemons),
        size.rounds + spare,
        DEADLINE_SECONDS,
        DELAY_SECONDS,
    )
    begin(made, plan.toml())
    network = Network(made)
    try:
        with Deployment(made) as deployment:
            campaign = Campaign(
                deployment, network, size.rounds, size.kills, size.outages, tell=tell
            )
            campaign.run()
            _released(deployment)
            attempts, mark = deployment.attempts, deployment.mark
            statuses = {unit.name: unit.stop() for unit in reversed(deployment.units)}
            left = marked(mark)
        addends = network.addends()
    finally:
        network.close()
    checks, figures = examine(made, addends, attempts)
    checks += _of_campaign(campaign, size, statuses, [process.command for process in left])
    return {
        "size": asdict(size),
        "t": plan.t_min,
        "seconds": round(campaign.seconds, 1),
        "checks": [asdict(check) for check in checks],
        "figures": figures | {"restarts": {u.name: u.starts - 1 for u in deployment.units}},
        "skipped": campaign.skipped,
        "events": [asdict(event) for event in campaign.events],
    }


def _released(deployment: Deployment) -> None:
    """Give the coordinator time to hand the last sum to those who lack it."""
    end = time.monotonic() + RELEASE_SECONDS
    while time.monotonic() < end and not deployment.finished:
        deployment.tick()


def _of_campaign(
    campaign: Campaign, size: Size, statuses: dict[str, int], left: list[str]
) -> list[Check]:
    """What was done was done, and nothing is left over."""
    events = campaign.events
    kills = sum(event.kind == KILL for event in events)
    outages = sum(event.kind == OUTAGE for event in events)
    orphans = [*campaign.orphans, *left]
    clean = (0, -signal.SIGTERM)  # as systemd counts: it may come before Python minds signals
    failed = [name for name, status in statuses.items() if status not in clean]
    checks = [
        Check("kills", str(kills), str(size.kills), kills == size.kills),
        Check("outages", str(outages), str(size.outages), outages == size.outages),
        Check("orphans", "; ".join(orphans) or "0", "0", not orphans),
        Check("units that did not drain and end", ", ".join(failed) or "0", "0", not failed),
    ]
    if size.rounds >= SHORTEST_ROUNDS:
        missing = {*OTHERS, OLD_BACKUP} - {event.kind for event in events}
        found = ", ".join(sorted(missing)) or "0"
        checks.append(Check("kinds of trouble that did not happen", found, "0", not missing))
    if (backup := campaign.backup) is not None:
        good = backup.refused and backup.debits_after == backup.debits_before
        found = "refused, nothing debited" if good else "NOT refused"
        checks.append(Check("old backup put back", found, "refused, nothing debited", good))
    return checks
