"""A hospital's site, open: its folder, keys, ledger, policy, log and studies in one place.

:func:`create_site` and :func:`open_site` are the outermost functions: they fill in the operating
system's randomness. A simulation passes its own to the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fedward_client import site_folder
from fedward_client.audit_log import AuditLog
from fedward_client.audits import Audits
from fedward_client.heads import HeadBook
from fedward_client.ledger import Ledger
from fedward_client.members import Members
from fedward_client.package import ApprovedPackages
from fedward_client.policy import Policy
from fedward_client.policy_file import default_policy_text, load_policy
from fedward_client.round_state import RoundStore
from fedward_client.site_folder import SiteFolder, load_key
from fedward_client.studies import Studies
from fedward_client.training.runtime import RuntimeOptions
from fedward_common import keys
from fedward_common.errors import StorageError
from fedward_common.files import write_atomic
from fedward_common.identity import SiteIdentity
from fedward_common.randomness import RandomBytes, os_random
from fedward_common.secret import SecretBytes

Randomness = Callable[..., RandomBytes]
"""The source of random bytes for a purpose, such as ``("share", study, e)``."""

IDENTITY, TRANSPORT, POLICY = "identity.key", "transport.key", "policy.toml"
PUBLIC = "SITE.pub"

VOLATILE = "volatile"
"""Folder of the keys of rounds in flight: never to be backed up (A6)."""

_TAG = f"{VOLATILE}/CACHEDIR.TAG"
_NO_BACKUP = b"""Signature: 8a477f597d28d172789f06886806bc55
# Keys of rounds in flight. Leave this folder out of every backup: a restored copy of the site must
# not be able to open the seeds of an earlier round.
"""


@dataclass(frozen=True)
class Site:
    """Everything a site's side of a study needs. Close it, or use it in a ``with`` statement."""

    folder: SiteFolder
    identity: SiteIdentity
    policy: Policy
    ledger: Ledger
    audit: AuditLog
    studies: Studies
    rounds: RoundStore
    members: Members
    packages: ApprovedPackages
    heads: HeadBook
    audits: Audits
    randomness: Randomness
    runtime: RuntimeOptions
    simulation: bool

    @property
    def name(self) -> str:
        """The site's name, as on rosters."""
        return self.folder.name

    def encryption_key(self, plan_digest: bytes) -> SecretBytes:
        """The X25519 key that this site made when it approved the plan (A1)."""
        return load_key(self._encryption_path(plan_digest))

    def new_encryption_key(self, plan_digest: bytes) -> SecretBytes:
        """Make and store a fresh X25519 key for a plan."""
        key = keys.new_key(self.randomness("encryption", plan_digest))
        _store_key(self._encryption_path(plan_digest), key)
        return key

    def destroy_encryption_key(self, plan_digest: bytes) -> None:
        """Destroy the key when the study ends (A1)."""
        self._encryption_path(plan_digest).unlink(missing_ok=True)

    def _encryption_path(self, plan_digest: bytes) -> Path:
        return self.folder.identity / f"plan-{plan_digest.hex()[:32]}.key"

    def close(self) -> None:
        """Close the site's database."""
        self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create_site(
    path: Path,
    name: str,
    *,
    holdout_fraction: float = site_folder.DEFAULT_HOLDOUT_FRACTION,
    policy: str | None = None,
    random: RandomBytes = os_random,
) -> None:
    """Make a site folder with fresh keys and, unless ``policy`` is given, one that refuses all."""
    identity = SiteIdentity.generate(name, random)
    text = default_policy_text() if policy is None else policy
    site_folder.create_site(
        path,
        name,
        random,
        holdout_fraction,
        files={
            f"identity/{IDENTITY}": _hex(identity.identity),
            f"identity/{TRANSPORT}": _hex(identity.transport),
            POLICY: text.encode(),
            PUBLIC: identity.public().to_text().encode(),
            _TAG: _NO_BACKUP,
        },
    )


def open_site(
    path: Path,
    *,
    randomness: Randomness = lambda *_: os_random,
    runtime: RuntimeOptions | None = None,
    simulation: bool = False,
) -> Site:
    """Open a site folder with its policy, ledger and studies.

    ``runtime`` stands in for the ``[runtime]`` of its ``config.toml``.

    Raises:
        OperatorError: not a site, or a file of it is missing, malformed or readable by others.
        StorageError, IntegrityError: the database cannot be opened, or its chains do not hold.
    """
    folder = site_folder.open_site(path)
    try:
        database = folder.database
        _keep_out_of_backups(path / _TAG)
        return Site(
            folder=folder,
            identity=SiteIdentity(
                folder.name,
                load_key(folder.identity / IDENTITY),
                load_key(folder.identity / TRANSPORT),
            ),
            policy=load_policy(path / POLICY),
            ledger=Ledger(database),
            audit=AuditLog(database),
            studies=Studies(database),
            rounds=RoundStore(database, path / VOLATILE),
            members=Members(database),
            packages=ApprovedPackages(database),
            heads=HeadBook(database),
            audits=Audits(database),
            randomness=randomness,
            runtime=runtime or folder.runtime,
            simulation=simulation,
        )
    except BaseException:
        folder.close()
        raise


def _keep_out_of_backups(tag: Path) -> None:
    """Mark the keys' folder again, which a restored site lacks (A6); it is no reason to fail."""
    with suppress(OSError, StorageError):
        if not tag.exists():
            tag.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomic(tag, _NO_BACKUP, mode=0o600)


def _store_key(path: Path, key: SecretBytes) -> None:
    write_atomic(path, _hex(key), mode=0o600)


def _hex(key: SecretBytes) -> bytes:
    return key.reveal().hex().encode() + b"\n"
