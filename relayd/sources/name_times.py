"""Times as cameras write them into names: which text is one, and which moment it means.

Promises: pure, and one pass over the text: each place is tried once, by expressions without nested repetition. Half a
time is completed by when the file was last written, if that lies within it, and is else no time at all.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from relayd.model import TimeFrom

_Y4, _Y2 = r"(?P<Y>(?:19[7-9]|20\d)\d)", r"(?P<y>\d\d)"
_M, _D = r"(?P<m>0[1-9]|1[0-2])", r"(?P<d>0[1-9]|[12]\d|3[01])"
_BETWEEN = r"[-._]{1,2}"
_DATE = rf"(?P<ds>{_BETWEEN}|){_M}(?P=ds){_D}"
_VIOFO_DATE = rf"(?P<ds>)[_-]{_M}{_D}(?=[_-])"
_BACKWARDS = rf"(?P<ds>{_BETWEEN}|[ /])%s(?P=ds){_Y4}"
_D1, _M1 = r"(?P<d>0?[1-9]|[12]\d|3[01])", r"(?P<m>0?[1-9]|1[0-2])"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMED_DATE = rf"{_D1}[-_. ]?(?P<b>(?i:{'|'.join(_MONTHS)}))[a-z]{{0,6}}[-_., ]{{0,2}}{_Y4}"
_JOINT = r"(?:[T_\-. ,@]{0,3}| (?:at|um|kl\.?) )"
_APART = r"(?:[T_\-. ,@]{1,3}| (?:at|um|kl\.?) )"
_H, _N, _S = r"(?P<H>[01]\d|2[0-3])", r"(?P<M>[0-5]\d)", r"(?P<S>[0-5]\d)"
_FRACTION = r"(?:[.,](?P<f>\d{1,9})(?![\dA-Za-z])|(?P<ms>\d{2,3}))?"
_NOON = r"(?:[ _-]?(?P<n>[AaPp])[Mm](?![A-Za-z]))?"
_CLOCK = rf"{_H}(?P<ts>[-._:]{{1,2}}|[hH]|){_N}(?:(?:(?P=ts)|[mM](?:in)?){_S}[sS]?{_FRACTION})?{_NOON}"
_WHOLE_CLOCK = rf"{_H}(?P<ts>[-._:]{{1,2}}|){_N}(?P=ts){_S}{_FRACTION}{_NOON}"
_ZONE = (
    r"(?:[ _]?(?P<z>(?:Z|UTC|GMT)(?![A-Za-z0-9+-])|[+-](?:0\d|1[0-4]):?(?:00|15|30|45)(?!\d)|\+(?:0\d|1[0-4])(?!\d)))?"
)
_LETTERS = (
    r"(?P<Y>20\d\d)[Yy年](?P<m>\d{1,2})[Mm月](?P<d>\d{1,2})[Dd日][ T_-]?"
    r"(?P<H>\d{1,2})[Hh时時点](?P<M>\d{1,2})[Mm分](?:(?P<S>\d{1,2})[Ss秒]?)?"
)
_LETTERS_FIRST = (
    r"[Yy](?P<Y>20\d\d)[Mm](?P<m>\d\d)[Dd](?P<d>\d\d)[ T_-]?[Hh](?P<H>\d\d)[MmNn](?P<M>\d\d)(?:[Ss](?P<S>\d\d))?"
)

MOMENTS = tuple(
    re.compile(shape + _ZONE + r"(?!\d)", re.ASCII)
    for shape in (
        _Y4 + _DATE + _JOINT + _CLOCK,
        _Y2 + _DATE + _JOINT + _WHOLE_CLOCK,
        _Y2 + rf"(?P<ds>){_M}{_D}{_H}(?P<ts>){_N}{_S}(?:\d\d)",
        _Y4 + _VIOFO_DATE + _APART + _WHOLE_CLOCK,
        _D1 + _BACKWARDS % _M1 + _APART + _WHOLE_CLOCK,
        _M1 + _BACKWARDS % _D1 + _APART + _WHOLE_CLOCK,
        rf"(?P<ds>){_D}{_M}{_Y4}" + _APART + _WHOLE_CLOCK,
        _NAMED_DATE + _APART + _WHOLE_CLOCK,
        _WHOLE_CLOCK + _APART + _Y4 + _DATE + r"(?![T_\-. ]{0,3}\d\d[-._:]?\d\d)",
        _LETTERS,
        _LETTERS_FIRST,
        r"(?P<e>[1-3]\d{9})(?:\.(?P<f>\d{1,6})(?![\dA-Za-z]))?",
        r"(?P<e>[1-3]\d{9})(?P<ms>\d{3})",
    )
)
DATES = tuple(
    re.compile(shape + r"(?!\d)", re.ASCII)
    for shape in (
        _Y4 + _DATE,
        _Y2 + _DATE,
        _D1 + _BACKWARDS % _M1,
        _M1 + _BACKWARDS % _D1,
        _NAMED_DATE,
    )
)
CLOCKS = (re.compile(_CLOCK + _ZONE + r"(?!\d)", re.ASCII),)
_PLACE = re.compile(r"(?<!\d)(?:\d|[Yy](?=20\d\d[Mm]))", re.ASCII)
_NUMBER = re.compile(r"\d{1,4}", re.ASCII)
_CLOCK_IN_PATH = re.compile(
    r"(?<![0-9A-Za-z])([01]\d|2[0-3])/(?:\1[-._]?|[^/]{1,64}/)?([0-5]\d)[/\-._]?([0-5]\d)(?![0-9A-Za-z])", re.ASCII
)
_RANGE = re.compile(r"[-_~ ]{1,3}(?=\d)|[-_ ]to[-_ ]", re.ASCII)
_LONGEST_PATH = 4096
_LATEST_SECONDS = 300.0
_EARLIEST_SECONDS = 50 * 60.0
_NEAREST_DAY_SECONDS = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts without a zone are meant, and when the file was last written (Unix seconds): it settles what they
    leave open."""

    zone: datetime.tzinfo | None
    written_at: float
    path_tells: float | None = None
    """What the whole path tells, where the fields of a pattern tell only half."""


