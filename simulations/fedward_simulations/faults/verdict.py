"""After a campaign: what must hold whatever has happened (PROTOCOL B6, G6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedward_client.site import open_site
from fedward_common import progress as folding
from fedward_common.errors import FedwardError, PeerError
from fedward_common.identity import approved_digest
from fedward_common.membership import group_of
from fedward_common.secagg.context import RoundContext
from fedward_common.secagg.parameters import Group
from fedward_common.secagg.transcript import Transcript
from fedward_common.study import Study
from fedward_server.approvals import load_approvals
from fedward_server.checkpoints import load_checkpoint
from fedward_simulations.faults.world import Consortium


@dataclass(frozen=True)
class Check:
    """One thing that must hold: what was found, and what it had to be."""

    name: str
    found: str
    wanted: str
    passed: bool


@dataclass(frozen=True)
class Ran:
    """A finished study as its coordinator's folder holds it."""

    study: Study
    digest: bytes
    group: Group
    history: tuple[Mapping[str, Any], ...]


def examine(
    made: Consortium, addends: set[tuple[str, int]], attempts: int
) -> tuple[list[Check], dict[str, Any]]:
    """Hold the coordinator's sums and every ledger against each other and the recorder.

    ``addends`` is (site, e) of every masked addend that the recorder has seen leave, ``attempts``
    the highest e that the coordinator has begun. Returns the checks and figures.
    """
    study = Study(made.signed.open())
    checkpoint = load_checkpoint(made.study)
    approvals = load_approvals(made.study, study.plan)
    if checkpoint is None or approvals is None:
        return [Check("the study has begun", "no", "yes", passed=False)], {}
    digest = approved_digest(study.plan.digest, approvals)
    ran = Ran(study, digest, group_of(study.plan, approvals, digest), checkpoint.history)
    debits = _debits(made, digest)
    checks = [
        *_sums(made, ran, checkpoint.progress, attempts),
        *_ledgers(ran, debits, addends),
        _chains(made),
    ]
    figures = {
        "attempts": attempts,
        "sums": len(ran.history),
        "addends seen by the recorder": len(addends),
        "debits": {name: sum(counts.values()) for name, counts in debits.items()},
        "contributions": dict(Counter(name for entry in ran.history for name in entry["sites"])),
        "studies finished at the sites": _finished(made, digest),
    }
    return checks, figures


def _sums(made: Consortium, ran: Ran, progress: folding.Progress, attempts: int) -> Iterator[Check]:
    """The study is over within its attempts; every sum counts once and is proven."""
    rounds, limit = ran.study.total_rounds, ran.study.plan.schedule.maximum_attempts
    numbers = [entry["round"] for entry in ran.history]
    used = [entry["e"] for entry in ran.history]
    once = numbers == list(range(1, rounds + 1)) and used == sorted(set(used))
    yield Check("sums published", str(len(numbers)), str(rounds), len(numbers) == rounds)
    yield Check("attempts used", str(attempts), f"<= {limit}", attempts <= limit)
    yield Check("rounds counted twice or out of order", _count(not once), "0", once)
    wrong, folded = 0, folding.begin(ran.study)
    for position, entry in enumerate(ran.history):
        path = made.study / "sums" / f"{position:06d}.u32"
        wrong += not _proven(made, ran, folded, position, int(entry["e"]))
        folded = folding.advance(ran.study, folded, _decoded(ran, position, path.read_bytes()))
    yield Check("sums whose transcript does not verify", str(wrong), "0", not wrong)
    same = folded.encode() == progress.encode()
    yield Check("model is the fold of the published sums", "yes" if same else "no", "yes", same)


def _proven(made: Consortium, ran: Ran, before: folding.Progress, position: int, e: int) -> bool:
    """At least t members have signed for this attempt, on the model of the sums before."""
    path = made.study / "sums" / f"{position:06d}.transcript"
    task, round_number = ran.study.at(position)
    context = RoundContext(e, task.name, round_number, before.public_digest(task))
    try:
        Transcript.decode(path.read_bytes()).verify(ran.group, context)
    except PeerError:
        return False
    return True


def _ledgers(
    ran: Ran, debits: Mapping[str, Counter[int]], addends: set[tuple[str, int]]
) -> Iterator[Check]:
    """The truth rule of B6, and that what was counted was paid for."""
    unpaid = [(site, e) for site, e in addends if debits[site][e] != 1]
    found = ", ".join(f"{site} at {e}" for site, e in sorted(unpaid)) or "0"
    yield Check("addends that left without exactly one debit", found, "0", not unpaid)
    yield Check("addends seen", str(len(addends)), ">= 1", bool(addends))
    double = sum(count > 1 for counts in debits.values() for count in counts.values())
    yield Check("attempts debited twice", str(double), "0", not double)
    counted = {(name, int(entry["e"])) for entry in ran.history for name in entry["sites"]}
    yield Check(
        "contributions that the recorder did not see",
        str(len(counted - addends)),
        "0",
        counted <= addends,
    )


def _debits(made: Consortium, digest: bytes) -> dict[str, Counter[int]]:
    """How often each site has debited each attempt of the study."""
    found = {}
    for name in made.names:
        with open_site(made.site(name)) as site:
            entries = site.ledger.entries()
        found[name] = Counter(entry.e for entry in entries if entry.study == digest)
    return found


def _chains(made: Consortium) -> Check:
    """Every ledger and every log is whole."""
    broken = []
    for name in made.names:
        try:
            with open_site(made.site(name)) as site:
                site.ledger.verify()
                site.audit.verify()
        except FedwardError:
            broken.append(name)
    return Check("ledgers and logs that do not verify", _names(broken), "0", not broken)


def _finished(made: Consortium, digest: bytes) -> int:
    """Sites that hold the last sum, proven."""
    count = 0
    for name in made.names:
        with open_site(made.site(name)) as site:
            count += any(r.digest == digest and r.state == "finished" for r in site.studies.all())
    return count


def _decoded(ran: Ran, position: int, data: bytes) -> Any:
    task, _ = ran.study.at(position)
    return task.ring.decode(np.frombuffer(data, dtype="<u4"))


def _count(wrong: bool) -> str:  # noqa: FBT001
    return "some" if wrong else "0"


def _names(names: list[str]) -> str:
    return ", ".join(names) or "0"
