"""Who takes part in a private sum, and how many must (A1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fedward_common.codec import digest
from fedward_common.errors import OperatorError, PeerError, PlanError
from fedward_common.keys import KEY_BYTES, encryption_public, signing_public
from fedward_common.secret import SecretBytes

MIN_SITES = 3
MAX_SITES = 200
"""Sites in one study (A1: 2 < n <= 200)."""

DIGEST_BYTES = 32
"""Length of a SHA-256 value."""


def threshold(sites: int) -> int:
    """Return t = floor(2n/3) + 1: the shares that reconstruct, the signatures that agree (A1)."""
    return 2 * sites // 3 + 1


def group_problems(sites: int, t_min: int, colluding: int) -> list[str]:
    """Return every reason why n, t_min and c cannot form a group (A1), one line each."""
    t = threshold(sites)
    floor = max(3, t)
    problems: list[str] = []
    if not MIN_SITES <= sites <= MAX_SITES:
        problems.append(f"roster: has {sites} sites; use {MIN_SITES} to {MAX_SITES}")
    if colluding < 0:
        problems.append(f"colluding: is {colluding}; use 0 or more")
    if colluding >= t:
        problems.append(f"colluding: is {colluding}, and {t} sites can open any mask; use less")
    if 2 * t <= sites + colluding:
        most = 2 * t - sites - 1
        problems.append(
            f"colluding: is {colluding}, and {sites} sites withstand at most {most} who sign two "
            f"survivor sets; use {most} or fewer, or more sites"
        )
    if t_min < floor:
        problems.append(f"t_min: is {t_min}; {sites} sites need at least {floor}")
    if t_min > sites:
        problems.append(f"t_min: is {t_min}, more than the {sites} sites; use {sites} or fewer")
    if t_min - colluding < 2:
        problems.append(
            f"t_min: is {t_min} with {colluding} colluding, so a sum could hide a single honest "
            f"site; use at least {colluding + 2}"
        )
    return problems


@dataclass(frozen=True)
class Member:
    """One site of the roster: Ed25519 ``identity`` and X25519 ``encryption`` key, 32 bytes each."""

    name: str
    identity: bytes
    encryption: bytes


@dataclass(frozen=True)
class Group:
    """The sites of a study, as every one of them pinned it.

    ``members`` stand in roster order: a site's index is its position, its share's x is index + 1.
    ``plan_digest`` is H over the plan and all approvals (32 bytes).

    Raises:
        PlanError: a rule of A1 is broken; every broken rule is named.
    """

    members: tuple[Member, ...]
    t_min: int
    colluding: int
    plan_digest: bytes

    def __post_init__(self) -> None:
        problems = group_problems(self.size, self.t_min, self.colluding)
        problems += _roster_problems(self.members)
        if len(self.plan_digest) != DIGEST_BYTES:
            problems.append(f"plan_digest: must have {DIGEST_BYTES} bytes")
        if problems:
            raise PlanError("secure aggregation", problems)

    @property
    def size(self) -> int:
        """n, the number of sites."""
        return len(self.members)

    @cached_property
    def threshold(self) -> int:
        """t, the shares that reconstruct a seed."""
        return threshold(self.size)

    def identity(self, index: int) -> bytes:
        """Return the pinned identity key of the site at ``index`` of the roster.

        Raises:
            PeerError: there is no such site.
        """
        if not 0 <= index < self.size:
            raise PeerError(f"site {index} is not in the roster of {self.size}")
        return self.members[index].identity

    def pre(self, e: int) -> bytes:
        """Return pre = H('pre', H(plan), e), the context of step 1 (A2)."""
        return digest("pre", self.plan_digest, e)


@dataclass(frozen=True)
class SiteKeys:
    """A site's place in the roster and its private keys: Ed25519 and X25519, 32 bytes each."""

    index: int
    identity: SecretBytes
    encryption: SecretBytes


@dataclass(frozen=True)
class Seat:
    """A site's place in attempt ``e`` of a study."""

    group: Group
    keys: SiteKeys
    e: int

    @property
    def index(self) -> int:
        """The site's index in the roster."""
        return self.keys.index

    @cached_property
    def pre(self) -> bytes:
        """The context of step 1 (A2)."""
        return self.group.pre(self.e)

    def check(self) -> None:
        """Check that the roster's entry holds these keys' public halves.

        Raises:
            OperatorError: it does not.
        """
        known = 0 <= self.index < self.group.size
        member = self.group.members[self.index] if known else None
        own = (signing_public(self.keys.identity), encryption_public(self.keys.encryption))
        if member is None or (member.identity, member.encryption) != own:
            raise OperatorError(
                f"identity: this site's keys are not those of roster entry {self.index}; restore "
                "the identity folder or approve the plan again"
            )


def _roster_problems(members: Sequence[Member]) -> list[str]:
    problems: list[str] = []
    for field in ("name", "identity", "encryption"):
        values = [getattr(member, field) for member in members]
        if len(set(values)) != len(values):
            problems.append(f"roster: two sites have the same {field}; each needs its own")
    problems += [
        f"roster: {member.name}: {field} must have {KEY_BYTES} bytes"
        for member in members
        for field in ("identity", "encryption")
        if len(getattr(member, field)) != KEY_BYTES
    ]
    return problems
