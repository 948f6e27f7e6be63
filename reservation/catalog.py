"""Event files: what is for sale, as people write it (CSV or JSON), read whole and checked before anything is stored.

CSV has the header `section,row,number,price,currency` and may have `id` besides; JSON is
`{"event": {"id", "name", "holdSeconds"}, "seats": [{"section", "row", "number", "price", "currency", "id"}]}`.
Prices are whole numbers of the currency's smallest unit. A seat without an id is called `row-number`.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from reservation.domain.model import Event, Money, Seat

DEMO_EVENT = Event(id="evt_2025_1001", name="Traffic Tacos Live")

_FIELDS = ("section", "row", "number", "price", "currency")
_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f#]{1,128}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,128}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_MAX_PRICE = 10**12


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
    """An event and its seats."""

    event: Event
    seats: tuple[Seat, ...]


def read(path: Path, *, event_id: str | None = None, name: str | None = None) -> Catalog:
    """The catalog in a .json file, or in a CSV file (which does not name its event). Arguments win over the file.

    Raises BadFile, OSError.
    """
    given, rows = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
    problems: list[Problem] = []
    seats = _seats(rows, problems)
    event = _event(given, event_id, name, problems)
    if not seats and not problems:
        problems.append(Problem(0, "no seats"))
    if problems:
        raise BadFile(problems)
    return Catalog(event, tuple(seats))


def demo() -> Catalog:
    """A small hall: rows A to J of 50 seats, the first three rows dearer."""
    rows = "ABCDEFGHIJ"
    seats = (
        Seat(f"{row}-{number}", "Floor", row, str(number), Money(120_000 if row in rows[:3] else 80_000, "KRW"))
        for row in rows
        for number in range(1, 51)
    )
    return Catalog(DEMO_EVENT, tuple(seats))


def _read_csv(path: Path) -> tuple[Mapping[str, Any], Iterable[tuple[int, Mapping[str, Any]]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile([Problem(0, "not UTF-8 text")]) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [field for field in _FIELDS if field not in (reader.fieldnames or ())]
    if missing:
        raise BadFile([Problem(1, f"the header lacks {', '.join(missing)}")])
    return {}, [(reader.line_num, row) for row in reader]


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
    hold_seconds = given.get("holdSeconds")
    if not isinstance(chosen, str) or not _ID.fullmatch(chosen):
        problems.append(Problem(0, "the event id is missing, over 128 characters, or has control characters or #"))
    if hold_seconds is not None and (type(hold_seconds) is not int or hold_seconds < 5):
        problems.append(Problem(0, "holdSeconds is not a whole number of at least 5"))
    called = name or given.get("name") or ""
    if not isinstance(called, str) or not _TEXT.fullmatch(called):
        problems.append(Problem(0, "the event name is no text of at most 128 characters without control characters"))
    return Event(str(chosen), str(called), hold_seconds)


def _seats(rows: Iterable[tuple[int, Mapping[str, Any]]], problems: list[Problem]) -> list[Seat]:
    seats: list[Seat] = []
    first_line: dict[str, int] = {}
    for line, row in rows:
        found = list(_row_problems(row))
        if found:
            problems += (Problem(line, text) for text in found)
            continue
        seat = _seat(row)
        if seat.id in first_line:
            problems.append(Problem(line, f"seat {seat.id} stands on line {first_line[seat.id]} already"))
        elif seats and seat.price.currency != seats[0].price.currency:
            problems.append(Problem(line, f"the currency differs from {seats[0].price.currency} of the seats before"))
        else:
            first_line[seat.id] = line
            seats.append(seat)
    return seats


def _row_problems(row: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(row, dict) or None in row or None in row.values():
        yield "not a row with a value in each column"
        return
    if missing := [field for field in _FIELDS if field not in row]:
        yield f"{', '.join(missing)} missing"
        return
    if wrong := [field for field in ("section", "row", "number", "id") if type(row.get(field, "")) not in (str, int)]:
        yield f"{', '.join(wrong)} neither text nor a whole number"
        return
    for field in ("section", "row", "number"):
        if not _TEXT.fullmatch(str(row[field])):
            yield f"{field} is over 128 characters or has control characters"
    if not str(row["section"]):
        yield "section is empty"
    if not _ID.fullmatch(_seat_id(row)):
        yield "the seat id is empty, over 128 characters, or has control characters or #"
    if not _is_price(row["price"]):
        yield f"price is not a whole number from 0 to {_MAX_PRICE}"
    if not _CURRENCY.fullmatch(str(row["currency"])):
        yield "currency is not three capital letters (ISO 4217)"


def _is_price(value: Any) -> bool:
    return bool(re.fullmatch(r"\d{1,13}", str(value))) and int(value) <= _MAX_PRICE


def _seat(row: Mapping[str, Any]) -> Seat:
    return Seat(
        id=_seat_id(row),
        section=str(row["section"]),
        row=str(row["row"]),
        number=str(row["number"]),
        price=Money(int(row["price"]), row["currency"]),
    )


def _seat_id(row: Mapping[str, Any]) -> str:
    if (given := str(row.get("id", ""))) != "":
        return given
    of_place = (str(row["row"]), str(row["number"]))
    return "-".join(of_place) if all(of_place) else ""
