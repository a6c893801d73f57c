"""The bars of the issue "De-identification", by the code of its acceptance, reduced."""

from __future__ import annotations

from tests.accept.deidentification import accept


def test_the_leak_harness_finds_nothing(shared_dir, tmp_path):
    assert (shared_dir / "tools" / "leak_harness.py").is_file()
    record = accept(tmp_path, reduced=True)
    missed = [check for check in record.checks if not check.passed]
    assert not missed
    assert len(record.checks) == 19
