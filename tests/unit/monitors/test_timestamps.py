"""Times in lines. Every expected time was printed by Go 1.19, where it can tell one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from workers.monitors.logs.timestamps import Layout

NOW = datetime(2026, 3, 10, 12, 0, 0, tzinfo=UTC)
BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
LOS_ANGELES = "PST8PDT,M3.2.0,M11.1.0"
KOLKATA = "IST-5:30"
REFERENCE = datetime(2024, 2, 29, 15, 4, 5, tzinfo=UTC)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the local zone."""

    def change(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    change("UTC")
    yield change
    monkeypatch.undo()
    time.tzset()


def told(layout: str, text: str, now: datetime = NOW) -> str:
    """What `text` tells, as ISO 8601 writes it; empty: it is refused."""
    try:
        return Layout(layout).parse(text.encode(), now).isoformat().removesuffix("+00:00")
    except ValueError:
        return ""


@pytest.mark.parametrize(
    ("layout", "text", "expected"),
    [
        pytest.param("2006-01-02T15:04:05Z07:00", "2024-02-29T15:04:05Z", "15:04:05", id="RFC 3339"),
        pytest.param("2006-01-02T15:04:05Z07:00", "2024-02-29T16:34:05+01:30", "15:04:05", id="ahead"),
        pytest.param("2006-01-02T15:04:05Z07:00", "2024-02-29T07:04:05-08:00", "15:04:05", id="behind"),
        pytest.param(
            "2006-01-02T15:04:05.999999999-07:00",
            "2024-02-29T07:04:05.123456789-08:00",
            "15:04:05.123456",
            id="CRI",
        ),
        pytest.param(
            "2006-01-02T15:04:05.999999999Z", "2024-02-29T15:04:05.5Z", "15:04:05.500000", id="Z alone"
        ),
        pytest.param(
            "2006-01-02T15:04:05.999999999Z", "2024-02-29T15:04:05Z", "15:04:05", id="nines may miss"
        ),
        pytest.param("2006-01-02 15:04:05,000", "2024-02-29 15:04:05,250", "15:04:05.250000", id="comma"),
        pytest.param(
            "2006-01-02 15:04:05.000", "2024-02-29 15:04:05,250", "15:04:05.250000", id="comma for dot"
        ),
        pytest.param("2006-01-02 15:04:05.000", "2024-02-29 15:04:05.25", "", id="zeros are so many digits"),
        pytest.param("2006-01-02 15:04:05.000", "2024-02-29 15:04:05", "", id="zeros must not miss"),
        pytest.param(
            "2006-01-02 15:04:05", "2024-02-29 15:04:05.25", "15:04:05.250000", id="unasked fraction"
        ),
        pytest.param(
            "2006-01-02 15:04:05 .00", "2024-02-29 15:04:05 .25", "15:04:05.250000", id="fraction apart"
        ),
        pytest.param("2006-01-02 15:04:05 .00", "2024-02-29 15:04:05.5 .25", "", id="one fraction"),
        pytest.param("02/Jan/2006:15:04:05 -0700", "29/Feb/2024:17:04:05 +0200", "15:04:05", id="Apache"),
        pytest.param("01/02 03:04:05PM '06 -0700", "02/29 03:04:05PM '24 +0000", "15:04:05", id="reference"),
        pytest.param("Mon Jan _2 15:04:05 2006", "Thu Feb 29 15:04:05 2024", "15:04:05", id="ANSI C"),
        pytest.param("Mon Jan _2 15:04:05 2006", "Wed Feb 29 15:04:05 2024", "15:04:05", id="wrong weekday"),
        pytest.param("Mon Jan _2 15:04:05 2006", "Xyz Feb 29 15:04:05 2024", "", id="no weekday"),
        pytest.param(
            "Monday, 02-Jan-06 15:04:05 MST", "Thursday, 29-Feb-24 15:04:05 UTC", "15:04:05", id="RFC 850"
        ),
        pytest.param("2 January 2006 3:04:05 pm", "29 fEBRUARY 2024 3:04:05 pm", "15:04:05", id="any case"),
        pytest.param("2 January 2006 3:04:05 pm", "29 February 2024 3:04:05 PM", "", id="but the half"),
        pytest.param("2006 002 15:04:05", "2024 060 15:04:05", "15:04:05", id="day of the year"),
        pytest.param("2006 __2 15:04:05", "2024  60 15:04:05", "15:04:05", id="padded day of the year"),
        pytest.param("2006 Jan 002 15:04:05", "2024 Mar 060 15:04:05", "", id="not of that month"),
        pytest.param("2006 002 15:04:05", "2023 366 15:04:05", "", id="no leap year"),
        pytest.param("20060102150405", "20240229150405", "15:04:05", id="all digits"),
        pytest.param("Jan _2 2006 15:04:05", "Feb    29  2024 15:04:05", "15:04:05", id="more blanks"),
        pytest.param("Jan _2 2006_15:04:05", "Feb 29 2024 15:04:05", "", id="other blanks"),
        pytest.param("2006-01-02 15:04:05 -07", "2024-02-29 18:04:05 +03", "15:04:05", id="hours of offset"),
        pytest.param(
            "2006-01-02 15:04:05Z070000", "2024-02-29 15:05:06+000101", "15:04:05", id="seconds of offset"
        ),
        pytest.param(
            "2006-01-02 15:04:05 MST", "2024-02-29 15:04:05 CEST", "15:04:05", id="zone unknown here"
        ),
        pytest.param("2006-01-02 15:04:05 MST", "2024-02-29 15:04:05 cest", "", id="no zone"),
        pytest.param("2006-01-02 15:04:05", "2023-02-29 15:04:05", "", id="no such day"),
        pytest.param("2006-01-02 15:04:05", "2024-13-01 15:04:05", "", id="no such month"),
        pytest.param("2006-01-02 15:04:05", "2024-02-29 24:00:00", "", id="no such hour"),
        pytest.param("2006-01-02 15:04:05", "2024-02-29 15:04:60", "", id="leap second"),
        pytest.param("2006-01-02 15:04:05", "2024-02-29 15:04:05 more", "", id="more text"),
        pytest.param("2006-01-02 15:04:05", "\xff\x00", "", id="garbage"),
        pytest.param("2006-01-02 15:04:05", "9999-12-31 23:59:59", "9999", id="the end of the calendar"),
    ],
)
@pytest.mark.usefixtures("zone")
def test_a_time_is_read_as_go_reads_it(layout: str, text: str, expected: str) -> None:
    if expected.startswith("15"):
        expected = "2024-02-29T" + expected
    assert told(layout, text) == ("9999-12-31T23:59:59" if expected == "9999" else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("12:00:00AM", "2024-02-29T00:00:00", id="midnight"),
        pytest.param("12:00:00PM", "2024-02-29T12:00:00", id="noon"),
        pytest.param("01:00:00PM", "2024-02-29T13:00:00", id="afternoon"),
        pytest.param("13:00:00PM", "", id="no hour of half a day"),
    ],
)
@pytest.mark.usefixtures("zone")
def test_halves_of_a_day(text: str, expected: str) -> None:
    assert told("2006-01-02 03:04:05PM", f"2024-02-29 {text}") == expected


