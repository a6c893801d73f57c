"""Logging for a service manager: one line an event on standard error, no file to rotate.

What is logged never holds a secret, an order or anything of a patient; see each call.
"""

from __future__ import annotations

import logging
import os
import sys

_PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""Levels as sd-daemon(3) numbers them."""


class _JournalFormatter(logging.Formatter):
    """The journal knows the time and the unit; it reads the priority off the line's beginning."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{' '.join(super().format(record).split())}"


def log_to_stderr() -> None:
    """Log to standard error from now on: fedward's events, and warnings of everyone else."""
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("fedward_client").setLevel(logging.INFO)
    for noisy, level in (("absl", logging.ERROR), ("httpx", logging.WARNING)):
        logging.getLogger(noisy).setLevel(level)
