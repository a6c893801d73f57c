"""What a plan would cost this site's accounts, before anyone approves it (B5, B6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedward_client.ledger import Ledger
from fedward_client.policy import AccountCap, Caps
from fedward_client.spending import Spent
from fedward_common.guarantee import accounts_of
from fedward_common.privacy.parameters import MechanismParameters
from fedward_common.study import Study


@dataclass(frozen=True)
class Guarantee:
    """One of B4's two guarantees: its epsilons at one moment, and its cap.

    Attributes:
        name: 'epsilon' (i) or 'worst case' (ii).
        enforced: epsilon as the cap's filter counts it; None where nothing is capped.
        fixed: epsilon as if every parameter had been fixed in advance.
        cap: None: not capped.
    """

    name: str
    enforced: float | None
    fixed: float
    cap: float | None

    @property
    def left(self) -> float | None:
        """What may still be spent; None without a cap."""
        if self.cap is None or self.enforced is None:
            return None
        return max(0.0, self.cap - self.enforced)

    @property
    def over(self) -> bool:
        """Whether the cap is passed."""
        return self.cap is not None and self.enforced is not None and self.enforced > self.cap


def guarantees(spent: Spent, cap: AccountCap) -> tuple[Guarantee, Guarantee]:
    """Both guarantees of an account."""
    return (
        Guarantee("epsilon", spent.epsilon, spent.epsilon_fixed, cap.epsilon),
        Guarantee(
            "worst case",
            spent.epsilon_worst_case,
            spent.epsilon_worst_case_fixed,
            cap.epsilon_worst_case,
        ),
    )


@dataclass(frozen=True)
class Outlook:
    """One account before and after a plan of ``rounds`` sums on it and ``extra`` retries.

    Every attempt that the plan allows is counted, because no debit is ever refunded.
    """

    account: str
    cap: AccountCap
    queries: Sequence[MechanismParameters]
    rounds: int
    extra: int
    before: Spent
    after: Spent

    @property
    def over(self) -> bool:
        """Whether the plan would pass a cap on its way."""
        return any(item.over for item in guarantees(self.after, self.cap))


def outlooks(ledger: Ledger, caps: Caps, study: Study) -> Iterator[Outlook]:
    """Every account that the study uses; takes a second or two each."""
    extra = study.plan.schedule.maximum_attempts - study.total_rounds
    for account, queries in accounts_of(study).items():
        if queries:
            yield Outlook(
                account=account,
                cap=caps.of(account),
                queries=tuple(queries),
                rounds=sum(query.rounds for query in queries),
                extra=extra,
                before=ledger.spent(account, caps),
                after=ledger.forecast(account, queries, extra, caps),
            )
