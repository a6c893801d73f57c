"""Commands on the privacy budget and on the two chains that prove what happened."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward_client.cli.options import DEFAULT_SITE, JsonOption, SiteOption, tell, tell_json

if TYPE_CHECKING:
    from fedward_client.chain import Head
    from fedward_client.policy import AccountCap
    from fedward_client.site import Site
    from fedward_client.spending import Spent
    from fedward_common.study import Study


def show(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Show what was spent, against the caps.

    Example: fedward-client ledger show
    """
    from fedward_client.site import open_site

    with open_site(site) as opened:
        spent = Counter(
            (debit.account, debit.study.hex(), debit.query) for debit in opened.ledger.entries()
        )
        if as_json:
            debits = [
                {"account": account, "study": study, "query": query, "attempts": attempts}
                for (account, study, query), attempts in spent.items()
            ]
            tell_json({"accounts": accounts_json(opened), "debits": debits})
            return
        tell(account_lines(opened))
        for (account, study, query), attempts in spent.items():
            tell((f"  {account}: study {study[:16]}, query {query}, attempts {attempts}",))


def verify(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Recompute the ledger's hash chain.

    Example: fedward-client ledger verify
    """
    from fedward_client.site import open_site

    with open_site(site) as opened:
        _tell_heads({"ledger": opened.ledger.verify()}, as_json=as_json)


def verify_log(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Recompute the chains of ledger and log.

    Example: fedward-client audit verify
    """
    from fedward_client.site import open_site

    with open_site(site) as opened:
        heads = {"ledger": opened.ledger.verify(), "audit": opened.audit.verify()}
        _tell_heads(heads, as_json=as_json)


def forecast(
    plan: Annotated[Path, typer.Argument(help="A plan, signed or not.")],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Show the accounts as they would stand after a plan.

    All the attempts that the plan allows are counted, because no debit is ever refunded.

    Example: fedward-client ledger forecast study.plan
    """
    from fedward_client.site import open_site
    from fedward_common.plan.files import read_plan
    from fedward_common.study import Study

    study = Study(read_plan(plan), str(plan))
    with open_site(site) as opened:
        if as_json:
            tell_json(forecast_json(opened, study))
        else:
            tell(forecast_lines(opened, study))


def accounts_json(site: Site) -> dict[str, Any]:
    """Every account: what was spent, and its cap."""
    return {name: _record(spent, cap) for name, spent, cap in _accounts(site)}


def account_lines(site: Site) -> tuple[str, ...]:
    """The same for a person, one line an account."""
    return tuple(f"account {name}: {_words(spent, cap)}" for name, spent, cap in _accounts(site))


def forecast_json(site: Site, study: Study) -> dict[str, Any]:
    """Every account that the study uses, as it would stand after the whole plan."""
    return {name: _record(after, cap) for name, after, cap in _after(site, study)}


def forecast_lines(site: Site, study: Study) -> tuple[str, ...]:
    """The same for a person, one line an account."""
    return tuple(
        f"account {name} after this plan: {_words(after, cap)}" + _verdict(after, cap)
        for name, after, cap in _after(site, study)
    )


def _accounts(site: Site) -> list[tuple[str, Spent, AccountCap]]:
    from fedward_client.policy import ACCOUNTS

    caps = site.policy.caps
    return [(name, site.ledger.spent(name, caps), caps.of(name)) for name in ACCOUNTS]


def _after(site: Site, study: Study) -> list[tuple[str, Spent, AccountCap]]:
    from fedward_common.guarantee import accounts_of

    caps = site.policy.caps
    extra = study.plan.schedule.maximum_attempts - study.total_rounds
    return [
        (name, site.ledger.forecast(name, queries, extra, caps), caps.of(name))
        for name, queries in accounts_of(study).items()
        if queries
    ]


def _record(spent: Spent, cap: AccountCap) -> dict[str, Any]:
    """JSON has no infinity: an epsilon past any bound is null."""
    figures = {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in asdict(spent).items()
    }
    return {**figures, "cap": cap.epsilon, "cap_worst_case": cap.epsilon_worst_case}


def _words(spent: Spent, cap: AccountCap) -> str:
    worst = spent.epsilon_worst_case
    shown = spent.epsilon_worst_case_fixed if worst is None else worst
    limit = "no cap" if cap.epsilon_worst_case is None else f"cap {cap.epsilon_worst_case:g}"
    return (
        f"epsilon {_figure(spent.epsilon)} of {cap.epsilon:g} at delta {spent.delta:g} "
        f"(as if fixed in advance {_figure(spent.epsilon_fixed)}); worst case {_figure(shown)}, "
        f"{limit}; attempts {spent.debits}"
    )


def _verdict(after: Spent, cap: AccountCap) -> str:
    worst, limit = after.epsilon_worst_case, cap.epsilon_worst_case
    over = after.epsilon > cap.epsilon or (
        worst is not None and limit is not None and worst > limit
    )
    return ": over the cap" if over else ""


def _figure(epsilon: float) -> str:
    return "without bound" if math.isinf(epsilon) else f"{epsilon:.3f}"


def _tell_heads(heads: dict[str, Head], *, as_json: bool) -> None:
    if as_json:
        tell_json({n: {"entries": h.length, "head": h.hash.hex()} for n, h in heads.items()})
        return
    tell(f"{name}: {head.length} entries, head {head.hash.hex()}" for name, head in heads.items())