def capture_time(
    path: str, fields: Mapping[str, str], zone: datetime.tzinfo | None, written_at: float
) -> tuple[float, TimeFrom]:
    """When a file was captured, as its pattern's fields, its path or its last write tell; and which of them did."""
    reading = Reading(zone, written_at)
    told = captured_at(fields, reading, path)
    if told is not None:
        return told, TimeFrom.PATTERN
    told = in_path(path, reading)
    return (written_at, TimeFrom.WRITTEN) if told is None else (told, TimeFrom.NAME)


def captured_at(fields: Mapping[str, str], reading: Reading, path: str = "") -> float | None:
    """Unix seconds from the fields of a pattern; None if they are no time.

    A whole time is in `time`, in `epoch`, or in `date` and `time`; else `date` (or `year`, `year2`, `month`, `day`) and
    `hour`, `minute`, `second` are put together. Half a time is completed from the whole `path`, if that agrees with it.
    """
    time_text, date_text = fields.get("time", ""), fields.get("date", "")
    whole = date_text and time_text and f"{date_text}T{time_text}"
    for text in (time_text, fields.get("epoch", ""), whole, date_text):
        moment = first_moment(text, reading)
        if moment is not None:
            return moment
    dates, clock = _dates_of(fields), _clock_of(fields)
    if not dates:
        return _on_nearest_day(clock, reading) if len(clock) > 1 else None
    whole_path = replace(reading, path_tells=_moment_in_path(path, reading))
    return _nearest([_completed(date, clock, whole_path) for date in dates], reading)


def in_path(path: str, reading: Reading) -> float | None:
    """The time that a path tells without being asked, if the file may have been written then or soon after: it is when
    a clip began. Where it is further off, one of the two clocks is wrong, and this is not the place to say which."""
    moment = _moment_in_path(path, reading)
    if moment is None or not -_LATEST_SECONDS <= reading.written_at - moment <= _EARLIEST_SECONDS:
        return None
    return moment


def _moment_in_path(path: str, reading: Reading) -> float | None:
    """Of the file's name; else of folders and name together (`2026/01/31/12/30/45`); else of a date among its folders
    and the time of day behind it (`2026-01-31/…/12/30/45`)."""
    path = path[-_LONGEST_PATH:]
    folders, _, name = path.rpartition("/")
    for text in (name, path.replace("/", "_")):
        moment = first_moment(text.rpartition(".")[0] or text, reading)
        if moment is not None or not folders:
            return moment
    for start, end in spans(folders, DATES):
        clock = _CLOCK_IN_PATH.search(path, end)
        if clock is not None:
            numbers = [int(number) for number in clock.groups()]
            dates = _dates_of({"date": folders[start:end]})
            return _nearest([_completed(date, numbers, reading) for date in dates], reading)
    return None


def first_moment(text: str, reading: Reading) -> float | None:
    """The first whole time in a text; of a range its start. Where it can be read in two ways, the one nearest to the
    last write is meant."""
    for place in _PLACE.finditer(text):
        found = [_moment_of(match, reading) for shape in MOMENTS if (match := shape.match(text, place.start()))]
        moment = _nearest(found, reading)
        if moment is not None:
            return moment
    return None


def spans(text: str, shapes: tuple[re.Pattern[str], ...]) -> Iterator[tuple[int, int]]:
    """Where something of one of these shapes stands in a text, by its start; what is a range first as a whole. Never
    begins inside a run of digits."""
    for place in _PLACE.finditer(text):
        for shape in shapes:
            match = shape.match(text, place.start())
            if match is not None:
                yield from ((match.start(), end) for end in _ends_of_range(text, match.end()))
                yield match.span()


