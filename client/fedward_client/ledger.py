"""The site's privacy ledger: what was ever spent on its patients, and the cap on it (B5, B6).

Two accounts for the site's life, 'train' and 'holdout'. A DEBIT is keyed by (study, e) and never
refunded; check and append happen in one exclusive transaction that is on the disk before a patient
is sampled. The cap is a Rényi filter over adaptively chosen parameters; beside it stands the
figure as if everything had been fixed in advance, which is a little lower.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from fedward_client.chain import HashChain, Head, Record
from fedward_client.database import transaction
from fedward_client.debit import Allowance, Debit, decode_debit
from fedward_client.policy import ACCOUNTS, AccountCap, Caps
from fedward_client.spending import CLOSED, Account, Spent
from fedward_common.codec import digest
from fedward_common.errors import PolicyRefusalError
from fedward_common.privacy.accounting import COARSE_INTERVAL
from fedward_common.privacy.parameters import MechanismParameters

_END: Record = ("closed-1",)
_END_KEY = digest("closed")


class Ledger:
    """The ledger in one site's database. Opening it reads and verifies the whole chain.

    Raises:
        IntegrityError: the chain does not hold.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._chain = HashChain(connection, "ledger")
        self._read_to = self._chain.genesis()
        self._accounts = dict.fromkeys(ACCOUNTS, Account())
        self._attempts: dict[bytes, Counter[str]] = defaultdict(Counter)
        self._catch_up()

    def head(self) -> Head:
        """Return (count, hash): what every signed step 1 shows to the peers."""
        return self._chain.head()

    def holds(self, head: Head) -> bool:
        """Say whether this ledger once ended, or ends, at ``head``: it is no older and no fork."""
        return self._chain.holds(head)

    def verify(self) -> Head:
        """Recompute the whole chain and return its head.

        Raises:
            IntegrityError: a debit was altered, removed or moved.
        """
        return self._chain.verify()

    def entries(self) -> list[Debit]:
        """Return every debit, oldest first, verified on the way."""
        records = [record for _, record in self._chain.rows(self._chain.genesis())]
        return [decode_debit(record) for record in records if record != _END]

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has ended both accounts."""
        self._catch_up()
        return any(account.closed for account in self._accounts.values())

    def close(self) -> Head:
        """End both accounts for good, durably: debits were lost, and no figure would be true (B6).

        Nothing is debited after it, whatever the caps; there is no way back. Again: nothing is
        added.

        Returns:
            The ledger's head.
        """
        with transaction(self._connection):
            if self._chain.find(_END_KEY) is None:
                self._chain.append(_END_KEY, _END)
        self._catch_up()
        return self.head()

    def debit(self, debit: Debit, caps: Caps, allowance: Allowance) -> Head:
        """Debit an attempt, durably, or refuse it; the same debit again changes nothing (B6).

        ``allowance`` is that of the debit's study, from its plan.

        Returns:
            The ledger's head.

        Raises:
            PolicyRefusalError: it would pass a cap or the plan's attempts, the account is closed,
                or (study, e) was debited for something else.
            StorageError: it could not be written.
        """
        cap = caps.of(debit.account)
        with transaction(self._connection):
            stored = self._chain.find(debit.key)
            if stored is not None:
                if stored != debit.record:
                    raise PolicyRefusalError(
                        f"attempt {debit.e} was debited with other parameters: it is not run again"
                    )
                return self.head()
            self._catch_up()
            if self._accounts[debit.account].closed:
                raise PolicyRefusalError(f"account '{debit.account}': {CLOSED}")
            allowance.refuse_beyond(self._attempts[debit.study] + Counter([debit.query]))
            after = self._accounts[debit.account].plus(*debit.runs)
            excess = after.excess(cap)
            if excess is not None:
                raise PolicyRefusalError(
                    f"account '{debit.account}': {excess} (policy.toml, [caps.{debit.account}]); "
                    "no image was touched"
                )
            head = self._chain.append(debit.key, debit.record)
        self._accounts[debit.account], self._read_to = after, head
        self._attempts[debit.study][debit.query] += 1
        return head

    def spent(self, account: str, caps: Caps) -> Spent:
        """Return what an account has cost so far; the PLD figures take up to a second."""
        self._catch_up()
        return self._accounts[account].spent(caps.of(account))

    def forecast(
        self, account: str, queries: Iterable[MechanismParameters], extra: int, caps: Caps
    ) -> Spent:
        """Return what an account will have cost after a plan's ``queries`` on it.

        ``extra`` attempts beyond their rounds go to the query that they make most expensive. Debits
        are never refunded: this is what approving the plan may cost.
        """
        cap = caps.of(account)
        return self._after(account, queries, extra, cap).spent(cap)

    def course(
        self,
        account: str,
        queries: Iterable[MechanismParameters],
        extra: int,
        caps: Caps,
        steps: Iterable[int],
    ) -> list[Spent]:
        """Return what an account will have cost after each of ``steps`` attempts of a plan.

        The rounds come first, in the plan's order, then the ``extra`` attempts. For a picture: the
        PLD figures are on the coarse grid, a few thousandths above the others.
        """
        cap = caps.of(account)
        segments = self._segments(account, queries, extra, cap)
        points = []
        for step in steps:
            after, left = self._accounts[account], step
            for debit, times in segments:
                after = after.plus(*debit.runs, times=min(times, left)) if left else after
                left -= min(times, left)
            points.append(after.spent(cap, COARSE_INTERVAL))
        return points

    def excess(
        self, account: str, queries: Iterable[MechanismParameters], extra: int, caps: Caps
    ) -> str | None:
        """Say which cap a plan would pass before its end, or None; takes milliseconds."""
        cap = caps.of(account)
        return self._after(account, queries, extra, cap).excess(cap)

    def _after(
        self, account: str, queries: Iterable[MechanismParameters], extra: int, cap: AccountCap
    ) -> Account:
        segments = self._segments(account, queries, extra, cap)
        return _grown(self._accounts[account], segments)

    def _segments(
        self, account: str, queries: Iterable[MechanismParameters], extra: int, cap: AccountCap
    ) -> list[tuple[Debit, int]]:
        """A plan's debits with their numbers; the extra ones where they cost most."""
        self._catch_up()
        rounds = [
            (Debit.of(query, study=b"", e=0, account=account), query.rounds) for query in queries
        ]
        if not extra or not rounds:
            return rounds
        ends = [[*rounds, (debit, extra)] for debit, _ in rounds]
        before = self._accounts[account]
        return max(
            ends, key=lambda end: _grown(before, end).server.filtered(cap.epsilon, cap.delta)
        )

    def _catch_up(self) -> None:
        """Take in what was appended since, by this process or another."""
        for head, record in self._chain.rows(self._read_to):
            if record == _END:
                closed = {n: replace(a, closed=True) for n, a in self._accounts.items()}
                self._accounts |= closed
            else:
                debit = decode_debit(record)
                self._accounts[debit.account] = self._accounts[debit.account].plus(*debit.runs)
                self._attempts[debit.study][debit.query] += 1
            self._read_to = head


def _grown(account: Account, segments: Iterable[tuple[Debit, int]]) -> Account:
    for debit, times in segments:
        account = account.plus(*debit.runs, times=times)
    return account
