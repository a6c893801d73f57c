"""What the documents point at is there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
SECTIONS = ["Context", "Decision", "Consequences"]


def documents(root: Path) -> list[Path]:
    """Every Markdown file of the project."""
    return [*root.glob("*.md"), *root.glob("docs/**/*.md")]


def test_licence_is_the_unchanged_text(root: Path) -> None:
    assert hashlib.sha256((root / "LICENSE").read_bytes()).hexdigest() == APACHE_2_SHA256


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/adr/README.md"]
)
def test_document_is_there(root: Path, name: str) -> None:
    assert (root / name).is_file()


def test_relative_links_lead_somewhere(root: Path) -> None:
    links = [
        (document, target)
        for document in documents(root)
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text("utf-8"))
        if "://" not in target
    ]
    assert links
    assert not [(str(d), t) for d, t in links if not (d.parent / t).exists()]


def test_make_commands_in_the_documents_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    said = {
        command
        for document in documents(root)
        for code in re.findall(r"`([^`\n]+)`|^    (.+)$", document.read_text("utf-8"), re.MULTILINE)
        for command in re.findall(r"^make ([a-z-]+)", "".join(code))
    }
    assert {"demo", "test"} <= said
    assert said <= targets


def test_decisions_are_numbered_indexed_and_complete(root: Path) -> None:
    records = sorted((root / "docs" / "adr").glob("0*.md"))
    index = (root / "docs" / "adr" / "README.md").read_text("utf-8")
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text("utf-8")
        assert text.startswith(f"# {record.name[:4]}. ")
        assert re.search(r"^Status: \w+", text, re.MULTILINE)
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
        assert f"]({record.name})" in index
