"""The vault: files sealed with AES-256-GCM, written atomically, bound to their names.

An object's key is derived from the vault's key and the object's id, and the id is authenticated, so
an altered, truncated or swapped file fails its seal. File names are keyed digests of the ids: the
folder's listing links nothing. A write is a temporary file and a rename; :meth:`Vault.flush` fsyncs
all files written since the last one, together, and then the folder; only then may a catalogue row
refer to an object (G6).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedward_client.keyed import Keyed, encode_texts
from fedward_common.codec import encode
from fedward_common.errors import IntegrityError, OperatorError, StorageError
from fedward_common.files import sync_file, sync_folder
from fedward_common.randomness import RandomBytes
from fedward_common.secret import SecretBytes

KEY_BYTES = 32
_MAGIC = b"FWVLT001"
_NONCE_BYTES = 12
_HEADER_BYTES = len(_MAGIC) + _NONCE_BYTES
_TEMPORARY = ".part"
_FSYNC_THREADS = 8  # concurrent fsyncs share the journal's commits: 10 times as fast as in turn


class Vault:
    """Sealed objects in one folder (made with mode 0700).

    Raises:
        OperatorError: the key is not 32 bytes.
        StorageError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, key: SecretBytes, random: RandomBytes) -> None:
        if len(key) != KEY_BYTES:
            raise OperatorError(f"vault key: {len(key)} bytes; it must be {KEY_BYTES}")
        self._folder, self._keyed, self._random = folder, Keyed(key), random
        self._pending: list[Path] = []
        self._columns = AESGCM(self._derived("column"))
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot open the vault; check rights and space"
            ) from error

    def put(self, name: str, data: bytes) -> None:
        """Seal ``data`` under ``name``, replacing what was there. Call :meth:`flush` afterwards.

        Raises:
            StorageError: the disk is full or read-only; nothing half-written is left.
        """
        nonce = self._random(_NONCE_BYTES)
        sealed = AESGCM(self._object_key(name)).encrypt(nonce, data, _bound(name, _MAGIC))
        path = self._path(name)
        temporary = path.with_suffix(f".{os.getpid()}{_TEMPORARY}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(b"".join((_MAGIC, nonce, sealed)))
            temporary.replace(path)
            self._pending.append(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise StorageError(
                f"{self._folder}: cannot write; free disk space, then run it again"
            ) from error

    def flush(self) -> None:
        """Make all objects put so far durable.

        Raises:
            StorageError: the disk could not take them.
        """
        try:
            with ThreadPoolExecutor(_FSYNC_THREADS) as pool:
                list(pool.map(sync_file, self._pending))
            sync_folder(self._folder)
        except OSError as error:
            raise StorageError(
                f"{self._folder}: cannot write; free disk space, then run it again"
            ) from error
        self._pending.clear()

    def get(self, name: str) -> bytes:
        """Return the data sealed under ``name``.

        Raises:
            IntegrityError: altered, truncated, swapped, missing, or sealed under another key.
        """
        try:
            raw = self._path(name).read_bytes()
        except OSError as error:
            raise IntegrityError(
                f"{self._folder}: an object of the catalogue is missing; add its images again"
            ) from error
        magic, nonce = raw[: len(_MAGIC)], raw[len(_MAGIC) : _HEADER_BYTES]
        try:
            return AESGCM(self._object_key(name)).decrypt(
                nonce, raw[_HEADER_BYTES:], _bound(name, magic)
            )
        except (InvalidTag, ValueError) as error:  # ValueError: cut within the nonce
            raise IntegrityError(
                f"{self._path(name)}: altered, swapped or sealed under another key; "
                "restore it or add its images again"
            ) from error

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_file()

    def remove(self, name: str) -> None:
        """Delete an object if it is there."""
        with suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def sweep(self, keep: Iterable[str]) -> int:
        """Delete every object not in ``keep``, and what a kill left half-written.

        Returns how many there were. One process at a time may sweep (the intake holds a lock);
        another that reads finds a swept cache missing, and makes it again.
        """
        wanted = {self._path(name).name for name in keep}
        orphans = [path for path in self._folder.iterdir() if path.name not in wanted]
        for path in orphans:
            with suppress(OSError):
                path.unlink()
        return len(orphans)

    def seal(self, context: str, data: bytes) -> bytes:
        """Seal a database column; ``context`` names its row and must be given to open it again."""
        nonce = self._random(_NONCE_BYTES)
        return nonce + self._columns.encrypt(nonce, data, encode_texts("column", context))

    def unseal(self, context: str, sealed: bytes) -> bytes:
        """Open a sealed column.

        Raises:
            IntegrityError: altered, moved to another row, or sealed under another key.
        """
        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._columns.decrypt(nonce, body, encode_texts("column", context))
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(
                "site database: a sealed column was altered or moved; restore it from a backup"
            ) from error

    def fingerprint(self, data: bytes) -> bytes:
        """Return a keyed digest (32 bytes) by which equal content is known again."""
        return hmac.new(
            self._derived("fingerprint"), hashlib.sha256(data).digest(), hashlib.sha256
        ).digest()

    def _path(self, name: str) -> Path:
        return self._folder / self._derived("name", name).hex()[:40]

    def _object_key(self, name: str) -> bytes:
        return self._derived("object", name)

    def _derived(self, *labels: str) -> bytes:
        return self._keyed.digest("fedward-vault-1", *labels)


def _bound(name: str, magic: bytes) -> bytes:
    """What is authenticated beside the data: the object's id and the file's format."""
    return encode(("object", magic, name))
