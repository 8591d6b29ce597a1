"""Times as logs write them, described by a layout of Go: https://pkg.go.dev/time#pkg-constants."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

ELEMENT = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|2006|15|0[1-6]|002|__2|_2(?!006)|[1-5]|PM|pm"
    r"|[-Z]07(?:0000|:00:00|00|:00)?|[.,](?:0+|9+)(?![0-9])"
)
"""What stands for a part of the time; everything else in a layout stands for itself."""
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTH_NUMBERS = {
    text.encode(): number
    for number, name in enumerate(MONTHS, 1)
    for text in (name[:3].lower(), f"{number}", f"{number:02}")
}
SIGNED = "[-+]0*(?:2[0-3]|1?[0-9])(?![0-9])"
ELEMENTS = {
    "2006": ("year", "([0-9]{4})"),
    "06": ("year", "([0-9]{2})"),
    "January": ("month", f"((?i:{'|'.join(MONTHS)}))"),
    "Jan": ("month", f"((?i:{'|'.join(name[:3] for name in MONTHS)}))"),
    "01": ("month", "(0[1-9]|1[0-2])"),
    "1": ("month", "(0[1-9]|1[0-2]|[1-9](?![0-9]))"),
    "02": ("day", "([0-9]{2})"),
    "2": ("day", "([0-9]{1,2}+)"),
    "_2": ("day", " ?+([0-9]{1,2}+)"),
    "002": ("day of the year", "([0-9]{3})"),
    "__2": ("day of the year", " {0,2}+([0-9]{1,3}+)"),
    "Monday": ("weekday", f"((?i:{'|'.join(DAYS)}))"),
    "Mon": ("weekday", f"((?i:{'|'.join(name[:3] for name in DAYS)}))"),
    "15": ("hour", "([01][0-9]|2[0-3]|[0-9](?![0-9]))"),
    "03": ("hour", "(0[0-9]|1[0-2])"),
    "3": ("hour", "(0[0-9]|1[0-2]|[0-9](?![0-9]))"),
    "04": ("minute", "([0-5][0-9])"),
    "4": ("minute", "([0-5][0-9]|[0-9](?![0-9]))"),
    "05": ("second", "([0-5][0-9])"),
    "5": ("second", "([0-5][0-9]|[0-9](?![0-9]))"),
    "PM": ("half", "([AP]M)"),
    "pm": ("half", "([ap]m)"),
    "MST": (
        "zone",
        f"((?>UTC|ChST|MeST|GMT{SIGNED}|GMT|{SIGNED}|(?:[A-Z]{{3,4}}T|WITA|[A-Z]{{3}})(?![A-Z])))",
    ),
}
FRACTION = "(?:[.,]([0-9]++))?+"
PARTS = (
    *("year", "month", "day", "day of the year", "hour", "half", "minute", "offset", "zone"),
    *("second", "fraction"),
)


class Layout:
    """Reads times of one layout, exactly as Go's time.ParseInLocation does in the local zone, to the microsecond.

    A time without a year (or of the year 0) is of the last year in which it is not more than a day ahead.
    """

    def __init__(self, layout: str) -> None:
        """Compile `layout`.

        Raises:
            ValueError: it has no day or no hour, so it can't tell when a line was written.
        """
        self.layout = layout
        pattern, parts = compiled(layout)
        if "hour" not in parts or not ({"month", "day"} <= set(parts) or "day of the year" in parts):
            raise ValueError(
                f"{layout!r} does not tell a time: it needs a month, a day and an hour, as 'Jan _2 15:04:05' has"
            )
        self.pattern = re.compile(pattern.encode() + b"((?!))?")
        # Of a part that a layout has twice the last counts. One that it has not is the last group: it never matches.
        where = {part: group for group, part in enumerate(parts, 1)}
        self.groups = [where.get(part, len(parts) + 1) for part in PARTS]
        # Lines of the same minute come together.
        self.minute = lru_cache(maxsize=8)(minute_of)

    def parse(self, text: bytes, now: datetime) -> datetime:
        """The time that `text` tells, in UTC; `now` says which year it is where `text` does not.

        Raises:
            ValueError: `text` is not of this layout, or no day of the calendar.
        """
        match = self.pattern.fullmatch(text)
        if match:
            year, *parts, second, fraction = match.group(*self.groups)
            after = timedelta(0, int(second or 0), int(fraction[:6].ljust(6, b"0")) if fraction else 0)
            latest = now + timedelta(days=1)
            known = full_year(year)
            for candidate in (known,) if known else (latest.year, latest.year - 1):
                try:
                    when = self.minute(candidate, *parts) + after
                except (ValueError, OverflowError):
                    continue
                if known or when <= latest:
                    return when
        raise ValueError(f"{text.decode(errors='replace')!r} is not a time as in {self.layout!r}")


def compiled(layout: str) -> tuple[str, list[str]]:
    """A regular expression for the times of `layout`, and what each of its groups is."""
    elements: list[str] = ELEMENT.findall(layout)
    first, *others = ELEMENT.split(layout)
    pattern, parts = literal(first), []
    for element, following, text in zip(elements, [*elements, ""][1:], others, strict=True):
        part, expression = meaning(element)
        parts.append(part)
        pattern += expression
        if part == "second" and not following.startswith((".", ",")):
            # A fraction may follow the seconds also where the layout has none.
            parts.append("fraction")
            pattern += FRACTION
        pattern += literal(text)
    return pattern, parts


def meaning(element: str) -> tuple[str, str]:
    """Which part of a time this element of a layout is, and a regular expression with it as its one group."""
    if element[0] in ".,":
        digits = len(element) - 1
        return "fraction", FRACTION if element[1] == "9" else f"[.,]([0-9]{{{digits}}})"
    if element[0] in "-Z":
        numbers = element[1:].replace("07", "(?:[01][0-9]|2[0-4])").replace("00", "(?:[0-5][0-9]|60)")
        return "offset", f"({'Z|' if element[0] == 'Z' else ''}[-+]{numbers})"
    return ELEMENTS[element]


def literal(text: str) -> str:
    """A regular expression for what stands for itself: of blanks there may be more, at the end none."""
    return "".join(r"(?: ++|\Z)" if " " in part else re.escape(part) for part in re.split("( +)", text))


def full_year(digits: bytes | None) -> int:
    """The year of four or two digits (69 to 99 are of the last century); 0: none."""
    if digits is None or len(digits) == 4:
        return int(digits or 0)
    return int(digits) + (1900 if int(digits) >= 69 else 2000)


def minute_of(year: int, *parts: bytes | None) -> datetime:
    """The minute, in UTC, of a year and the other PARTS up to the zone.

    Raises:
        ValueError: there is no such day.
        OverflowError: it is beyond the calendar.
    """
    month, day, day_of_year, hour, half, minute, offset, zone = parts
    on = date_of(year, month, day, day_of_year)
    clock = hour_of(hour or b"0", half), int(minute or 0)
    if not offset and not zone:
        return datetime(on.year, on.month, on.day, *clock).astimezone(UTC)
    ahead = offset_of(offset) if offset and zone != b"UTC" else offset_of_zone(zone or b"")
    return datetime(on.year, on.month, on.day, *clock, tzinfo=UTC) - ahead


def date_of(year: int, month: bytes | None, day: bytes | None, day_of_year: bytes | None) -> date:
    """The day, by its month or by its number in the year; if both are there, they must agree."""
    number = MONTH_NUMBERS[month[:3].lower()] if month else None
    if day_of_year is None:
        return date(year, number or 1, int(day or 1))
    found = date(year, 1, 1) + timedelta(days=int(day_of_year) - 1)
    if (found.year, number or found.month, int(day or found.day)) != (year, found.month, found.day):
        raise ValueError("the day of the year is not this day of this month")
    return found


def hour_of(hour: bytes, half: bytes | None) -> int:
    """The hour of the day. `half` is AM or PM, if that is said."""
    number = int(hour)
    if half in (b"PM", b"pm"):
        return number + 12 if number < 12 else number
    return 0 if half and number == 12 else number


def offset_of(text: bytes) -> timedelta:
    """How far a zone is ahead of UTC: Z, -07, -0700, -07:00, -070000 or -07:00:00."""
    digits = text[1:].replace(b":", b"").ljust(6, b"0")
    ahead = timedelta(hours=int(digits[:2]), minutes=int(digits[2:4]), seconds=int(digits[4:]))
    return -ahead if text[:1] == b"-" else ahead


def offset_of_zone(name: bytes) -> timedelta:
    """How far the zone of this name is ahead of UTC if it is a local one; of others Go, too, takes 0."""
    names = [local.encode() for local in time.tzname]
    if name == b"UTC" or name not in names:
        return timedelta()
    return timedelta(seconds=-(time.altzone if names.index(name) else time.timezone))
