"""What the gateway has seen: for `status`, and as Prometheus text for those who watch servers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]

HELP = {
    "fedward_gateway_requests_total": ("counter", "Requests by path and status."),
    "fedward_gateway_received_bytes_total": ("counter", "Bytes of request bodies by site."),
    "fedward_gateway_sent_bytes_total": ("counter", "Bytes of response bodies by site."),
    "fedward_gateway_refused_total": ("counter", "Requests that the gateway refused, by site."),
    "fedward_site_last_seen_timestamp_seconds": ("gauge", "Unix time of the last request."),
    "fedward_study_sums": ("gauge", "Published sums by study."),
    "fedward_study_sums_planned": ("gauge", "Sums of the plan by study."),
    "fedward_study_attempts": ("gauge", "Attempts used by study."),
    "fedward_study_failed": ("gauge", "1 if a study cannot go on without a person."),
}


@dataclass
class Counters:
    """Counts since the gateway started. A site is known by the name it is enrolled under."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    last_seen: dict[str, float] = field(default_factory=dict)
    last_refusal: dict[str, str] = field(default_factory=dict)

    def request(self, path: str, status: int) -> None:
        """A request was answered; ``path`` is one that is let through, or "other"."""
        self.requests[path, status] += 1

    def seen(self, site: str) -> None:
        """A site has asked for something that it may have."""
        self.last_seen[site] = time.time()

    def refuse(self, site: str, reason: str) -> None:
        """A request of a site was refused here; an unknown key has the empty name."""
        self.refused[site] += 1
        self.last_refusal[site] = reason

    def as_dict(self) -> dict[str, Any]:
        """For `status`: when each site was last seen, and what it was last refused for."""
        return {"last_seen": dict(self.last_seen), "last_refusal": dict(self.last_refusal)}

    def samples(self) -> list[Sample]:
        """Every count as a Prometheus sample."""
        found: list[Sample] = [
            (
                "fedward_gateway_requests_total",
                (("path", path), ("status", str(status))),
                float(count),
            )
            for (path, status), count in sorted(self.requests.items())
        ]
        for name, values in self._by_site().items():
            found += [(name, (("site", s),), float(v)) for s, v in sorted(values.items())]
        return found

    def _by_site(self) -> dict[str, Mapping[str, float]]:
        return {
            "fedward_gateway_received_bytes_total": self.received,
            "fedward_gateway_sent_bytes_total": self.sent,
            "fedward_gateway_refused_total": self.refused,
            "fedward_site_last_seen_timestamp_seconds": self.last_seen,
        }


def prometheus(samples: Iterable[Sample]) -> str:
    """Text exposition format 0.0.4; samples of one name stand together."""
    lines: list[str] = []
    described = ""
    for name, labels, value in sorted(samples):
        if name != described:
            kind, text = HELP[name]
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            described = name
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        lines.append(f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
