"""Whose a folder is: what root writes into a service's folder, the service cannot read."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def foreign_owner(path: Path) -> str | None:
    """The user whom ``path`` belongs to, if that is not the one who runs this; else None.

    Raises:
        OSError: there is no such path, or it cannot be looked at.
    """
    owner = path.stat().st_uid
    if owner == os.geteuid():
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:  # one of another machine's users, or removed
        return str(owner)
