"""The privacy budget as people and scripts read it: accounts, debits, forecasts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fedward_client.debit import Debit
from fedward_client.outlook import Guarantee, Outlook, guarantees, outlooks
from fedward_client.policy import ACCOUNTS, AccountCap
from fedward_client.site import Site
from fedward_client.spending import Account, Spent
from fedward_client.studies import StudyRecord
from fedward_common.plan.document import plan_from_canonical
from fedward_common.study import Study
from fedward_common.text import printable


@dataclass
class _Entry:
    """What one study has debited from one account; rounds and attempts by query."""

    study: str
    digest: bytes
    account: str
    rounds: dict[str, int]
    attempts: Counter[str] = field(default_factory=Counter)
    spent: Account = field(default_factory=Account)

    def add(self, debit: Debit) -> None:
        self.attempts[debit.query] += 1
        self.spent = self.spent.plus(*debit.runs)


def accounts_json(site: Site) -> dict[str, Any]:
    """Every account: what was spent, its cap, and what is left."""
    return {name: _record(spent, cap) for name, spent, cap in _accounts(site)}


def account_lines(site: Site) -> tuple[str, ...]:
    """The same for a person, one line an account."""
    return tuple(f"account {name}: {_words(spent, cap)}" for name, spent, cap in _accounts(site))


def entries_json(site: Site) -> list[dict[str, Any]]:
    """Every debited query of every study and account; ``rounds`` null if the plan is not here."""
    return [
        {
            "study": entry.digest.hex(),
            "name": entry.study,
            "account": entry.account,
            "query": query,
            "rounds": entry.rounds.get(query),
            "attempts": attempts,
        }
        for entry in _entries(site)
        for query, attempts in entry.attempts.items()
    ]


def entry_lines(site: Site) -> list[str]:
    """A table: what every study has debited, and what that alone costs; empty without debits."""
    rows: list[tuple[str, ...]] = []
    for entry in _entries(site):
        delta = site.policy.caps.of(entry.account).delta
        alone = [_figure(tally.fixed(delta)) for tally in (entry.spent.server, entry.spent.worst)]
        for query, attempts in entry.attempts.items():
            rounds = str(entry.rounds.get(query, "?"))
            rows.append((entry.study, entry.account, query, rounds, str(attempts), *alone))
            alone = ["", ""]  # once for all queries of the study
    header = ("study", "account", "query", "rounds", "attempts", "epsilon", "worst case")
    return aligned((header, *rows)) if rows else ["nothing was ever debited"]


def outlook_json(item: Outlook) -> dict[str, Any]:
    """An account as it would stand after a plan, and ``before`` it."""
    return {
        **_record(item.after, item.cap),
        "rounds": item.rounds,
        "retries": item.extra,
        "over_the_cap": item.over,
        "before": _record(item.before, item.cap),
    }


def outlook_table(item: Outlook) -> list[str]:
    """The same as a table for a person."""
    header = ("", "", "enforced", "as if fixed in advance", "cap", "left")
    rows = [header]
    moments = zip(guarantees(item.before, item.cap), guarantees(item.after, item.cap), strict=True)
    for before, after in moments:
        rows += [_row(before.name, "so far", before), _row("", "after this plan", after)]
    heading = (
        f"account {item.account}, at delta {item.cap.delta:g}: {item.before.debits} attempts so "
        f"far, this plan adds {item.rounds} and allows {item.extra} retries"
    )
    verdict = [f"account {item.account}: this plan would go over the cap"] if item.over else []
    return [heading, *(f"  {line}" for line in aligned(rows)), *verdict]


def forecast_json(site: Site, study: Study) -> dict[str, Any]:
    """Every account that the study uses, as it would stand after the whole plan."""
    items = outlooks(site.ledger, site.policy.caps, study)
    return {item.account: outlook_json(item) for item in items}


def forecast_lines(site: Site, study: Study) -> tuple[str, ...]:
    """The same for a person, one line an account."""
    return tuple(
        f"account {item.account} after this plan: {_words(item.after, item.cap)}"
        + (": over the cap" if item.over else "")
        for item in outlooks(site.ledger, site.policy.caps, study)
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns stand under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _accounts(site: Site) -> list[tuple[str, Spent, AccountCap]]:
    caps = site.policy.caps
    return [(name, site.ledger.spent(name, caps), caps.of(name)) for name in ACCOUNTS]


def _entries(site: Site) -> list[_Entry]:
    """Debits by study and account, in the order of their first debit."""
    known = {record.digest: record for record in site.studies.all()}
    found: dict[tuple[bytes, str], _Entry] = {}
    for debit in site.ledger.entries():
        key = (debit.study, debit.account)
        if key not in found:
            name, rounds = _described(known.get(debit.study), debit.study)
            found[key] = _Entry(name, debit.study, debit.account, rounds)
        found[key].add(debit)
    return list(found.values())


def _described(record: StudyRecord | None, digest: bytes) -> tuple[str, dict[str, int]]:
    """A study's name and its rounds by query, as far as its plan is here."""
    if record is None:
        return digest.hex()[:16], {}
    plan = plan_from_canonical(record.plan)
    rounds = {
        f"{index}:{query.kind}": getattr(query, "rounds", 1)
        for index, query in enumerate(plan.queries)
    }
    return printable(plan.study.name), rounds


def _record(spent: Spent, cap: AccountCap) -> dict[str, Any]:
    """JSON has no infinity: an epsilon past any bound is null."""
    figures = {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in asdict(spent).items()
    }
    main, worst = guarantees(spent, cap)
    return {
        **figures,
        "cap": cap.epsilon,
        "cap_worst_case": cap.epsilon_worst_case,
        "left": main.left,
        "left_worst_case": worst.left,
    }


def _words(spent: Spent, cap: AccountCap) -> str:
    worst = spent.epsilon_worst_case
    shown = spent.epsilon_worst_case_fixed if worst is None else worst
    limit = "no cap" if cap.epsilon_worst_case is None else f"cap {cap.epsilon_worst_case:g}"
    return (
        f"epsilon {_figure(spent.epsilon)} of {cap.epsilon:g} at delta {spent.delta:g} "
        f"(as if fixed in advance {_figure(spent.epsilon_fixed)}); worst case {_figure(shown)}, "
        f"{limit}; attempts {spent.debits}"
    )


def _row(name: str, moment: str, item: Guarantee) -> tuple[str, str, str, str, str, str]:
    return (
        name,
        moment,
        "-" if item.enforced is None else _figure(item.enforced),
        _figure(item.fixed),
        "none" if item.cap is None else f"{item.cap:g}",
        "-" if item.left is None else _figure(item.left),
    )


def _figure(epsilon: float) -> str:
    return "without bound" if math.isinf(epsilon) else f"{epsilon:.3f}"
