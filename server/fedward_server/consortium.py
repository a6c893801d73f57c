"""Who may connect: the consortium's CA in the coordinator's folder, welcomes and revocations.

``authority/`` holds the CA's key and certificate, every serial number it has issued and the CRL;
``gateway.tls`` the gateway's own key and certificate; ``sites/NAME.welcome`` what a site gets.
A certificate is good while its key is that of an enrolled SITE.pub: the CRL follows from that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fedward_common.enrolment import (
    SUFFIX,
    address_problem,
    certified_key,
    load_certificate,
    make_welcome,
)
from fedward_common.errors import IntegrityError, OperatorError, PeerError, StorageError
from fedward_common.files import write_atomic
from fedward_common.identity import SitePublic, parse_site_public
from fedward_common.keys import transport_public
from fedward_common.randomness import RandomBytes
from fedward_common.secret import SecretBytes
from fedward_server.authority_lines import alone, append_line, read_lines
from fedward_server.certificates import (
    Authority,
    issue_server,
    issue_site,
    needs_renewal,
    new_authority,
    revocation_list,
)
from fedward_server.server_folder import ServerFolder, enrolled_sites

GATEWAY, TLS = "gateway.json", "gateway.tls"
KEY, CERTIFICATE = "key", "certificate"
ISSUED, REVOKED, CRL = "issued.jsonl", "revoked.jsonl", "revoked.crl"
STOLEN = "stolen"
"""In a line of REVOKED: an identity that no new key makes good."""

SITES = "sites"
GRACE = timedelta(days=7)


@dataclass(frozen=True)
class Gateway:
    """Where hospitals connect to, where the gateway listens, the loopback port for operators.

    ``address`` and ``listen`` are host:port; they differ behind a port forwarding.
    """

    address: str
    listen: str
    admin_port: int

    @property
    def host(self) -> str:
        """The name or IP address that hospitals use, without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def bind(self) -> tuple[str, int]:
        """Interface and port that the gateway listens on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


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
        OperatorError: the folder has one already.
    """
    path = folder.path / GATEWAY
    if path.exists():
        raise OperatorError(f"{path}: the address is set already, welcomes name it; keep it")
    authority = new_authority(now, random)
    place = folder.path / "authority"
    (folder.path / SITES).mkdir(exist_ok=True)
    write_atomic(place / KEY, authority.key.reveal(), mode=0o600)
    write_atomic(place / CERTIFICATE, authority.certificate.encode())
    write_atomic(place / CRL, revocation_list(authority, (), now).encode())
    write_atomic(path, json.dumps(asdict(gateway)).encode() + b"\n")


def gateway_of(server: Path) -> Gateway:
    """The gateway's address.

    Raises:
        OperatorError: none was given at `init`.
    """
    path = server / GATEWAY
    try:
        gateway = Gateway(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise OperatorError(
            f"{server}: no address for hospitals; run `init --address HOST:PORT`"
        ) from error
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path}: damaged; restore it from a backup") from error
    if any(address_problem(str(text)) for text in (gateway.address, gateway.listen)):
        raise IntegrityError(f"{path}: damaged; restore it from a backup")
    return gateway


def authority_of(server: Path) -> Authority:
    """The CA.

    Raises:
        IntegrityError: its files are missing or damaged.
    """
    place = server / "authority"
    try:
        authority = Authority(
            SecretBytes((place / KEY).read_bytes()), (place / CERTIFICATE).read_text("ascii")
        )
        certified = certified_key(load_certificate(authority.certificate))
        sound = transport_public(authority.key) == certified
    except (OSError, ValueError, PeerError, IntegrityError) as error:
        raise IntegrityError(f"{place}: the CA is damaged; restore it from a backup") from error
    if not sound:
        raise IntegrityError(f"{place}: key and certificate differ; restore them from a backup")
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

    A replaced transport key of the same identity is good until the site uses the new one, for
    GRACE at most: it is cut off neither before nor long after it reads its welcome.

    Raises:
        OperatorError: not a valid SITE.pub, a revoked key, or another site of that name.
    """
    site = parse_site_public(text, source)
    _refuse_revoked(folder.path, site, source)
    old = _present(folder.path, site.name)
    if replace and old is not None and old.transport != site.transport:
        grace = GRACE if old.identity == site.identity else timedelta()
        append_line(folder.path, REVOKED, _revocation(old, now + grace))
        _public_path(folder.path, site.name).unlink()
    folder.enrol(text, source)
    if not (folder.path / GATEWAY).exists():
        return Enrolled(site, None)
    authority = authority_of(folder.path)
    certificate = issue_site(authority, site.name, site.transport, now, random)
    append_line(folder.path, ISSUED, _issue(certificate, site))
    write_revocations(folder.path, now)
    address = gateway_of(folder.path).address
    welcome = make_welcome(
        folder.coordinator, site.name, address, authority.certificate, certificate
    )
    path = _public_path(folder.path, site.name).with_suffix(SUFFIX)
    write_atomic(path, welcome.to_text().encode("ascii"))
    return Enrolled(site, path)


def revoke_site(
    server: Path, name: str, now: datetime, *, identity: bool = False
) -> SitePublic | None:
    """Shut a site out at once: no plan names it any more, its certificates and keys are refused.

    With ``identity`` its identity is refused from now on too, with whatever transport key. Returns
    what it was enrolled with; None if it was shut out before, which is finished if it was cut
    short.

    Raises:
        OperatorError: no such site is or was enrolled.
    """
    site = _present(server, name)
    before = [entry for entry in read_lines(server, REVOKED) if entry["name"] == name]
    if site is None and not before:
        known = ", ".join(site.name for site in enrolled_sites(server)) or "none"
        raise OperatorError(f"site {name}: not enrolled; enrolled sites: {known}")
    line = before[-1] if site is None else _revocation(site, now)
    if site is not None or identity:  # first: a crash must not forget it
        append_line(server, REVOKED, line | ({STOLEN: line["identity"]} if identity else {}))
    retire(server, name, now)
    path = _public_path(server, name)
    path.unlink(missing_ok=True)  # while it is there, the whole is done again
    path.with_suffix(SUFFIX).unlink(missing_ok=True)
    return site


def admitted(server: Path, now: datetime) -> dict[bytes, str]:
    """The transport keys (DER) that may connect, with their sites' names.

    Raises:
        StorageError: the sites' folder is away for a moment: that shuts nobody out.
    """
    if not (server / SITES).is_dir():
        raise StorageError(f"{server / SITES}: not there; put it back")
    revoked = {entry["transport"]: entry for entry in read_lines(server, REVOKED)}
    found = {
        s.transport: s.name for s in enrolled_sites(server) if s.transport.hex() not in revoked
    }
    return found | retiring(server, now)


def retiring(server: Path, now: datetime) -> dict[bytes, str]:
    """Replaced transport keys (DER) that may still connect, with their sites' names."""
    ended = refused(server, now)
    found = {bytes.fromhex(line["transport"]): line["name"] for line in read_lines(server, REVOKED)}
    return {key: name for key, name in found.items() if key not in ended}


