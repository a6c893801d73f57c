"""How numbers are written for people. A figure that is not finite is written as a dash."""

from __future__ import annotations

import math
from datetime import datetime

from fedward_server.report.model import Estimate

MODEL_NAMES = {"cnn": "CNN", "cnn-classic": "classic CNN", "svm": "linear SVM"}
NOTHING = "–"  # noqa: RUF001  # an en dash is what a table shows for "no figure"


def figure(value: float | None, digits: int = 3) -> str:
    """``0.946``, with ``digits`` decimals."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}"


def estimate(value: Estimate | None, digits: int = 3) -> str:
    """``0.946``, or ``0.946 ± 0.006`` where privacy noise makes it uncertain."""
    if value is None:
        return NOTHING
    if value.uncertainty is None or not math.isfinite(value.uncertainty):
        return figure(value.value, digits)
    return f"{figure(value.value, digits)} ± {figure(value.uncertainty, digits)}"


def count(value: float | None) -> str:
    """A whole number with commas: ``4,708``."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{round(value):,}"


def epsilon(value: float | None) -> str:
    """``2.00``; ``none`` where no guarantee exists (None)."""
    return "none" if value is None else figure(value, 2)


def small(value: float) -> str:
    """A small probability as a power of ten where it is one: ``1e-05`` becomes ``10⁻⁵``."""
    if not math.isfinite(value) or value <= 0:
        return NOTHING if not math.isfinite(value) else "0"
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10.0**exponent
    power = "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if abs(mantissa - 1.0) < 1e-6 else f"{mantissa:.2g}·{power}"


def size(octets: float | None) -> str:
    """Bytes in decimal units: ``23.4 kB``."""
    if octets is None or not math.isfinite(octets):
        return NOTHING
    value = float(octets)
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(value) < 1000.0:
            written = f"{value:.0f}" if unit == "bytes" else f"{value:#.3g}".rstrip(".")
            return f"{written} {unit}"
        value /= 1000.0
    return f"{value:,.2f} TB"


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``48 s``, ``2 min 14 s`` or ``1 h 05 min``."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def moment(iso: str) -> str:
    """``21 November 2026, 20:49 UTC`` from an ISO 8601 time; any other text as it is."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = when.tzname() or ""
    return f"{when.day} {when:%B %Y, %H:%M} {zone}".strip()


def best_guess(epsilon_: float, delta: float) -> float:
    """Largest chance of guessing rightly whether a patient took part, from even odds.

    ``(exp(epsilon) + delta) / (1 + exp(epsilon))``: Kairouz, Oh and Viswanath 2015, theorem 2.1,
    at a prior of one half. A bound on every attacker, not an estimate of any.
    """
    return 1.0 - (1.0 - delta) / (1.0 + math.exp(min(epsilon_, 700.0)))


def model_name(kind: str) -> str:
    """What people call a kind of model; a kind without a name of its own as it is."""
    return MODEL_NAMES.get(kind, kind)


def percent(share: float) -> str:
    """``88 %``; never rounded up to certainty: ``99.99 %``, then ``> 99.99 %``."""
    value = 100.0 * share
    for digits in (0, 1, 2):
        written = f"{value:.{digits}f}"
        if float(written) < 100.0:
            return f"{written} %"
    return "> 99.99 %"
