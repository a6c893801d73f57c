"""Who may connect: the consortium's CA in the coordinator's folder, welcomes and revocations.

``authority/`` holds the CA's key and certificate, every serial number it has issued and the CRL;
``gateway.tls`` the gateway's own key and certificate; ``sites/NAME.welcome`` what a site gets.
A certificate is good while its key is that of an enrolled SITE.pub: the CRL follows from that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from fedward_common.enrolment import ADDRESS, SUFFIX, address_problem, make_welcome
from fedward_common.errors import IntegrityError, OperatorError
from fedward_common.files import write_atomic
from fedward_common.identity import SitePublic, parse_site_public
from fedward_common.randomness import RandomBytes
from fedward_common.secret import SecretBytes
from fedward_server.certificates import (
    Authority,
    issue_server,
    issue_site,
    needs_renewal,
    new_authority,
    revocation_list,
)
from fedward_server.server_folder import ServerFolder

GATEWAY, TLS = "gateway.json", "gateway.tls"
KEY, CERTIFICATE = "key", "certificate"
ISSUED, REVOKED, CRL = "issued.jsonl", "revoked.jsonl", "revoked.crl"


@dataclass(frozen=True)
class Gateway:
    """Where hospitals connect to (``address``, host:port), and the loopback port for operators."""

    address: str
    admin_port: int

    @property
    def host(self) -> str:
        """The name or IP address that hospitals use, without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port that hospitals use."""
        return int(self.address.rpartition(":")[2])


@dataclass(frozen=True)
class Enrolled:
    """A site that plans may name, and its welcome, if hospitals can connect to this coordinator."""

    site: SitePublic
    welcome: Path | None


def found_consortium(
    folder: ServerFolder, gateway: Gateway, now: datetime, random: RandomBytes
) -> None:
    """Make the CA and note the gateway's address.

    Raises:
        OperatorError: the address is malformed, or the folder has one already.
    """
    if problem := address_problem(gateway.address):
        raise OperatorError(f"--address {gateway.address}: {problem}")
    path = folder.path / GATEWAY
    if path.exists():
        raise OperatorError(f"{path}: the address is set already, welcomes name it; keep it")
    authority = new_authority(now, random)
    place = folder.path / "authority"
    write_atomic(place / KEY, authority.key.reveal(), mode=0o600)
    write_atomic(place / CERTIFICATE, authority.certificate.encode())
    write_atomic(place / CRL, revocation_list(authority, (), now).encode())
    write_atomic(path, json.dumps(asdict(gateway)).encode() + b"\n")


def gateway_of(folder: ServerFolder) -> Gateway:
    """The gateway's address.

    Raises:
        OperatorError: none was given at `init`.
    """
    path = folder.path / GATEWAY
    try:
        gateway = Gateway(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise OperatorError(
            f"{folder.path}: no address for hospitals; run `init --address HOST:PORT`"
        ) from error
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path}: damaged; restore it from a backup") from error
    if not ADDRESS.fullmatch(str(gateway.address)):
        raise IntegrityError(f"{path}: damaged; restore it from a backup")
    return gateway


def authority_of(folder: ServerFolder) -> Authority:
    """The CA.

    Raises:
        IntegrityError: its files are missing or damaged.
    """
    place = folder.path / "authority"
    try:
        authority = Authority(
            SecretBytes((place / KEY).read_bytes()), (place / CERTIFICATE).read_text("ascii")
        )
        x509.load_pem_x509_certificate(authority.certificate.encode())
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{place}: the CA is damaged; restore it from a backup") from error
    return authority


def enrol_site(
    folder: ServerFolder,
    text: str,
    source: str,
    now: datetime,
    random: RandomBytes,
    *,
    replace: bool = False,
) -> Enrolled:
    """Add a site, renew its certificate, or ``replace`` its keys; write its welcome.

    Raises:
        OperatorError: not a valid SITE.pub, a revoked key, or another site of that name.
    """
    site = parse_site_public(text, source)
    if site.transport.hex() in {entry["transport"] for entry in _lines(folder, REVOKED)}:
        raise OperatorError(f"{source}: this key was revoked; ask the hospital for a new one")
    old = _present(folder, site.name)
    if replace and old is not None and old.transport != site.transport:
        _append(folder, REVOKED, _revocation(old, now))
        _public_path(folder, site.name).unlink()
    folder.enrol(text, source)
    if not (folder.path / GATEWAY).exists():
        return Enrolled(site, None)
    authority = authority_of(folder)
    certificate = issue_site(authority, site.name, site.transport, now, random)
    _append(folder, ISSUED, _issue(certificate, site))
    write_revocations(folder, now)
    welcome = make_welcome(
        folder.coordinator,
        site.name,
        gateway_of(folder).address,
        authority.certificate,
        certificate,
    )
    path = _public_path(folder, site.name).with_suffix(SUFFIX)
    write_atomic(path, welcome.to_text().encode("ascii"))
    return Enrolled(site, path)


def revoke_site(folder: ServerFolder, name: str, now: datetime) -> SitePublic:
    """Shut a site out: no plan names it any more and its certificates and key are refused.

    Raises:
        OperatorError: no such site is enrolled.
    """
    site = _present(folder, name)
    if site is None:
        known = ", ".join(site.name for site in folder.sites()) or "none"
        raise OperatorError(f"site {name}: not enrolled; enrolled sites: {known}")
    _append(folder, REVOKED, _revocation(site, now))  # first: a crash must not forget it
    path = _public_path(folder, name)
    path.unlink()
    path.with_suffix(SUFFIX).unlink(missing_ok=True)
    if (folder.path / GATEWAY).exists():
        write_revocations(folder, now)
    return site


def admitted(folder: ServerFolder) -> dict[bytes, str]:
    """The transport keys (DER) that may connect, with their sites' names."""
    revoked = {entry["transport"] for entry in _lines(folder, REVOKED)}
    return {s.transport: s.name for s in folder.sites() if s.transport.hex() not in revoked}


