"""The coordinator's folder: its key, the enrolled sites, and a folder for each study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedward_common import keys
from fedward_common.errors import OperatorError
from fedward_common.files import write_atomic
from fedward_common.identity import SitePublic, parse_site_public
from fedward_common.owner import foreign_owner
from fedward_common.plan.document import Plan
from fedward_common.plan.signing import SignedPlan, sign_plan
from fedward_common.randomness import RandomBytes, os_random
from fedward_common.secret import SecretBytes

KEY, PLAN = "coordinator.key", "plan.signed"


@dataclass(frozen=True)
class StoredStudy:
    """A signed plan and the folder that holds its checkpoints and results."""

    signed: SignedPlan
    folder: Path


@dataclass(frozen=True)
class ServerFolder:
    """An open coordinator's folder."""

    path: Path
    coordinator: SecretBytes

    def enrol(self, text: str, source: str) -> SitePublic:
        """Add a site to the sites that plans may name.

        Raises:
            OperatorError: not a valid SITE.pub, or another site of that name is enrolled.
        """
        site = parse_site_public(text, source)
        path = self.path / "sites" / f"{site.name}.pub"
        if path.exists() and path.read_text() != site.to_text():
            raise OperatorError(
                f"{source}: another site of this name is enrolled; remove {path} to replace it"
            )
        write_atomic(path, site.to_text().encode())
        return site

    def sites(self) -> tuple[SitePublic, ...]:
        """Every enrolled site, by name."""
        return enrolled_sites(self.path)

    def sign(self, plan: Plan) -> StoredStudy:
        """Sign a plan and make its study's folder.

        Raises:
            OperatorError: a different plan of this study is signed already.
        """
        folder = self.path / "studies" / plan.study.name
        signed = sign_plan(plan, self.coordinator)
        path = folder / PLAN
        if path.exists() and path.read_bytes() != signed.to_file():
            raise OperatorError(
                f"{path}: study {plan.study.name} has a signed plan; give the new one another name"
            )
        write_atomic(path, signed.to_file())
        return StoredStudy(signed, folder)

    def study(self, name: str) -> StoredStudy:
        """The signed plan of a study; see :func:`signed_study`."""
        return signed_study(self.path, name)


def enrolled_sites(path: Path) -> tuple[SitePublic, ...]:
    """Every site that is enrolled in the coordinator's folder ``path``, by name."""
    files = sorted((path / "sites").glob("*.pub"))
    return tuple(parse_site_public(file.read_text(), str(file)) for file in files)


def signed_study(path: Path, name: str) -> StoredStudy:
    """The signed plan of a study in the coordinator's folder ``path``.

    Raises:
        OperatorError: there is none of this name.
    """
    folder = path / "studies" / name
    plan = folder / PLAN
    if not plan.is_file():
        known = ", ".join(sorted(p.name for p in (path / "studies").glob("*"))) or "none"
        raise OperatorError(f"study {name}: no signed plan here; studies: {known}")
    return StoredStudy(SignedPlan.from_file(plan.read_bytes(), str(plan)), folder)


def create_server(path: Path, random: RandomBytes = os_random) -> ServerFolder:
    """Make a coordinator's folder with a fresh Ed25519 key.

    Raises:
        OperatorError: the folder holds a coordinator already, or belongs to another user.
    """
    if path.is_dir():
        _check_owner(path)
    if (path / KEY).exists():
        raise OperatorError(f"{path}: holds a coordinator already; choose another folder")
    key = keys.new_key(random)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path / KEY, key.reveal().hex().encode() + b"\n", mode=0o600)
    return ServerFolder(path, key)


def has_server(path: Path) -> bool:
    """Whether a coordinator was made in this folder."""
    return (path / KEY).exists()


def open_server(path: Path) -> ServerFolder:
    """Open a coordinator's folder.

    Raises:
        OperatorError: it is none, belongs to another user, or its key is readable by others or
            malformed.
    """
    file = path / KEY
    try:
        _check_owner(path)
        if file.stat().st_mode & 0o077:
            raise OperatorError(f"{file}: readable by others; run chmod 600 on it")
        key = bytes.fromhex(file.read_text().strip())
    except PermissionError:
        raise  # the command line says whose mistake that is
    except (OSError, ValueError) as error:
        raise OperatorError(
            f"{path}: no coordinator here; name its folder with --server, or make one with `init`"
        ) from error
    if len(key) != keys.KEY_BYTES:
        raise OperatorError(f"{file}: not a key of {keys.KEY_BYTES} bytes; restore it")
    return ServerFolder(path, SecretBytes(key))


def _check_owner(path: Path) -> None:
    """Root, too, would leave files that the server's own user cannot read."""
    if user := foreign_owner(path):
        raise OperatorError(
            f"{path} belongs to {user}: run it as that user, as in "
            f"`runuser -u {user} -- fedward-server ...`"
        )