@pytest.mark.parametrize(("year", "expected"), [("00", 2000), ("68", 2068), ("69", 1969), ("99", 1999)])
@pytest.mark.usefixtures("zone")
def test_a_year_of_two_digits_is_near(year: str, expected: int) -> None:
    assert told("06-01-02 15", f"{year}-05-06 07") == f"{expected}-05-06T07:00:00"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param(BERLIN, "2024-02-29 16:04:05", "2024-02-29T15:04:05", id="winter"),
        pytest.param(BERLIN, "2024-07-29 17:04:05", "2024-07-29T15:04:05", id="summer"),
        pytest.param(LOS_ANGELES, "2024-02-29 07:04:05", "2024-02-29T15:04:05", id="west"),
        pytest.param(KOLKATA, "2024-02-29 20:34:05", "2024-02-29T15:04:05", id="half an hour"),
    ],
)
def test_without_a_zone_it_is_local_time(
    zone: Callable[[str], None], name: str, text: str, expected: str
) -> None:
    zone(name)
    assert told("2006-01-02 15:04:05", text) == expected


def test_the_name_of_a_local_zone_is_known(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    layout = "2006-01-02 15:04:05 MST"
    assert told(layout, "2024-02-29 16:04:05 CET") == REFERENCE.isoformat().removesuffix("+00:00")
    assert told(layout, "2024-07-29 17:04:05 CEST") == "2024-07-29T15:04:05"
    assert told(layout, "2024-07-29 17:04:05 UTC") == "2024-07-29T17:04:05"


@pytest.mark.parametrize(
    ("now", "text", "year"),
    [
        pytest.param("2026-03-10 12:00", "Mar 10 12:00:00", 2026, id="now"),
        pytest.param("2026-03-10 12:00", "Jan  1 00:00:00", 2026, id="this year"),
        pytest.param("2026-03-10 12:00", "Mar 11 12:00:00", 2026, id="a day ahead"),
        pytest.param("2026-03-10 12:00", "Mar 11 12:00:01", 2025, id="more than a day ahead"),
        pytest.param("2026-03-10 12:00", "Dec 31 23:59:59", 2025, id="last year"),
        pytest.param("2026-01-01 00:00", "Dec 31 23:59:59", 2025, id="a second ago, last year"),
        pytest.param("2025-12-31 23:59", "Jan  1 00:00:01", 2026, id="a writer whose clock is ahead"),
        pytest.param("2025-03-10 12:00", "Feb 29 10:00:00", 2024, id="the last leap year"),
        pytest.param("2027-03-10 12:00", "Feb 29 10:00:00", 0, id="no leap year near"),
    ],
)
@pytest.mark.usefixtures("zone")
def test_a_time_without_a_year_is_the_latest_that_can_be(now: str, text: str, year: int) -> None:
    found = told("Jan _2 15:04:05", text, datetime.fromisoformat(now + "+00:00"))
    assert found[:4] == (f"{year}" if year else "")


def test_the_year_is_that_of_the_local_zone(zone: Callable[[str], None]) -> None:
    zone("NZST-12NZDT,M9.5.0,M4.1.0/3")
    now = datetime(2025, 12, 31, 12, tzinfo=UTC)
    assert told("Jan _2 15:04:05", "Jan  1 01:00:00", now) == "2025-12-31T12:00:00"
    zone("HST10")
    now = datetime(2026, 1, 1, 2, tzinfo=UTC)
    assert told("Jan _2 15:04:05", "Dec 31 16:00:00", now) == "2026-01-01T02:00:00"


@pytest.mark.usefixtures("zone")
def test_the_year_0_is_none() -> None:
    assert told("2006-01-02 15:04:05", "0000-03-10 12:00:00") == "2026-03-10T12:00:00"


@pytest.mark.usefixtures("zone")
def test_each_line_of_a_minute_has_its_own_time() -> None:
    layout = Layout("Jan _2 15:04:05")
    texts = [f"Mar 10 11:{minute:02}:{second:02}.5" for minute in range(20) for second in (0, 59)]
    for _ in range(2):
        times = [layout.parse(text.encode(), NOW) for text in texts]
        assert times == [
            datetime(2026, 3, 10, 11, minute, second, 500_000, tzinfo=UTC)
            for minute in range(20)
            for second in (0, 59)
        ]


@pytest.mark.parametrize(
    "layout", ["", "%b %d %H:%M:%S", "15:04:05", "Jan _2", "2006-01-02", "2006 15:04", "Jan 15h"]
)
def test_a_layout_that_tells_no_time_is_refused(layout: str) -> None:
    with pytest.raises(ValueError, match="needs a month, a day and an hour"):
        Layout(layout)


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        pytest.param("Janet 2006-01-02 15:04:05", "Janet 2024-02-29 15:04:05", id="Jan in a word"),
        pytest.param("Months 2006-01-02 15:04:05", "Months 2024-02-29 15:04:05", id="Mon in a word"),
        pytest.param("(*.) 2006-01-02 15:04:05", "(*.) 2024-02-29 15:04:05", id="signs of expressions"),
        pytest.param("ä 2006-01-02 15:04:05", "ä 2024-02-29 15:04:05", id="UTF-8"),
        pytest.param("x_2006-01-02 15:04:05", "x_2024-02-29 15:04:05", id="underscore before a year"),
        pytest.param("1 2006-01-02 15:04:05", "7 2024-02-29 15:04:05", id="a month twice: the last counts"),
    ],
)
@pytest.mark.usefixtures("zone")
def test_what_stands_for_itself(layout: str, text: str) -> None:
    assert told(layout, text) == REFERENCE.isoformat().removesuffix("+00:00")


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match=r"'yesterday' is not a time as in 'Jan _2 15:04:05'"):
        Layout("Jan _2 15:04:05").parse(b"yesterday", NOW)


def test_a_long_text_is_no_burden() -> None:
    layout = Layout("Jan _2 15:04:05.999 MST")
    for text in (b" " * 8000, b"1" * 8000, b"Jan " * 2000, b"Jan 1 01:01:01." + b"0" * 8000 + b"x"):
        with pytest.raises(ValueError, match="is not a time"):
            layout.parse(text, NOW + timedelta(days=1))
