"""DICOM dates and times (PS3.5 6.2), shifted together by a number of seconds.

A date and the time that belongs to it form one moment, so a shift may carry over midnight. A date
without a time counts as noon. Fractions of a second are kept; anything that does not parse is None.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_DATE = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(\.\d{1,6})?)?)?")
_DATETIME = re.compile(r"(\d{8})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?(?:[+-]\d{4})?")
_ANY_DAY = datetime(2000, 1, 1, tzinfo=UTC)


def shift_date(date: str, time: str | None, seconds: int) -> str | None:
    """Return the DA value ``date`` (at ``time``) moved by ``seconds``."""
    moment = _day(date)
    offset = seconds_of_day(time) if time is not None else None
    if moment is None:
        return None
    try:
        moment += timedelta(seconds=seconds + (43_200 if offset is None else offset))
    except OverflowError:  # beyond the years 1 to 9999
        return None
    return f"{moment:%Y%m%d}" if moment.year >= 1000 else None


def shift_time(time: str, seconds: int) -> str | None:
    """Return the TM value ``time`` moved by ``seconds``, wrapping at midnight."""
    offset = seconds_of_day(time)
    if offset is None:
        return None
    moved = _ANY_DAY + timedelta(seconds=offset + seconds % 86_400)
    return f"{moved:%H%M%S}{_fraction(time)}"


def shift_datetime(value: str, seconds: int) -> str | None:
    """Return the DT value moved by ``seconds``; its offset from UTC is dropped."""
    match = _DATETIME.fullmatch(value)
    if match is None:
        return None
    date, time = match.group(1), match.group(2)
    shifted = shift_date(date, time, seconds)
    if shifted is None or time is None:
        return shifted
    clock = shift_time(time, seconds)
    return None if clock is None else shifted + clock


def is_date_or_time(value: str, vr: str) -> bool:
    """True if ``value`` is a well-formed DA, TM or DT value."""
    if vr == "DA":
        return _day(value) is not None
    return (shift_time(value, 0) if vr == "TM" else shift_datetime(value, 0)) is not None


def _day(date: str) -> datetime | None:
    match = _DATE.fullmatch(date)
    if match is None:
        return None
    try:
        return datetime(*(int(part) for part in match.groups()), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        return None


def seconds_of_day(time: str) -> int | None:
    """Return the whole seconds since midnight of a TM value; None if it is not one."""
    match = _TIME.fullmatch(time)
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
    valid = hours < 24 and minutes < 60 and seconds <= 60
    return 3600 * hours + 60 * minutes + seconds if valid else None


def _fraction(time: str) -> str:
    match = _TIME.fullmatch(time)
    return (match.group(4) or "") if match else ""
