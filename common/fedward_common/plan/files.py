"""Reading a plan that a person names: TOML or JSON before it is signed, a signed plan after it."""

from __future__ import annotations

import json
from pathlib import Path

from fedward_common.errors import OperatorError, PeerError, PlanError
from fedward_common.plan.document import MAX_PLAN_BYTES, Plan, load_plan, parse_plan
from fedward_common.plan.signing import SignedPlan

_SIGNATURE_LINE = 129


def read_plan(path: Path) -> Plan:
    """Read a complete plan in any of its forms; the signature of a signed one is checked.

    Raises:
        OperatorError: the file cannot be read, or is no plan.
        PlanError: every defect of the plan, each with its field, value and remedy.
    """
    if path.suffix.lower() == ".toml":
        return load_plan(path)
    data = _read(path)
    if not data.lstrip().startswith(b"{"):
        return _opened(path, data)[1]
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OperatorError(f"{path}: not valid JSON; write it again with `plan create`") from error
    return parse_plan(document, str(path))


def read_signed_plan(path: Path) -> tuple[SignedPlan, Plan]:
    """Read a signed plan file and check its signature.

    Raises:
        OperatorError: not a signed plan, or its content or signature is not valid.
    """
    return _opened(path, _read(path))


def _opened(path: Path, data: bytes) -> tuple[SignedPlan, Plan]:
    signed = SignedPlan.from_file(data, str(path))
    try:
        return signed, signed.open()
    except PeerError as error:
        raise OperatorError(f"{path}: {error}; ask the coordinator for the plan again") from error


def _read(path: Path) -> bytes:
    limit = MAX_PLAN_BYTES + _SIGNATURE_LINE
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise OperatorError(f"{path}: cannot be read; check the path") from error
    if len(data) > limit:
        raise PlanError(str(path), [f"larger than {MAX_PLAN_BYTES} bytes; this is not a plan"])
    return data
