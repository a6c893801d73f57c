"""The site's one folder: ``config.toml``, ``identity/`` (keys), ``site.db`` and ``vault/``.

Keys are files of hexadecimal digits with mode 0600 in a folder with mode 0700. The fraction of
patients held out is fixed when the site is made: the database remembers it, so that an edited
configuration is refused rather than obeyed (B6).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward_client.catalogue import Catalogue
from fedward_client.database import open_database, transaction
from fedward_client.deidentify.profile import Profile
from fedward_client.split import SplitRule, threshold_of
from fedward_client.training.runtime import AUTO, DEVICE, Engine, RuntimeOptions
from fedward_client.vault import KEY_BYTES, Vault
from fedward_common.errors import IntegrityError, OperatorError, StorageError
from fedward_common.files import sync_folder, write_atomic
from fedward_common.owner import foreign_owner
from fedward_common.plan.document import describe_problem
from fedward_common.randomness import RandomBytes, os_random
from fedward_common.secret import SecretBytes

VAULT_KEY_VARIABLE = "FEDWARD_VAULT_KEY"
"""Environment variable that may hold the vault's key (hex) instead of ``identity/vault.key``."""

DEFAULT_HOLDOUT_FRACTION = 0.2
_KEYS = ("deidentify", "split", "vault")
_SETTINGS = "CREATE TABLE IF NOT EXISTS site (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"
_CONFIG = """\
# fedward site configuration. Privacy caps and approvals live in policy.toml.
schema = 1
name = "{name}"

# Fixed when the site was made: which patients are held out must never change.
holdout_fraction = {fraction}

# A de-identification profile (TOML, relative to this folder); "" is the built-in one for local
# training. What it keeps stays encrypted in this folder.
profile = ""

# Speed and memory of training, never the privacy.
[runtime]
engine = "fedward"    # or "opacus" or "opacus-functorch"
device = "auto"       # a GPU if there is one; or "cpu", "cuda", "cuda:1"
threads = 1           # of the processor
# micro_batch = 256   # images in one pass; without it, fitted to their size
"""


