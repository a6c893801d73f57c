"""Turn pip's resolution report (argv[1]) into constraints.txt on standard output."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

HEADER = """\
# The exact versions that fedward and its extras dev, ocr and bench are installed with, on Linux
# with Python 3.11; torch's CUDA packages are listed for those whose torch brings them.
# Regenerate with `make constraints`, then run `make test`; never edit by hand.
"""


def pins(report: dict[str, list[dict[str, dict[str, str]]]]) -> list[str]:
    """Return sorted ``name==version`` lines, without fedward itself."""
    found = {
        re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item["metadata"]["version"]
        for item in report["install"]
    }
    found.pop("fedward")
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    resolved = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.stdout.write(HEADER + "\n".join(pins(resolved)) + "\n")
