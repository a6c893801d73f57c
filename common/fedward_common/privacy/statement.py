"""What a plan guarantees, in numbers and in words, for whoever decides on it (B3, B4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedward_common.errors import MisuseError
from fedward_common.privacy.accounting import Mechanism, epsilon, extra_attempts, with_retries
from fedward_common.privacy.grid import GRID_SHARE, grid_charge
from fedward_common.privacy.parameters import MechanismParameters

_UNIT = (
    "The unit is one patient with all images at one site: the figures bound how much that "
    "patient's taking part can change what anyone learns."
)
_SCOPE = (
    "The figures count every query and every retry that the plan allows, even if it ends early."
)
_TWO_SITES = (
    "A patient with images at two sites has twice the epsilon and (1 + e^epsilon) times the delta."
)
_LOCAL = (
    "Local training: every hospital's own noise protects its patients at each local step, and no "
    "other hospital's noise is counted for it. That part of the cost is the same whoever works "
    "together, and more noise than the same figure needs where hospitals share it."
)
_HOSPITALS = (
    "The guarantee protects patients, not hospitals: a hospital's own totals are hidden only by "
    "the other hospitals' addends."
)


@dataclass(frozen=True)
class PrivacyStatement:
    """The guarantees of a whole plan for one patient, retries included.

    Attributes:
        epsilon: guarantee (i), against the server, outsiders and any ``colluding`` members.
        epsilon_worst_case: guarantee (ii), all other members collude with the server.
        epsilon_one_curious: against one curious member; None unless ``colluding`` is 0.
        delta: the delta of all three, the integer grid's share included.
        colluding: c.
        by_account: (account, guarantee (i), guarantee (ii)) for 'train' and 'holdout', if used.
        sentences: the same in plain words.
    """

    epsilon: float
    epsilon_worst_case: float
    epsilon_one_curious: float | None
    delta: float
    colluding: int
    by_account: tuple[tuple[str, float, float], ...]
    sentences: tuple[str, ...]


def privacy_statement(
    accounts: Mapping[str, Sequence[MechanismParameters]], delta: float, maximum_attempts: int
) -> PrivacyStatement:
    """State the guarantees of a plan.

    Args:
        accounts: the plan's queries by the account that they debit; a patient is in one only.
        delta: the plan's delta, in (0, 1).
        maximum_attempts: bound on the number of e of the plan; each account is charged all the
            attempts beyond the plan's rounds.

    Raises:
        OperatorError: fewer attempts than rounds, or the grid takes more than delta / 100.
        MisuseError: no query, or queries that disagree on the roster's size, t_min and c.
    """
    used = {name: queries for name, queries in accounts.items() if queries}
    every = [query for queries in used.values() for query in queries]
    if len({(query.sites, query.t_min, query.colluding) for query in every}) != 1:
        raise MisuseError("a statement needs queries that share one roster, t_min and c")
    first = every[0]
    extra = extra_attempts(sum(query.rounds for query in every), maximum_attempts)

    def epsilons(honest: int) -> list[float]:
        return [account_epsilon(queries, delta, extra, honest) for queries in used.values()]

    main, worst = epsilons(first.honest), epsilons(1)
    curious = max(epsilons(first.t_min - 1)) if first.colluding == 0 else None
    return PrivacyStatement(
        epsilon=max(main),
        epsilon_worst_case=max(worst),
        epsilon_one_curious=curious,
        delta=delta,
        colluding=first.colluding,
        by_account=tuple(zip(used, main, worst, strict=True)),
        sentences=_sentences(every, max(main), max(worst), curious, delta),
    )


def mechanism_of(parameters: MechanismParameters, honest: int) -> Mechanism:
    """The query as the accountant sees it when the noise of ``honest`` sites protects (B4)."""
    return Mechanism(
        parameters.noise_multiplier_of(honest),
        parameters.sampling_rate,
        parameters.rounds,
        parameters.steps,
    )


def account_epsilon(
    parameters: Sequence[MechanismParameters], delta: float, extra: int, honest: int
) -> float:
    """Epsilon at ``delta`` of one account's queries when ``honest`` sites' noise protects.

    ``extra`` attempts beyond the rounds are charged (:func:`with_retries`).

    Raises:
        PlanError: the grid takes more than delta / 100.
    """
    plain = [mechanism_of(query, honest) for query in parameters]
    charged = with_retries(plain, extra, delta)
    coarsest = max(query.grid_divergence_of(honest) for query in parameters)
    divergence = extra * coarsest + sum(
        query.rounds * query.grid_divergence_of(honest) for query in parameters
    )
    reserved = epsilon(charged, delta * (1.0 - GRID_SHARE))
    strict = honest == parameters[0].honest
    charge = grid_charge(reserved, delta, divergence, strict=strict)
    return epsilon(charged, delta - charge.delta) + charge.epsilon


def _sentences(
    queries: Sequence[MechanismParameters],
    main: float,
    worst_case: float,
    curious: float | None,
    delta: float,
) -> tuple[str, ...]:
    query = queries[0]
    if query.colluding == 0:
        against = "against outsiders and the server only"
    else:
        against = (
            f"against the server, outsiders and any {query.colluding} of the {query.sites} sites "
            "working together"
        )
    claim = (
        f"Epsilon is {_rounded_up(main)} at delta {delta:.3g}, {against}, as long as at least "
        f"{query.t_min} sites contribute to every sum; fewer contribute to none."
    )
    one_curious = (
        ()
        if curious is None
        else (
            f"Against one curious site, which knows its own noise, it is {_rounded_up(curious)}.",
        )
    )
    worst = (
        "In the worst case, all other sites working together with the server, epsilon is "
        f"{_rounded_up(worst_case)} at the same delta."
    )
    local = (_LOCAL,) if any(query.local_steps for query in queries) else ()
    return (_UNIT, claim, *one_curious, worst, *local, _SCOPE, _TWO_SITES, _HOSPITALS)


def _rounded_up(value: float) -> str:
    return f"{math.ceil(value * 100.0) / 100.0:.2f}"
