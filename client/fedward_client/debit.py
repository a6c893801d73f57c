"""What the ledger books: one attempt of one query, and how many of them a plan allows (B5, B6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

from fedward_client.chain import Record
from fedward_client.policy import ACCOUNTS
from fedward_client.spending import Run
from fedward_common.codec import Value, digest
from fedward_common.errors import IntegrityError, PolicyRefusalError
from fedward_common.privacy.parameters import MechanismParameters


@dataclass(frozen=True)
class Debit:
    """One attempt of one query, as the ledger keeps it.

    Attributes:
        study: the plan's digest over plan and approvals, 32 bytes.
        e: the attempt.
        account: 'train' or 'holdout'.
        query: its name in the plan.
        noise_multiplier: sigma of guarantee (i) of B4.
        worst_noise_multiplier: sigma of guarantee (ii).
        sampling_rate: q.
        grid_divergence: what the integer grid adds, for (i) (see ``privacy.grid``).
        worst_grid_divergence: the same for (ii).
        steps: runs of the mechanism in the attempt: the local steps of a round, or 1.
    """

    study: bytes
    e: int
    account: str
    query: str
    noise_multiplier: float
    worst_noise_multiplier: float
    sampling_rate: float
    grid_divergence: float
    worst_grid_divergence: float
    steps: int = 1

    @classmethod
    def of(cls, parameters: MechanismParameters, *, study: bytes, e: int, account: str) -> Debit:
        """Return the debit of one attempt of a query with these parameters."""
        return cls(
            study=study,
            e=e,
            account=account,
            query=parameters.query,
            noise_multiplier=float(parameters.noise_multiplier),
            worst_noise_multiplier=parameters.noise_multiplier_of(1),
            sampling_rate=float(parameters.sampling_rate),
            grid_divergence=parameters.grid_divergence_of(parameters.honest),
            worst_grid_divergence=parameters.grid_divergence_of(1),
            steps=parameters.steps,
        )

    @property
    def key(self) -> bytes:
        """What makes it unique: a digest of (study, e)."""
        return digest("debit", self.study, self.e)

    @property
    def runs(self) -> tuple[Run, Run]:
        """The attempt against the server (i) and in the worst case (ii)."""
        return (
            Run(self.noise_multiplier, self.sampling_rate, self.grid_divergence, self.steps),
            Run(
                self.worst_noise_multiplier,
                self.sampling_rate,
                self.worst_grid_divergence,
                self.steps,
            ),
        )

    @property
    def record(self) -> Record:
        """What the chain keeps; of several steps it is a form of its own."""
        fields = astuple(self)
        return ("debit-1", *fields[:-1]) if self.steps == 1 else ("debit-steps-1", *fields)


@dataclass(frozen=True)
class Allowance:
    """How often a study's queries may be debited: what its stated epsilon rests on (B5).

    ``rounds`` of each query by name, and ``extra`` attempts beyond them over all queries.
    """

    rounds: Mapping[str, int]
    extra: int

    def refuse_beyond(self, attempts: Mapping[str, int]) -> None:
        """Refuse ``attempts`` of each query that together exceed what the plan's epsilon counts.

        Raises:
            PolicyRefusalError: the attempts beyond the rounds are more than ``extra``.
        """
        beyond = sum(max(0, count - self.rounds.get(name, 0)) for name, count in attempts.items())
        if beyond > self.extra:
            raise PolicyRefusalError(
                f"the plan allows {self.extra} attempts beyond its rounds, and they are used up"
            )


def decode_debit(record: Record) -> Debit:
    """Read what :attr:`Debit.record` wrote.

    Raises:
        IntegrityError: not of a known form.
    """
    match record:
        case ("debit-1", *fields):
            steps: Value = 1
        case ("debit-steps-1", *fields, steps):
            pass
        case _:
            fields, steps = [], 0
    match (*fields, steps):
        case (
            bytes(study),
            int(e),
            str(account),
            str(query),
            float(noise),
            float(worst_noise),
            float(rate),
            float(divergence),
            float(worst_divergence),
            int(steps),
        ) if account in ACCOUNTS and steps >= 1:
            mechanism = (noise, worst_noise, rate, divergence, worst_divergence)
            return Debit(study, e, account, query, *mechanism, steps)
    raise IntegrityError("site database, ledger chain: a debit is not of a known form")
