"""The federation itself: real sites, the real coordinator, real messages, on one machine.

No second implementation of a round lives here. Sites are site folders opened by the production
code, the server is the production coordinator, and between them stands :class:`InMemoryGrid`,
which encodes and decodes every Flower message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from fedward_client import agent
from fedward_client.admission import receive_proposal
from fedward_client.approval import approve_plan
from fedward_client.round import SiteService
from fedward_client.site import Site
from fedward_common import keys
from fedward_common.identity import parse_site_public
from fedward_common.messages import Propose
from fedward_common.plan.sections import Roster, RosterSite
from fedward_common.plan.signing import SignedPlan, sign_plan
from fedward_common.secret import SecretBytes
from fedward_server import app as server_app
from fedward_server.checkpoints import Checkpoint
from fedward_server.coordinator import Coordinator, RoundEvent
from fedward_server.grid_sites import GridSites
from fedward_server.planning import Target, check_draft, draft_plan
from fedward_simulations.grid import InMemoryGrid, bind
from fedward_simulations.randomness import Randomness
from fedward_simulations.scenario import Scenario
from fedward_simulations.sites import Stage

WORKERS = 2
STUDY_ID_BYTES = 16


@dataclass(frozen=True)
class Outcome:
    """A finished federation: the digest it ran under and its last checkpoint."""

    study: bytes
    checkpoint: Checkpoint


def plan_for(
    scenario: Scenario, sites: Sequence[Site], randomness: Randomness, source: str = "scenario"
) -> SignedPlan:
    """Draft the scenario's plan for these sites and sign it as the coordinator.

    Raises:
        PlanError: the scenario's plan is not valid, or its budget is out of reach.
    """
    coordinator = keys.new_key(randomness("coordinator"))
    roster = _roster(sites, coordinator)
    document = plan_document(scenario, roster, randomness("study")(STUDY_ID_BYTES))
    return sign_plan(draft_plan(document, _target(scenario), source), coordinator)


def approve_everywhere(signed: SignedPlan, sites: Sequence[Site], stage: Stage) -> None:
    """Play the operators: verify each other's fingerprints, then approve through the policy."""
    plan = signed.open()
    publics = [site.identity.public() for site in sites]
    for done, site in enumerate(sites):
        stage("approving and preprocessing", done, len(sites))
        for public in publics:
            site.members.confirm(public)
        record = site.studies.by_plan(plan.digest)
        if record is None or record.approval is None:
            receive_proposal(site, Propose(signed.canonical, signed.signature))
            approve_plan(site, plan.digest)


def federate(
    signed: SignedPlan,
    sites: Sequence[Site],
    folder: Path,
    on_round: Callable[[RoundEvent], None],
) -> Outcome:
    """Run the signed plan to its end through ServerApp, ClientApp and the in-memory grid."""
    services = {index + 1: SiteService(site) for index, site in enumerate(sites)}
    client = agent.make_app(lambda context: services[context.node_id])
    grid = InMemoryGrid({node: bind(client, _context(node)) for node in services}, workers=WORKERS)
    finished: list[Outcome] = []

    def run(grid: Grid, _: Context) -> None:
        connected = GridSites(grid, signed.open().roster.sites)
        coordinator = Coordinator(signed, connected, folder, on_round=on_round)
        checkpoint = coordinator.run()
        finished.append(Outcome(coordinator.digest, checkpoint))

    try:
        server_app.make_app(run)(grid, _context(0))
    finally:
        grid.close()
    return finished[0]


def check_scenario(scenario: Scenario, source: str) -> None:
    """Refuse a scenario whose plan cannot be drafted, before anything is made for it.

    Raises:
        PlanError: every defect found, each with its field, value and remedy.
    """
    stand_ins = [
        RosterSite(name=f"site-{n:02d}", identity=f"{n:064x}") for n in range(scenario.data.sites)
    ]
    roster = Roster(coordinator="0" * 64, sites=tuple(stand_ins))
    check_draft(plan_document(scenario, roster, bytes(STUDY_ID_BYTES)), _target(scenario), source)


def plan_document(scenario: Scenario, roster: Roster, study_id: bytes) -> dict[str, Any]:
    """The scenario's plan sections, completed with what only a simulation decides."""
    sections = dict(scenario.plan)
    t_min = scenario.federation.t_min
    return {
        **sections,
        "study": {"id": study_id.hex(), **sections.get("study", {})},
        "roster": roster.model_dump(mode="json"),
        "privacy": {"delta": scenario.budget.delta, **sections.get("privacy", {})},
        "secagg": {
            "t_min": len(roster.sites) if t_min is None else t_min,
            "colluding": scenario.federation.colluding,
            "unsafe_for_simulation": scenario.federation.colluding == 0,
        },
        "schedule": {"maximum_attempts": _rounds(sections), **sections.get("schedule", {})},
        "model": {"init_seed": scenario.seed, **sections.get("model", {})},
    }


def _roster(sites: Sequence[Site], coordinator: SecretBytes) -> Roster:
    publics = [parse_site_public(site.identity.public().to_text()) for site in sites]
    members = tuple(
        RosterSite(name=p.name, identity=p.identity.hex(), transport=p.transport.hex())
        for p in publics
    )
    return Roster(coordinator=keys.signing_public(coordinator).hex(), sites=members)


def _target(scenario: Scenario) -> Target:
    return Target(scenario.budget.epsilon, scenario.budget.patients_per_site)


def _rounds(sections: Mapping[str, Any]) -> int:
    """The plan's rounds, as far as they are numbers: the plan's own check names what is not."""
    found = [query.get("rounds", 1) for query in sections.get("queries", ())]
    return max(1, sum(rounds for rounds in found if isinstance(rounds, int)))


def _context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
