"""What ties a site to its coordinator: the welcome, pinned, and the transport keys beside it (A1).

The welcome stands in ``identity/`` as it came, so that its signature is checked at every reading.
From then on the site knows one coordinator: it connects to no other gateway and reads no plan that
another has signed. A new transport key waits beside the old one until a certificate for it arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedward_client.site import IDENTITY, PUBLIC, TRANSPORT
from fedward_client.site_folder import SiteFolder, load_key
from fedward_common import keys
from fedward_common.enrolment import Welcome, load_certificate, parse_welcome
from fedward_common.errors import OperatorError, PeerError
from fedward_common.files import write_atomic
from fedward_common.identity import SiteIdentity, SitePublic
from fedward_common.randomness import RandomBytes, os_random
from fedward_common.secret import SecretBytes

WELCOME = "coordinator.welcome"
NEXT_TRANSPORT, NEXT_PUBLIC = "transport-next.key", "SITE.next.pub"

WARN_BEFORE = timedelta(days=30)
"""From then on the operator is told that the certificate will expire."""


@dataclass(frozen=True)
class Connection:
    """How this site reaches its coordinator: the pinned welcome and the key it certifies."""

    welcome: Welcome
    transport: SecretBytes

    @property
    def expires(self) -> datetime:
        """When the site's certificate ends."""
        return load_certificate(self.welcome.certificate).not_valid_after_utc


def read_welcome(identity: Path) -> Welcome | None:
    """The pinned welcome in the folder ``identity``; None of a site that is not enrolled.

    Raises:
        OperatorError: the file is damaged.
    """
    path = identity / WELCOME
    if not path.exists():
        return None
    return parse_welcome(_read(path), str(path))


def pinned_coordinator(identity: Path) -> bytes | None:
    """The coordinator's Ed25519 key that this site is tied to; None before it is enrolled."""
    welcome = read_welcome(identity)
    return None if welcome is None else bytes.fromhex(welcome.coordinator)


def check_coordinator(identity: Path, coordinator: str) -> str | None:
    """Say why a plan signed by this key (hex) is not this site's to read; None if it is."""
    pinned = pinned_coordinator(identity)
    if pinned is None or pinned.hex() == coordinator:
        return None
    return (
        f"the plan is signed by coordinator {coordinator[:16]}, this site is enrolled with "
        f"{pinned.hex()[:16]}"
    )


def load_connection(site: SiteFolder) -> Connection:
    """The way to the gateway, read afresh: the operator may have enrolled again meanwhile.

    Raises:
        OperatorError: the site is not enrolled, or its certificate is for another key.
    """
    welcome = read_welcome(site.identity)
    if welcome is None:
        raise OperatorError(
            f"{site.path}: not enrolled; send {PUBLIC} to the coordinator, then run "
            "fedward-client enrol on the file that comes back"
        )
    identity = _identity(site, TRANSPORT)
    try:
        welcome.check_site(identity.public())
    except PeerError as error:
        raise OperatorError(
            f"{site.identity / WELCOME}: {error}; run fedward-client enrol again"
        ) from error
    return Connection(welcome, identity.transport)


def read_offer(site: SiteFolder, path: Path) -> Welcome:
    """Read the welcome that a coordinator sent and check that this site may take it.

    Raises:
        OperatorError: malformed, for another site or key, expired, or of another coordinator than
            the pinned one.
    """
    welcome = parse_welcome(_read(path), str(path))
    try:
        welcome.check_site(_certified_identity(site, welcome))
    except PeerError as error:
        raise OperatorError(f"{path}: {error}; send {PUBLIC} to the coordinator again") from error
    pinned = read_welcome(site.identity)
    if pinned is not None and pinned.fingerprint != welcome.fingerprint:
        raise OperatorError(
            f"{path}: of another coordinator than this site is enrolled with; if it is really to "
            f"change, remove {site.identity / WELCOME} first"
        )
    if load_certificate(welcome.certificate).not_valid_after_utc < datetime.now(UTC):
        raise OperatorError(f"{path}: its certificate has expired; ask the coordinator for another")
    return welcome


def enrol(site: SiteFolder, welcome: Welcome) -> None:
    """Pin a welcome of :func:`read_offer`; a key that waited for it takes the place of the old one.

    The key goes first: if a kill comes between, the old certificate no longer fits, and enrolling
    again with the same file goes on from there.
    """
    waiting = site.identity / NEXT_TRANSPORT
    if waiting.exists() and _certifies(welcome, _identity(site, NEXT_TRANSPORT).public()):
        waiting.rename(site.identity / TRANSPORT)
    public = _identity(site, TRANSPORT).public()
    write_atomic(site.path / PUBLIC, public.to_text().encode())
    if not waiting.exists():
        (site.path / NEXT_PUBLIC).unlink(missing_ok=True)
    write_atomic(site.identity / WELCOME, welcome.to_text().encode(), mode=0o600)


def rotate(site: SiteFolder, random: RandomBytes = os_random) -> SitePublic:
    """Make a new transport key beside the one in use; repeating it gives the same key (A1).

    Returns what ``SITE.next.pub`` holds, for the coordinator and the other hospitals.
    """
    waiting = site.identity / NEXT_TRANSPORT
    if not waiting.exists():
        key = keys.new_transport_key(random)
        write_atomic(waiting, key.reveal().hex().encode() + b"\n", mode=0o600)
    public = _identity(site, NEXT_TRANSPORT).public()
    write_atomic(site.path / NEXT_PUBLIC, public.to_text().encode())
    return public


def _certified_identity(site: SiteFolder, welcome: Welcome) -> SitePublic:
    """This site with the key of its two that the welcome certifies; else with the one in use."""
    if (site.identity / NEXT_TRANSPORT).exists():
        following = _identity(site, NEXT_TRANSPORT).public()
        if _certifies(welcome, following):
            return following
    return _identity(site, TRANSPORT).public()


def _certifies(welcome: Welcome, public: SitePublic) -> bool:
    try:
        welcome.check_site(public)
    except PeerError:
        return False
    return True


def _identity(site: SiteFolder, transport: str) -> SiteIdentity:
    folder = site.identity
    return SiteIdentity(site.name, load_key(folder / IDENTITY), load_key(folder / transport))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot be read; give the coordinator's file") from error
