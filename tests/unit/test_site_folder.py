"""The site folder: made whole or not at all, opened only as it was made."""

from __future__ import annotations

import os
import shutil

import pytest

from fedward_client import site
from fedward_client.site_folder import VAULT_KEY_VARIABLE, create_site, load_key, open_site
from fedward_client.split import SplitRule, threshold_of
from fedward_common.errors import OperatorError, StorageError
from fedward_common.secret import SecretBytes


@pytest.fixture
def made(tmp_path):
    create_site(tmp_path / "site", "north", files={"identity/site.key": b"abc"})
    return tmp_path / "site"


def test_a_site_is_made_private_and_opens(made):
    with open_site(made) as site:
        assert (site.name, site.identity) == ("north", made / "identity")
        assert site.split.threshold == threshold_of(0.2)
        assert site.profile.pixels.head_ct_mr == "keep"
        assert site.catalogue.counts()["instances"] == 0
    for path in [made, *made.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    assert (made / "identity" / "site.key").read_bytes() == b"abc"
    assert not list(made.parent.glob(".*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
@pytest.mark.parametrize(("owner", "called"), [(65534, "nobody"), (4_000_001, "4000001")])
def test_a_folder_of_another_user_is_not_opened_and_not_written(made, owner, called):
    before = sorted(path.name for path in made.iterdir())
    os.chown(made, owner, -1)
    with pytest.raises(OperatorError, match=f"belongs to {called}: .* runuser -u {called} -- "):
        open_site(made)
    assert sorted(path.name for path in made.iterdir()) == before
    os.chown(made, os.geteuid(), -1)
    open_site(made).close()


def test_two_sites_share_no_key(tmp_path):
    keys = set()
    for name in ("a", "b"):
        create_site(tmp_path / name, name)
        keys |= {path.read_bytes() for path in (tmp_path / name / "identity").iterdir()}
    assert len(keys) == 6


def test_keys_come_from_the_given_randomness(tmp_path):
    create_site(tmp_path / "a", "a", lambda count: b"\5" * count)
    assert load_key(tmp_path / "a" / "identity" / "vault.key") == SecretBytes(b"\5" * 32)


def test_an_existing_folder_is_not_touched(made):
    with pytest.raises(OperatorError, match="already exists"):
        create_site(made, "north")


@pytest.mark.parametrize("name", ["", "North", "-x", "a b", "x" * 64, "ü", 'a"\nb'])
def test_bad_names_are_refused(tmp_path, name):
    with pytest.raises(OperatorError, match="site name"):
        create_site(tmp_path / "site", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fraction", [-0.1, 0.95, 1.0, float("nan")])
def test_bad_fractions_are_refused(tmp_path, fraction):
    with pytest.raises(OperatorError, match="holdout_fraction"):
        create_site(tmp_path / "site", "a", holdout_fraction=fraction)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        create_site(tmp_path / "file" / "site", "a")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("holdout_fraction = 0.2", "holdout_fraction = 0.3", "fixed when the site is made"),
        ('name = "north"', 'name = "south"', "fixed when the site is made"),
        ("schema = 1", "schema = 2", "schema"),
        ("schema = 1", "typo = 1", "typo"),
        ("schema = 1", "schema = ", "not TOML"),
        ('profile = ""', 'profile = "none.toml"', "none.toml"),
    ],
)
def test_an_edited_configuration_is_refused(made, old, new, complaint):
    config = made / "config.toml"
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(OperatorError, match=complaint):
        open_site(made)


def test_a_profile_of_the_site_is_used(made):
    (made / "own.toml").write_text('[pixels]\ntext = "quarantine"\n')
    config = made / "config.toml"
    config.write_text(config.read_text().replace('profile = ""', 'profile = "own.toml"'))
    with open_site(made) as site:
        assert site.profile.pixels.text == "quarantine"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.chmod(0o644), "chmod 600"),
        (lambda path: path.unlink(), "restore"),
        (lambda path: path.write_text("zz"), "not hexadecimal"),
        (lambda path: path.write_text("00" * 16), "at least 32"),
    ],
)
def test_a_bad_key_is_refused(made, damage, complaint):
    damage(made / "identity" / "split.key")
    with pytest.raises(OperatorError, match=complaint):
        open_site(made)


def test_the_vault_key_may_come_from_the_environment(made, monkeypatch):
    path = made / "identity" / "vault.key"
    with open_site(made) as site:
        site.vault.put("a", b"alpha")
    monkeypatch.setenv(VAULT_KEY_VARIABLE, path.read_text())
    path.unlink()
    with open_site(made) as site:
        assert site.vault.get("a") == b"alpha"


def test_what_is_no_site_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(OperatorError, match=r"not a site folder; .*--site or FEDWARD_SITE"):
        open_site(tmp_path)


def test_a_site_restored_without_its_volatile_folder_marks_it_again(tmp_path):
    """Backup tools that obey the tag must not find the keys of rounds in flight (A6)."""
    path, volatile = tmp_path / "site", tmp_path / "site" / "volatile"
    site.create_site(path, "north")
    tag = volatile / "CACHEDIR.TAG"
    text = tag.read_text()
    assert text.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    shutil.rmtree(volatile)
    site.open_site(path).close()
    assert tag.read_text() == text
    assert [entry.stat().st_mode & 0o777 for entry in (volatile, tag)] == [0o700, 0o600]
    tag.write_text("the operator's own")
    site.open_site(path).close()
    assert tag.read_text() == "the operator's own"


def test_a_site_opens_where_the_mark_cannot_be_written(tmp_path):
    path = tmp_path / "site"
    site.create_site(path, "north")
    shutil.rmtree(path / "volatile")
    (path / "volatile").write_text("in the way")
    with site.open_site(path) as opened:
        assert opened.name == "north"


def test_a_damaged_database_is_a_storage_error(made):
    for path in made.glob("site.db*"):
        path.unlink()
    (made / "site.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError):
        open_site(made)


def test_the_split_depends_on_the_patient_alone():
    rule = SplitRule(SecretBytes(b"k" * 32), threshold_of(0.25))
    patients = [f"{i:032x}" for i in range(4000)]
    held = [p for p in patients if rule.split_of(p) == "holdout"]
    assert 900 < len(held) < 1100
    assert held == [p for p in reversed(patients) if rule.split_of(p) == "holdout"][::-1]
    other = SplitRule(SecretBytes(b"l" * 32), threshold_of(0.25))
    assert [p for p in patients if other.split_of(p) == "holdout"] != held
    assert all(SplitRule(rule.key, threshold_of(0.0)).split_of(p) == "train" for p in patients[:50])
