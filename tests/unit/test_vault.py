"""The vault: what is put comes back, and nothing altered ever does."""

from __future__ import annotations

import os

import pytest

from fedward_client.vault import Vault
from fedward_common.errors import IntegrityError, OperatorError, StorageError
from fedward_common.randomness import os_random
from fedward_common.secret import SecretBytes

KEY = SecretBytes(b"\7" * 32)


@pytest.fixture
def vault(tmp_path):
    return Vault(tmp_path / "vault", KEY, os_random)


def files(vault):
    return sorted(vault._folder.iterdir())


def test_objects_come_back_after_reopening(vault):
    vault.put("a", b"alpha")
    vault.put("b", b"")
    vault.put("a", b"again")
    vault.flush()
    reopened = Vault(vault._folder, KEY, os_random)
    assert (reopened.get("a"), reopened.get("b")) == (b"again", b"")
    assert "a" in reopened
    assert "c" not in reopened


def test_neither_content_nor_names_are_in_clear(vault):
    vault.put("instance/SECRETNAME", b"SECRETCONTENT" * 10)
    (path,) = files(vault)
    assert b"SECRET" not in path.read_bytes()
    assert "SECRET" not in path.name
    assert path.stat().st_mode & 0o777 == 0o600
    assert vault._folder.stat().st_mode & 0o777 == 0o700


def test_equal_content_is_sealed_differently(vault):
    vault.put("a", b"same")
    vault.put("b", b"same")
    one, other = (path.read_bytes() for path in files(vault))
    assert one != other


@pytest.mark.parametrize("position", [0, 7, 8, 19, 20, -1])
def test_any_altered_byte_is_detected(vault, position):
    vault.put("a", b"alpha")
    (path,) = files(vault)
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match=str(path)):
        vault.get("a")


@pytest.mark.parametrize("length", [0, 5, 15, 30])
def test_a_truncated_file_is_detected(vault, length):
    vault.put("a", b"alpha" * 10)
    (path,) = files(vault)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(IntegrityError):
        vault.get("a")


def test_swapped_files_are_detected(vault):
    vault.put("a", b"alpha")
    vault.put("b", b"bravo")
    one, other = files(vault)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    for name in ("a", "b"):
        with pytest.raises(IntegrityError):
            vault.get(name)


def test_another_key_opens_nothing(vault):
    vault.put("a", b"alpha")
    other = Vault(vault._folder, SecretBytes(b"\x08" * 32), os_random)
    (path,) = files(vault)
    path.rename(other._path("a"))
    with pytest.raises(IntegrityError):
        other.get("a")


def test_a_missing_object_is_an_integrity_error(vault):
    with pytest.raises(IntegrityError, match="missing"):
        vault.get("a")


def test_leftovers_of_a_kill_are_swept(vault):
    vault.put("a", b"alpha")
    leftover = vault._folder / ("0" * 40 + ".1.part")
    leftover.write_bytes(b"half")
    assert vault.sweep(["a"]) == 1
    assert not leftover.exists()
    assert vault.get("a") == b"alpha"


def test_sweep_keeps_only_what_is_named(vault):
    for name in "abc":
        vault.put(name, b"x")
    assert vault.sweep(["b"]) == 2
    assert [name for name in "abc" if name in vault] == ["b"]
    vault.remove("b")
    vault.remove("b")
    assert "b" not in vault


def test_sealed_columns_are_bound_to_their_row(vault):
    sealed = vault.seal("label patient 1", b"pneumonia")
    assert b"pneumonia" not in sealed
    assert vault.unseal("label patient 1", sealed) == b"pneumonia"
    for context, column in (("label patient 2", sealed), ("label patient 1", sealed[:5])):
        with pytest.raises(IntegrityError):
            vault.unseal(context, column)


def test_fingerprints_are_keyed(vault, tmp_path):
    other = Vault(tmp_path / "other", SecretBytes(b"\x08" * 32), os_random)
    assert vault.fingerprint(b"x") == vault.fingerprint(b"x")
    assert vault.fingerprint(b"x") not in (vault.fingerprint(b"y"), other.fingerprint(b"x"))


def test_a_key_of_another_length_is_refused(tmp_path):
    with pytest.raises(OperatorError, match="32"):
        Vault(tmp_path, SecretBytes(b"short"), os_random)


def test_a_vault_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Vault(tmp_path / "file" / "vault", KEY, os_random)


def test_a_full_disk_leaves_nothing_half_written(vault):
    """A limit on the size of files stands for a full disk: the write itself fails."""
    pid = os.fork()
    if pid == 0:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            vault.put("big", b"x" * 5000)
        except StorageError:
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert files(vault) == []