def write_revocations(folder: ServerFolder, now: datetime) -> None:
    """Write the CRL: every certificate whose key is not an admitted site's."""
    good = {hashlib.sha256(key).hexdigest() for key in admitted(folder)}
    serials = [int(e["serial"], 16) for e in _lines(folder, ISSUED) if e["key"] not in good]
    text = revocation_list(authority_of(folder), serials, now)
    write_atomic(folder.path / "authority" / CRL, text.encode("ascii"))


def gateway_certificate(folder: ServerFolder, now: datetime, random: RandomBytes) -> Path:
    """The file (PEM, mode 0600) of the gateway's key and certificate, made or renewed as needed."""
    path = folder.path / TLS
    if not path.exists() or needs_renewal(path.read_text("ascii"), now):
        pair = issue_server(authority_of(folder), [gateway_of(folder).host], now, random)
        write_atomic(path, pair.key_pem() + pair.certificate.encode("ascii"), mode=0o600)
    return path


def _present(folder: ServerFolder, name: str) -> SitePublic | None:
    return next((site for site in folder.sites() if site.name == name), None)


def _public_path(folder: ServerFolder, name: str) -> Path:
    return folder.path / "sites" / f"{name}.pub"


def _revocation(site: SitePublic, now: datetime) -> dict[str, str]:
    when = now.isoformat(timespec="seconds")
    return {"name": site.name, "transport": site.transport.hex(), "when": when}


def _issue(certificate: str, site: SitePublic) -> dict[str, str]:
    serial = x509.load_pem_x509_certificate(certificate.encode()).serial_number
    key = hashlib.sha256(site.transport).hexdigest()
    return {"serial": f"{serial:x}", "name": site.name, "key": key}


def _lines(folder: ServerFolder, name: str) -> list[dict[str, str]]:
    path = folder.path / "authority" / name
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise IntegrityError(f"{path}: damaged; restore it from a backup") from error


def _append(folder: ServerFolder, name: str, record: dict[str, str]) -> None:
    path = folder.path / "authority" / name
    before = path.read_bytes() if path.exists() else b""
    write_atomic(path, before + json.dumps(record).encode("ascii") + b"\n")
