"""The signed plan: canonical bytes and the coordinator's signature over H(plan) (A1)."""

from __future__ import annotations

from dataclasses import dataclass

from fedward_common import keys
from fedward_common.errors import OperatorError, PeerError, PlanError
from fedward_common.plan.document import Plan, plan_from_canonical
from fedward_common.secret import SecretBytes

TAG = "plan"


@dataclass(frozen=True)
class SignedPlan:
    """A plan as it travels: ``canonical`` bytes and the coordinator's ``signature`` (64 bytes)."""

    canonical: bytes
    signature: bytes

    def to_file(self) -> bytes:
        """The file form: the signature in hexadecimal, a newline, the canonical JSON."""
        return self.signature.hex().encode("ascii") + b"\n" + self.canonical

    @classmethod
    def from_file(cls, data: bytes, source: str) -> SignedPlan:
        """Read :meth:`to_file` back; :meth:`open` checks what it holds.

        Raises:
            OperatorError: not a signed plan.
        """
        head, _, canonical = data.partition(b"\n")
        try:
            return cls(canonical, bytes.fromhex(head.decode("ascii")))
        except (UnicodeDecodeError, ValueError) as error:
            raise OperatorError(
                f"{source}: not a signed plan; ask the coordinator again"
            ) from error

    def open(self) -> Plan:
        """Check the encoding and the signature by the coordinator that the plan names.

        Whether that coordinator is trusted is the site's own decision: its policy and approval.

        Raises:
            PeerError: not a canonical plan, or the signature is not valid.
        """
        try:
            plan = plan_from_canonical(self.canonical)
        except PlanError as error:
            raise PeerError(f"the proposed plan is not valid: {error}") from error
        key = bytes.fromhex(plan.roster.coordinator)
        keys.verify(key, self.signature, TAG, plan.digest)
        return plan


def sign_plan(plan: Plan, coordinator: SecretBytes) -> SignedPlan:
    """Sign a plan with the coordinator's Ed25519 key."""
    return SignedPlan(plan.canonical, keys.sign(coordinator, TAG, plan.digest))
