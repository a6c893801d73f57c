"""Signed heads of the site's two chains, to be kept where the site's own disk is not.

Whoever owns the site's disk can cut the log and mend its chain. What was signed before and is kept
elsewhere (another hospital, the journal's host, paper) shows that: a log that was truncated or
forked does not hold the head any more. The ledger's head stands in every step 1 as well (B6).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fedward_client.chain import Head
from fedward_client.site import Site
from fedward_common import keys
from fedward_common.codec import Value
from fedward_common.errors import IntegrityError, OperatorError, PeerError

FORMAT = 1
MAX_TEXT = 4096
_FIELDS = {
    "format": int,
    "site": str,
    "unix_time": int,
    "audit_entries": int,
    "audit_head": str,
    "ledger_entries": int,
    "ledger_head": str,
    "signature": str,
}


@dataclass(frozen=True)
class SignedHeads:
    """Where both chains of the site ``name`` ended at ``unix_time``, signed by its identity key."""

    name: str
    unix_time: int
    audit: Head
    ledger: Head
    signature: bytes

    def to_text(self) -> str:
        """The file: JSON."""
        values: tuple[int | str, ...] = (
            *(FORMAT, self.name, self.unix_time),
            *(self.audit.length, self.audit.hash.hex()),
            *(self.ledger.length, self.ledger.hash.hex()),
            self.signature.hex(),
        )
        return json.dumps(dict(zip(_FIELDS, values, strict=True)), indent=1) + "\n"

    @property
    def date(self) -> str:
        """When it was signed, by the site's clock."""
        return datetime.fromtimestamp(self.unix_time, UTC).isoformat(" ", "minutes")


def sign_heads(site: Site, clock: Callable[[], float] = time.time) -> SignedHeads:
    """Verify both chains and sign where they end.

    Raises:
        IntegrityError: one of them does not hold.
    """
    audit, ledger, now = site.audit.verify(), site.ledger.verify(), int(clock())
    signature = keys.sign(site.identity.identity, *_statement(site.name, now, audit, ledger))
    return SignedHeads(site.name, now, audit, ledger, signature)


def parse_heads(text: str, source: str) -> SignedHeads:
    """Read what :meth:`SignedHeads.to_text` wrote; the signature is checked against a site later.

    Raises:
        OperatorError: malformed.
    """
    problem = OperatorError(f"{source}: not signed heads; give a file of `audit head`")
    if len(text) > MAX_TEXT:
        raise problem
    try:
        record = json.loads(text)
        if record.keys() != _FIELDS.keys() or record["format"] != FORMAT:
            raise problem
        if any(type(record[name]) is not kind for name, kind in _FIELDS.items()):
            raise problem
        return SignedHeads(
            record["site"],
            record["unix_time"],
            Head(record["audit_entries"], bytes.fromhex(record["audit_head"])),
            Head(record["ledger_entries"], bytes.fromhex(record["ledger_head"])),
            bytes.fromhex(record["signature"]),
        )
    except (ValueError, AttributeError, RecursionError) as error:
        raise problem from error


def check_heads(site: Site, signed: SignedHeads, source: str) -> None:
    """Hold both chains against heads that were signed before.

    Raises:
        OperatorError: another site's, or the signature is not this site's.
        IntegrityError: a chain has been truncated, altered or forked since.
    """
    statement = _statement(signed.name, signed.unix_time, signed.audit, signed.ledger)
    try:
        keys.verify(keys.signing_public(site.identity.identity), signed.signature, *statement)
    except PeerError as error:
        raise OperatorError(f"{source}: not signed by this site's identity key") from error
    for name, head, holds in (
        ("log", signed.audit, site.audit.holds),
        ("ledger", signed.ledger, site.ledger.holds),
    ):
        if not holds(head):
            raise IntegrityError(
                f"the {name} does not hold its {head.length} entries as signed on {signed.date} "
                f"({source}): it was truncated, altered or forked since; stop, and keep the site's "
                "folder as evidence"
            )


def _statement(name: str, at: int, audit: Head, ledger: Head) -> tuple[Value, ...]:
    return ("heads", FORMAT, name, at, *audit, *ledger)
