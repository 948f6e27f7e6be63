"""Event files: what is for sale, as people write it (CSV or JSON), read whole and checked before anything is stored.

CSV has the header `section,row,number,price,currency` and may have `id`, `accessible` and `capacity` besides; JSON is
`{"event": {"id", "name", "holdSeconds", "maxSeats", "maxHoldsPerUser", "preventOrphans", "saleStartsAt", "saleEndsAt"},
"seats": [{"section", "row", "number", "price", "currency", "id", "accessible", "capacity"}]}`. Sections, rows and seats
stand in the order in which they are sold, the best first.

Prices are whole numbers of the currency's smallest unit, times are RFC 3339. A seat without an id is called
`row-number`. A line with a capacity is a general-admission section of so many places: it has neither row nor number,
and its places are called `id-1` and so on, after the section where there is no id.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from reservation.domain.layout import is_general_admission
from reservation.domain.model import Event, Money, Seat

DEMO_EVENT = Event(id="evt_2025_1001", name="Traffic Tacos Live")

_FIELDS = ("section", "row", "number", "price", "currency")
_GENERAL_FIELDS = ("section", "price", "currency")
_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f#]{1,128}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,128}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_MAX_PRICE = 10**12
_MAX_SEATS, _MAX_ROW = 200_000, 400
_FLAGS = {"": False, "false": False, "no": False, "0": False, "true": True, "yes": True, "1": True}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file. `line` counts from 1, in JSON the seats of the list; 0 is the file itself."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class BadFile(Exception):
    """The file has problems, all of which are listed; none of it may be imported."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class Catalog:
    """An event and its seats. `keep_settings`: the file does not speak of the event's settings, so those of an event
    that is there stay."""

    event: Event
    seats: tuple[Seat, ...]
    keep_settings: bool = False


def read(path: Path, *, event_id: str | None = None, name: str | None = None) -> Catalog:
    """The catalog in a .json file, or in a CSV file (which does not name its event). Arguments win over the file.

    Raises BadFile, OSError.
    """
    is_json = path.suffix.lower() == ".json"
    given, rows = _read_json(path) if is_json else _read_csv(path)
    problems: list[Problem] = []
    seats = _seats(rows, problems)
    event = _event(given, event_id, name, problems)
    if not seats and not problems:
        problems.append(Problem(0, "no seats"))
    if problems:
        raise BadFile(problems)
    return Catalog(event, tuple(seats), keep_settings=not is_json)


def demo() -> Catalog:
    """A small hall: rows A to J of 50 seats, the first three rows dearer, and 200 places to stand."""
    rows = "ABCDEFGHIJ"
    floor = (
        Seat(f"{row}-{number}", "Floor", row, str(number), Money(120_000 if row in rows[:3] else 80_000, "KRW"))
        for row in rows
        for number in range(1, 51)
    )
    standing = (Seat(f"Standing-{number}", "Standing", "", "", Money(50_000, "KRW")) for number in range(1, 201))
    return Catalog(DEMO_EVENT, (*floor, *standing))