def refused(server: Path, now: datetime) -> set[bytes]:
    """The transport keys (DER) that were revoked, or whose grace is over."""
    moment = now.isoformat(timespec="seconds")
    lines = read_lines(server, REVOKED)
    return {bytes.fromhex(line["transport"]) for line in lines if line["when"] <= moment}


def retire(server: Path, name: str, now: datetime) -> None:
    """End the grace of a site's replaced keys: it uses the new one, or is shut out."""
    ended = {key.hex() for key, owner in retiring(server, now).items() if owner == name}
    when = now.isoformat(timespec="seconds")
    for line in read_lines(server, REVOKED):
        if line["transport"] in ended:
            ended.remove(line["transport"])
            append_line(server, REVOKED, line | {"when": when})
    if (server / GATEWAY).exists():
        write_revocations(server, now)


def write_revocations(server: Path, now: datetime) -> None:
    """Write the CRL: every certificate whose key is not an admitted site's."""
    with alone(server):
        good = {hashlib.sha256(key).hexdigest() for key in admitted(server, now)}
        serials = [serial for serial, key in issued_serials(server) if key not in good]
        text = revocation_list(authority_of(server), serials, now)
        write_atomic(server / "authority" / CRL, text.encode("ascii"))


def issued_serials(server: Path) -> list[tuple[int, str]]:
    """Serial numbers of all site certificates, with the SHA-256 (hex) of the key in each."""
    return [(int(entry["serial"], 16), entry["key"]) for entry in read_lines(server, ISSUED)]


def gateway_certificate(server: Path, now: datetime, random: RandomBytes) -> Path:
    """The file (PEM, mode 0600) of the gateway's key and certificate, made or renewed as needed."""
    path, host = server / TLS, gateway_of(server).host
    if not path.exists() or needs_renewal(path.read_text("ascii"), now):
        pair = issue_server(authority_of(server), [host], now, random)
        write_atomic(path, pair.key_pem() + pair.certificate.encode("ascii"), mode=0o600)
    return path


def _refuse_revoked(server: Path, site: SitePublic, source: str) -> None:
    lines = read_lines(server, REVOKED)
    if site.identity.hex() in {entry.get(STOLEN) for entry in lines}:
        raise OperatorError(
            f"{source}: this identity was revoked as stolen; the hospital makes a new site"
        )
    if site.transport.hex() in {entry["transport"] for entry in lines}:
        raise OperatorError(f"{source}: this key was revoked; ask the hospital for a new one")


def _present(server: Path, name: str) -> SitePublic | None:
    return next((site for site in enrolled_sites(server) if site.name == name), None)


def _public_path(server: Path, name: str) -> Path:
    return server / SITES / f"{name}.pub"


def _revocation(site: SitePublic, now: datetime) -> dict[str, str]:
    when = now.isoformat(timespec="seconds")
    key, identity = site.transport.hex(), site.identity.hex()
    return {"name": site.name, "transport": key, "identity": identity, "when": when}


def _issue(certificate: str, site: SitePublic) -> dict[str, str]:
    serial = load_certificate(certificate).serial_number
    key = hashlib.sha256(site.transport).hexdigest()
    return {"serial": f"{serial:x}", "name": site.name, "key": key}
