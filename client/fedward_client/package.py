"""Which code a site runs, and that its operator has approved a plan for exactly this code.

An approval is consent to what the installed package does with patients' data. A site therefore
notes the package's digest with its approval; after an upgrade every study waits until its operator
has approved again (``fedward-client plan approve``), under the same keys.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from fedward_client.database import transaction
from fedward_common import __version__
from fedward_common.codec import digest
from fedward_common.errors import MisuseError, PolicyRefusalError

PACKAGES = ("fedward_client", "fedward_common")
"""What runs at a site."""

_SKIPPED = ("__pycache__",)
_SCHEMA = """CREATE TABLE IF NOT EXISTS approved_packages (
    plan_digest BLOB PRIMARY KEY, package BLOB NOT NULL
) STRICT"""


@functools.cache
def package_digest() -> bytes:
    """SHA-256 over the names and contents of every file of the installed packages, 32 bytes.

    It is worked out once a process, from the files as they are then: those that it has loaded.
    """
    files = tuple(
        (
            f"{name}/{path.relative_to(folder).as_posix()}",
            hashlib.sha256(path.read_bytes()).digest(),
        )
        for name, folder in _folders()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(_SKIPPED) & set(path.parts)
    )
    return digest("package", __version__, files)


def version_of(text: str) -> tuple[int, ...]:
    """A version ``major.minor.patch`` as numbers that compare."""
    return tuple(int(part) for part in text.split(".")[:3])


def too_old_for(needed: str) -> str | None:
    """Say that this package is older than the plan's minimum; None if it is not."""
    if version_of(__version__) >= version_of(needed):
        return None
    return f"the plan needs fedward {needed}; this is {__version__}: upgrade"


class ApprovedPackages:
    """The package that each plan was approved with, in one site's database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with transaction(connection):
            connection.execute(_SCHEMA)

    def approve(self, plan_digest: bytes) -> None:
        """Note that the operator has approved this plan for the package that runs now."""
        with transaction(self._connection) as db:
            db.execute(
                "INSERT OR REPLACE INTO approved_packages VALUES (?, ?)",
                (plan_digest, package_digest()),
            )

    def is_approved(self, plan_digest: bytes) -> bool:
        """Whether the operator has approved this plan for the package that runs now."""
        row = self._connection.execute(
            "SELECT package FROM approved_packages WHERE plan_digest = ?", (plan_digest,)
        ).fetchone()
        return row is not None and row[0] == package_digest()

    def check(self, plan_digest: bytes) -> None:
        """Refuse to compute with another package than the approved one.

        Raises:
            PolicyRefusalError: it was exchanged since the approval.
        """
        if not self.is_approved(plan_digest):
            short = plan_digest.hex()[:16]
            raise PolicyRefusalError(
                f"plan {short}: fedward was upgraded or changed since it was approved; read what "
                f"is new, then run fedward-client plan approve {short}"
            )


def _folders() -> Iterator[tuple[str, Path]]:
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise MisuseError(f"{name} is not a package on the path")
        yield name, Path(next(iter(spec.submodule_search_locations)))