def _read_csv(path: Path) -> tuple[Mapping[str, Any], Iterable[tuple[int, Mapping[str, Any]]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile([Problem(0, "not UTF-8 text")]) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [field for field in _FIELDS if field not in (reader.fieldnames or ())]
        if missing:
            raise BadFile([Problem(1, f"the header lacks {', '.join(missing)}")])
        return {}, [(reader.line_num, row) for row in reader]
    except csv.Error as error:  # a field of more than 128 KiB, as a quote makes one that nothing closes
        raise BadFile([Problem(reader.line_num + 1, f"not CSV: {error}")]) from error


def _read_json(path: Path) -> tuple[Mapping[str, Any], Iterable[tuple[int, Mapping[str, Any]]]]:
    try:
        document = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise BadFile([Problem(error.lineno, "not JSON: " + error.msg)]) from error
    if not isinstance(document, dict) or not isinstance(document.get("seats"), list):
        raise BadFile([Problem(0, 'not an object with a list "seats"')])
    event = document.get("event", {})
    if not isinstance(event, dict):
        raise BadFile([Problem(0, '"event" is not an object')])
    return event, enumerate(document["seats"], start=1)


def _event(given: Mapping[str, Any], event_id: str | None, name: str | None, problems: list[Problem]) -> Event:
    chosen = event_id or given.get("id") or ""
    if not isinstance(chosen, str) or not _ID.fullmatch(chosen):
        problems.append(Problem(0, "the event id is missing, over 128 characters, or has control characters or #"))
    called = name or given.get("name") or ""
    if not isinstance(called, str) or not _TEXT.fullmatch(called):
        problems.append(Problem(0, "the event name is no text of at most 128 characters without control characters"))
    starts, ends = _time(given, "saleStartsAt", problems), _time(given, "saleEndsAt", problems)
    if starts is not None and ends is not None and ends <= starts:
        problems.append(Problem(0, "saleEndsAt is not after saleStartsAt"))
    return Event(
        id=str(chosen),
        name=str(called),
        hold_seconds=_number(given, "holdSeconds", 5, 86_400, problems),
        max_seats=_number(given, "maxSeats", 1, 10, problems),
        max_holds_per_user=_number(given, "maxHoldsPerUser", 1, 20, problems),
        prevent_orphans=_flag(given, "preventOrphans", problems),
        sale_starts_at=starts,
        sale_ends_at=ends,
    )


def _number(given: Mapping[str, Any], name: str, low: int, high: int, problems: list[Problem]) -> int | None:
    value = given.get(name)
    if value is None or (type(value) is int and low <= value <= high):
        return value
    problems.append(Problem(0, f"{name} is not a whole number from {low} to {high}"))
    return None


def _flag(given: Mapping[str, Any], name: str, problems: list[Problem]) -> bool:
    value = given.get(name, True)
    if type(value) is not bool:
        problems.append(Problem(0, f"{name} is neither true nor false"))
    return bool(value)


def _time(given: Mapping[str, Any], name: str, problems: list[Problem]) -> int | None:
    """Milliseconds since the epoch."""
    value = given.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        problems.append(Problem(0, f"{name} is no time with a zone, such as 2026-01-31T19:00:00+09:00"))
        return None
    return round(moment.timestamp() * 1000)


def _seats(rows: Iterable[tuple[int, Mapping[str, Any]]], problems: list[Problem]) -> list[Seat]:
    hall = _Hall()
    read = 0  # with those that are refused, so that a file of few lines cannot keep us busy for long
    for line, row in rows:
        if found := list(_row_problems(row)):
            problems += (Problem(line, text) for text in found)
            continue
        places = list(_places(row))
        problems += (Problem(line, text) for text in hall.add(places, line))
        read += len(places)
        if read > _MAX_SEATS:
            problems.append(Problem(line, f"more than {_MAX_SEATS} seats"))
            break
    return hall.seats


class _Hall:
    """The seats so far, and what the next ones must fit."""

    def __init__(self) -> None:
        self.seats: list[Seat] = []
        self._first_line: dict[str, int] = {}
        self._general: dict[str, bool] = {}
        self._row_sizes: Counter[tuple[str, str]] = Counter()

    def add(self, seats: Sequence[Seat], line: int) -> Iterator[str]:
        """What is wrong with these of one line; they are added if nothing is."""
        general, first = is_general_admission(seats), seats[0]
        row = (first.section, first.row)
        if twice := [seat.id for seat in seats if seat.id in self._first_line]:
            yield f"seat {twice[0]} stands on line {self._first_line[twice[0]]} already"
        elif self.seats and first.price.currency != self.seats[0].price.currency:
            yield f"the currency differs from {self.seats[0].price.currency} of the seats before"
        elif self._general.setdefault(first.section, general) is not general:
            yield f"section {first.section} has seats with and without row and number"
        elif not general and self._row_sizes[row] == _MAX_ROW:
            yield f"row {first.row} has more than {_MAX_ROW} seats"
        else:
            self._row_sizes[row] += 1
            self._first_line |= dict.fromkeys((seat.id for seat in seats), line)
            self.seats += seats


def _row_problems(row: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(row, dict) or None in row or None in row.values():
        yield "not a row with a value in each column"
        return
    capacity = _capacity(row)
    if missing := [field for field in (_FIELDS if capacity == "" else _GENERAL_FIELDS) if field not in row]:
        yield f"{', '.join(missing)} missing"
        return
    if wrong := [field for field in ("section", "row", "number", "id") if type(row.get(field, "")) not in (str, int)]:
        yield f"{', '.join(wrong)} neither text nor a whole number"
        return
    for field in ("section", "row", "number"):
        if not _TEXT.fullmatch(str(row.get(field, ""))):
            yield f"{field} is over 128 characters or has control characters"
    if not str(row["section"]):
        yield "section is empty"
    if str(row.get("accessible", "")).lower() not in _FLAGS:
        yield "accessible is neither true nor false"
    if capacity != "":
        yield from _capacity_problems(row)
    if not _ID.fullmatch(_seat_id(row) + (f"-{_MAX_SEATS}" if capacity != "" else "")):
        yield "the seat id is empty, over 128 characters, or has control characters or #"
    if not _is_price(row["price"]):
        yield f"price is not a whole number from 0 to {_MAX_PRICE}"
    if not _CURRENCY.fullmatch(str(row["currency"])):
        yield "currency is not three capital letters (ISO 4217)"


def _capacity(row: Mapping[str, Any]) -> str:
    """Empty: the row is one seat."""
    return str(row.get("capacity", ""))


def _capacity_problems(row: Mapping[str, Any]) -> Iterator[str]:
    if not re.fullmatch(r"\d{1,6}", _capacity(row)) or not 1 <= int(_capacity(row)) <= _MAX_SEATS:
        yield f"capacity is not a whole number from 1 to {_MAX_SEATS}"
    if str(row.get("row", "")) or str(row.get("number", "")):
        yield "a section with a capacity has neither row nor number"


def _is_price(value: Any) -> bool:
    return bool(re.fullmatch(r"\d{1,13}", str(value))) and int(value) <= _MAX_PRICE


def _places(row: Mapping[str, Any]) -> Iterator[Seat]:
    """One seat, or every place of a general-admission section."""
    seat = Seat(
        id=_seat_id(row),
        section=str(row["section"]),
        row=str(row.get("row", "")),
        number=str(row.get("number", "")),
        price=Money(int(row["price"]), row["currency"]),
        accessible=_FLAGS[str(row.get("accessible", "")).lower()],
    )
    if (capacity := _capacity(row)) == "":
        yield seat
    else:
        yield from (replace(seat, id=f"{seat.id}-{number}") for number in range(1, int(capacity) + 1))


def _seat_id(row: Mapping[str, Any]) -> str:
    if (given := str(row.get("id", ""))) != "":
        return given
    if _capacity(row) != "":
        return str(row["section"])
    of_place = (str(row["row"]), str(row["number"]))
    return "-".join(of_place) if all(of_place) else ""
