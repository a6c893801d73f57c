"""Every error fedward raises on purpose, by whose fault it is.

Four kinds under one base. Edges (files, sockets, Flower, pydicom) wrap foreign exceptions once,
with ``raise ... from error``; the command line prints ``str(error)`` as one line and exits with
``error.exit_code``. A message names what, where and what to do; it never holds a secret, a
patient's data or another exception's payload.
"""

from __future__ import annotations

from collections.abc import Sequence


class FedwardError(Exception):
    """Base of all errors below. ``exit_code`` is the process's exit status."""

    exit_code = 1


class MisuseError(FedwardError):
    """A caller inside fedward broke a contract: a bug of ours, not of the operator."""


class PeerError(FedwardError):
    """A message from the other side is malformed, hostile or out of turn."""


class OperatorError(FedwardError):
    """The person running the command can mend it: a bad file, field, option or path."""

    exit_code = 2


class PlanError(OperatorError):
    """A study plan is invalid. ``problems`` lists every defect found, one line each."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(f"{source}: " + "; ".join(self.problems))

    def __reduce__(self) -> tuple[type[PlanError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.source, self.problems)


class PolicyRefusalError(FedwardError):
    """The site's own policy, plan approval or privacy budget forbids what was asked."""

    exit_code = 2


class StorageError(FedwardError):
    """The disk is full, read-only or corrupt: nothing half-written was left behind."""


class IntegrityError(StorageError):
    """Stored data was altered, truncated or swapped: it fails its seal or its hash chain."""