class _Runtime(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    engine: Engine = "fedward"
    device: Annotated[str, Field(pattern=DEVICE)] = AUTO
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    micro_batch: Annotated[int, Field(ge=1, le=1 << 20)] | None = None

    def options(self) -> RuntimeOptions:
        return RuntimeOptions(
            micro_batch=self.micro_batch,
            threads=self.threads,
            device=self.device,
            engine=self.engine,
        )


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Annotated[int, Field(alias="schema", ge=1, le=1)] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    holdout_fraction: float
    profile: str = ""
    runtime: _Runtime = _Runtime()


@dataclass(frozen=True)
class SiteFolder:
    """An open site. Close it, or use it in a ``with`` statement."""

    path: Path
    name: str
    profile: Profile
    runtime: RuntimeOptions
    deidentification_key: SecretBytes
    split: SplitRule
    database: sqlite3.Connection
    vault: Vault
    catalogue: Catalogue

    @property
    def identity(self) -> Path:
        """The folder of the site's keys."""
        return self.path / "identity"

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create_site(
    path: Path,
    name: str,
    random: RandomBytes = os_random,
    holdout_fraction: float = DEFAULT_HOLDOUT_FRACTION,
    *,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Make a new site folder at ``path``: all of it, or nothing.

    ``files``: more files to write, by path below the folder (mode 0600), such as the identity keys.

    Raises:
        OperatorError: the path exists, or the name or the fraction is not allowed.
        StorageError: the disk is full or read-only.
    """
    _check_new(path, name)
    threshold = threshold_of(holdout_fraction)
    building = path.with_name(f".{path.name}.making")
    keys = {f"identity/{key}.key": random(KEY_BYTES).hex().encode() + b"\n" for key in _KEYS}
    config = _CONFIG.format(name=name, fraction=float(holdout_fraction)).encode()
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(mode=0o700, parents=True)
        for file, content in {**keys, "config.toml": config, **(files or {})}.items():
            _write_private(building / file, content)
        _remember(building / "site.db", {"name": name, "holdout_threshold": str(threshold)})
        (building / "vault").mkdir(mode=0o700)
        building.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise StorageError(
            f"{path}: cannot make the site folder; check rights and space"
        ) from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def open_site(path: Path, random: RandomBytes = os_random) -> SiteFolder:
    """Open an existing site folder.

    Raises:
        OperatorError: not a site, another user's, an edited or malformed configuration, or a key
            that is missing, malformed or readable by others.
        IntegrityError: the site's database is gone.
        StorageError: the database or the vault cannot be opened.
    """
    _check_owner(path)
    if not (path / "site.db").is_file():
        if (path / "identity").is_dir():  # B6: a ledger is never begun anew under old keys
            raise IntegrityError(
                f"{path / 'site.db'}: missing, and with it the privacy ledger; put back the newest "
                "copy of the site's folder, all of it"
            )
        raise OperatorError(
            f"{path}: not a site folder; name the site's with --site or FEDWARD_SITE, or make one "
            "with fedward-client init"
        )
    config = _read_config(path / "config.toml")
    profile = Profile.load(path / config.profile) if config.profile else None
    keys = {name: _read_key(path, name) for name in _KEYS}
    database = open_database(path / "site.db")
    try:
        threshold = _check_unchanged(path, database, config)
        vault = Vault(path / "vault", keys["vault"], random)
        return SiteFolder(
            path=path,
            name=config.name,
            profile=profile or Profile.for_local_training(),
            runtime=config.runtime.options(),
            deidentification_key=keys["deidentify"],
            split=SplitRule(keys["split"], threshold),
            database=database,
            vault=vault,
            catalogue=Catalogue(database, vault),
        )
    except BaseException:
        database.close()
        raise


def _check_owner(path: Path) -> None:
    """Nothing is opened as someone else: what is written then, the service's user cannot read."""
    with suppress(OSError):  # what is wrong with it is told by whoever reads it
        if user := foreign_owner(path):
            raise OperatorError(
                f"{path} belongs to {user}: run it as that user, as in runuser -u {user} -- "
                "fedward-client ..."
            )


def _check_new(path: Path, name: str) -> None:
    try:
        _Config(name=name, holdout_fraction=0.0)
    except ValidationError as error:
        raise OperatorError(
            f"site name {name!r}: use 1 to 63 lower-case letters, digits and hyphens"
        ) from error
    if path.exists():
        raise OperatorError(f"{path}: already exists; choose another folder")


def _write_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomic(path, content, mode=0o600)


def _remember(path: Path, settings: Mapping[str, str]) -> None:
    database = open_database(path)
    try:
        with transaction(database):
            database.execute(_SETTINGS)
            database.executemany("INSERT INTO site VALUES (?, ?)", settings.items())
    finally:
        database.close()


def _check_unchanged(path: Path, database: sqlite3.Connection, config: _Config) -> int:
    """Return the threshold that ``init`` fixed. # B6."""
    try:
        settings = dict(database.execute("SELECT name, value FROM site").fetchall())
        threshold, name = int(settings["holdout_threshold"]), settings["name"]
    except (sqlite3.Error, KeyError, ValueError) as error:
        raise StorageError(f"{path / 'site.db'}: not a site database; restore it") from error
    if threshold != threshold_of(config.holdout_fraction) or name != config.name:
        raise OperatorError(
            f"{path / 'config.toml'}: name and holdout_fraction are fixed when the site is made; "
            "undo the edit"
        )
    return threshold


def _read_config(path: Path) -> _Config:
    try:
        return _Config.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot be read; restore it") from error
    except tomllib.TOMLDecodeError as error:
        raise OperatorError(f"{path}: not TOML; {error}") from error
    except ValidationError as error:
        fields = "; ".join(describe_problem(problem) for problem in error.errors())
        raise OperatorError(f"{path}: {fields}") from error


def _read_key(folder: Path, name: str) -> SecretBytes:
    path = folder / "identity" / f"{name}.key"
    text = os.environ.get(VAULT_KEY_VARIABLE) if name == "vault" else None
    return parse_key(text, VAULT_KEY_VARIABLE) if text else load_key(path)


def load_key(path: Path) -> SecretBytes:
    """Read a key file: at least 32 bytes as hexadecimal digits, mode 0600.

    Raises:
        OperatorError: missing, readable by others, or malformed.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise OperatorError(f"{path}: readable by others; run chmod 600 on it")
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot read the key; restore it from its backup") from error
    return parse_key(text, str(path))


def parse_key(text: str, source: str) -> SecretBytes:
    """Parse hexadecimal digits of at least 32 bytes; ``source`` is named in the error."""
    try:
        key = bytes.fromhex(text.strip())
    except ValueError as error:
        raise OperatorError(f"{source}: not hexadecimal; restore the key") from error
    if len(key) < KEY_BYTES:
        raise OperatorError(f"{source}: {len(key)} bytes; a key has at least {KEY_BYTES}")
    return SecretBytes(key)