def _ends_of_range(text: str, at: int) -> Iterator[int]:
    between = _RANGE.match(text, at)
    if between is not None:
        for shape in (*MOMENTS, *CLOCKS):
            match = shape.match(text, between.end())
            if match is not None:
                yield match.end()


def _moment_of(match: re.Match[str], reading: Reading) -> float | None:
    part = {name: value for name, value in match.groupdict().items() if value}
    fraction = part.get("f") or part.get("ms") or "0"
    behind_point = int(fraction) / float(10 ** len(fraction))
    if "e" in part:
        return int(part["e"]) + behind_point
    clock = [int(part[name]) for name in "HMS" if name in part]
    if "n" in part and 1 <= clock[0] <= 12:
        clock[0] = clock[0] % 12 + 12 * (part["n"] in "pP")
    zone = _zone(part.get("z", ""))
    moment = _completed(_date_in(part), clock, reading, zone)
    return None if moment is None else moment + behind_point


def _date_in(part: Mapping[str, str]) -> tuple[int, int, int]:
    """Year, month, day of what one of the shapes has found."""
    year = int(part["Y"]) if "Y" in part else 2000 + int(part["y"])
    month = _MONTHS.index(part["b"].lower()) + 1 if "b" in part else int(part["m"])
    return year, month, int(part["d"])


def _dates_of(fields: Mapping[str, str]) -> list[tuple[int, int, int]]:
    """Every date that the fields may mean."""
    text = fields.get("date", "")
    found = [match for shape in DATES if (match := shape.match(text))]
    if found:
        return [_date_in({name: value for name, value in match.groupdict().items() if value}) for match in found]
    year = _number(fields, "year") or (_number(fields, "year2") or -2000) + 2000
    month, day = _number(fields, "month"), _number(fields, "day")
    return [(year, month, day)] if year and month and day else []


def _clock_of(fields: Mapping[str, str]) -> list[int]:
    """Hour, minute, second, as far as they are told."""
    match = CLOCKS[0].match(fields.get("time", ""))
    if match is not None:
        return [int(match[name]) for name in "HMS" if match[name]]
    told = [_number(fields, name) for name in ("hour", "minute", "second")]
    return [number for number in told[: (*told, None).index(None)] if number is not None]


def _number(fields: Mapping[str, str], name: str) -> int | None:
    text = fields.get(name, "")
    return int(text) if _NUMBER.fullmatch(text) else None


def _completed(
    date: tuple[int, int, int], clock: list[int], reading: Reading, zone: datetime.tzinfo | None = None
) -> float | None:
    """A whole time as it is; of half a one when the file was written, if that lies within it."""
    hour, minute, second = [*clock, 0, 0, 0][:3]
    meant = zone or reading.zone
    try:
        start = _settled(datetime.datetime(*date, hour, minute, second, tzinfo=meant), reading.written_at)
        if len(clock) == 3:
            return start
        for whole in (reading.path_tells, reading.written_at):
            if whole is not None and _begins_with(datetime.datetime.fromtimestamp(whole, meant), (*date, *clock)):
                return whole
    except (ValueError, OverflowError, OSError):
        return None
    return start if len(clock) == 2 else None


def _begins_with(moment: datetime.datetime, told: tuple[int, ...]) -> bool:
    return moment.timetuple()[: len(told)] == told


def _nearest(moments: Iterable[float | None], reading: Reading) -> float | None:
    """What can be read in several ways is meant as is nearest to the last write."""
    there = [moment for moment in moments if moment is not None]
    return min(there, key=lambda moment: abs(moment - reading.written_at)) if there else None


def _settled(told: datetime.datetime, written_at: float) -> float:
    """The hour that comes twice in autumn is the one in which the file was written."""
    both = [told.replace(fold=fold).timestamp() for fold in (0, 1)]
    return min(both, key=lambda moment: abs(moment - written_at))


def _on_nearest_day(clock: list[int], reading: Reading) -> float | None:
    """A time of day alone is that of the day on which the file was written, if it was written about then."""
    try:
        day = datetime.datetime.fromtimestamp(reading.written_at, reading.zone)
        dates = [day + datetime.timedelta(days=days) for days in (-1, 0, 1)]
    except (ValueError, OverflowError, OSError):
        return None
    found = [_completed((date.year, date.month, date.day), clock, reading) for date in dates]
    apart = {abs(moment - reading.written_at): moment for moment in found if moment is not None}
    return apart[min(apart)] if apart and min(apart) <= _NEAREST_DAY_SECONDS else None


def _zone(text: str) -> datetime.tzinfo | None:
    if not text:
        return None
    if text[0] not in "+-":
        return datetime.UTC
    digits = text[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
    return datetime.timezone(datetime.timedelta(minutes=minutes if text[0] == "+" else -minutes))
