"""Event files: a good one becomes a catalog, a bad one is refused whole with every problem and its line."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reservation import catalog
from reservation.catalog import BadFile, Catalog, Problem
from reservation.domain.model import Event, Money, Seat

HEADER = "section,row,number,price,currency,id\n"
LONG = "x" * 129
NOT_AN_ID = "is empty, over 128 characters, or has control characters or #"
NO_ROW = "not a row with a value in each column"


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a file: text as UTF-8, an object as JSON, bytes as they are."""

    def write(content: Any, name: str = "hall.csv") -> Path:
        path = tmp_path / name
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def seat(seat_id: str, row: str = "A", number: str = "1", section: str = "Floor", amount: int = 500) -> Seat:
    return Seat(seat_id, section, row, number, Money(amount, "KRW"))


def record(**changes: Any) -> dict[str, Any]:
    return {"section": "Floor", "row": "A", "number": "1", "price": 500, "currency": "KRW"} | changes


def document(*seats: Any, **event: Any) -> dict[str, Any]:
    return {"event": {"id": "evt_1"} | event, "seats": list(seats)}


def problems_of(path: Path, event_id: str | None = None) -> list[tuple[int, str]]:
    with pytest.raises(BadFile) as refused:
        catalog.read(path, event_id=event_id)
    assert str(refused.value) == "\n".join(map(str, refused.value.problems))
    return [(problem.line, problem.text) for problem in refused.value.problems]


# Good files


def test_a_csv_file_is_a_catalog_whose_event_the_arguments_name(file: Callable[..., Path]) -> None:
    path = file("section,row,number,price,currency\nFloor,A,1,500,KRW\nBalcony,B,2,0,KRW\n")
    assert catalog.read(path, event_id="evt_1", name="Hall") == Catalog(
        Event("evt_1", "Hall"), (seat("A-1"), seat("B-2", "B", "2", "Balcony", 0)), keep_settings=True
    )


def test_columns_come_in_any_order_and_others_are_ignored(file: Callable[..., Path]) -> None:
    path = file("currency,comment,price,number,row,section,id\nKRW,good view,500,1,A,Floor,best\n")
    assert catalog.read(path, event_id="evt_1").seats == (seat("best"),)


def test_a_place_without_row_and_number_needs_only_an_id(file: Callable[..., Path]) -> None:
    path = file(HEADER + "Standing,,,500,KRW,S-1\n")
    assert catalog.read(path, event_id="evt_1").seats == (seat("S-1", "", "", "Standing"),)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + HEADER.encode() + "Parkett,Ö,1,500,KRW,\n".encode(),
        (HEADER + "Parkett,Ö,1,500,KRW,\n").replace("\n", "\r\n"),
        HEADER + '"Parkett","Ö","1","500","KRW",\n',
        HEADER + "\nParkett,Ö,1,500,KRW,\n\n",
    ],
    ids=["byte order mark", "line ends of Windows", "quotes", "empty lines"],
)
def test_csv_is_read_as_spreadsheets_write_it(file: Callable[..., Path], content: str | bytes) -> None:
    assert catalog.read(file(content), event_id="evt_1").seats == (seat("Ö-1", "Ö", "1", "Parkett"),)


def test_a_json_file_names_its_event_itself_unless_the_arguments_do(file: Callable[..., Path]) -> None:
    path = file(document(record(), name="Hall", holdSeconds=30), "hall.JSON")
    assert catalog.read(path) == Catalog(Event("evt_1", "Hall", 30), (seat("A-1"),))
    assert catalog.read(path, event_id="evt_2", name="Other").event == Event("evt_2", "Other", 30)


def test_json_may_write_numbers_as_numbers_or_as_text(file: Callable[..., Path]) -> None:
    seats = [record(row=1, number=2, price=500), record(number="3", price="500", id="best")]
    path = file(document(*seats), "hall.json")
    assert catalog.read(path).seats == (seat("1-2", "1", "2"), seat("best", "A", "3"))


def test_a_row_or_a_seat_may_be_number_0(file: Callable[..., Path]) -> None:
    assert catalog.read(file(document(record(row=0, number=0)), "hall.json")).seats == (seat("0-0", "0", "0"),)


@pytest.mark.parametrize("price", [0, 10**12])
def test_a_price_reaches_from_nothing_to_a_million_millions(file: Callable[..., Path], price: int) -> None:
    assert catalog.read(file(document(record(price=price)), "hall.json")).seats[0].price.amount == price


def test_ids_of_128_characters_are_taken(file: Callable[..., Path]) -> None:
    path = file(document(record(id=LONG[1:], section=LONG[1:]), id=LONG[1:], holdSeconds=5), "hall.json")
    assert catalog.read(path).event == Event(LONG[1:], "", 5)


def test_the_demo_event_is_a_hall_of_500_seats_and_200_places_of_different_ids() -> None:
    found = catalog.demo()
    assert found.event == catalog.DEMO_EVENT
    assert len({each.id for each in found.seats}) == 700
    assert Counter((each.section, each.row != "") for each in found.seats) == {
        ("Floor", True): 500,
        ("Standing", False): 200,
    }
    assert {"A-12", "A-13", "B-1", "B-2"} <= {each.id for each in found.seats}


# Bad lines


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (",A,1,500,KRW,", "section is empty"),
        (f"{LONG},A,1,500,KRW,", "section is over 128 characters or has control characters"),
        (f"Floor,{LONG},1,500,KRW,x", "row is over 128 characters or has control characters"),
        (f"Floor,A,{LONG},500,KRW,x", "number is over 128 characters or has control characters"),
        ("Fl\too\tr,A,1,500,KRW,", "section is over 128 characters or has control characters"),
        ("Floor,A,1\x7f,500,KRW,x", "number is over 128 characters or has control characters"),
        ("Floor,A,,500,KRW,", f"the seat id {NOT_AN_ID}"),
        ("Floor,,1,500,KRW,", f"the seat id {NOT_AN_ID}"),
        ("Floor,A,#1,500,KRW,", f"the seat id {NOT_AN_ID}"),
        ("Floor,A,1,500,KRW,A#1", f"the seat id {NOT_AN_ID}"),
        (f"Floor,A,1,500,KRW,{LONG}", f"the seat id {NOT_AN_ID}"),
        *(
            (f"Floor,A,1,{price},KRW,", f"price is not a whole number from 0 to {10**12}")
            for price in ("", "-1", "1.5", "1e3", "free", str(10**12 + 1), "5_000", " 5")
        ),
        *(
            (f"Floor,A,1,500,{currency},", "currency is not three capital letters (ISO 4217)")
            for currency in ("", "krw", "KR", "KRWX", "K1W")
        ),
        ("Floor,A,1,500", NO_ROW),
        ("Floor,A,1,500,KRW,,surplus", NO_ROW),
    ],
)
def test_each_kind_of_bad_line_is_told_with_its_number(file: Callable[..., Path], line: str, text: str) -> None:
    path = file(f"{HEADER}Floor,Z,1,500,KRW,\n\n{line}\n")
    assert problems_of(path, "evt_1") == [(4, text)]


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (record(price=True), f"price is not a whole number from 0 to {10**12}"),
        (record(price=500.0), f"price is not a whole number from 0 to {10**12}"),
        (record(price=-1), f"price is not a whole number from 0 to {10**12}"),
        (record(price=None), NO_ROW),
        ({"section": "Floor", "row": "A"}, "number, price, currency missing"),
        ({}, "section, row, number, price, currency missing"),
        (["Floor", "A", "1", 500, "KRW"], NO_ROW),
        ("Floor", NO_ROW),
        (None, NO_ROW),
        (record(id="A\u00851"), f"the seat id {NOT_AN_ID}"),
        (record(currency=840), "currency is not three capital letters (ISO 4217)"),
    ],
)
def test_each_kind_of_bad_seat_in_json_is_told_with_its_place_in_the_list(
    file: Callable[..., Path], broken: Any, text: str
) -> None:
    path = file(document(record(row="Z"), broken), "hall.json")
    assert problems_of(path) == [(2, text)]


@pytest.mark.parametrize(
    ("field", "value"),
    [("section", ["Floor"]), ("row", {"name": "A"}), ("number", True), ("number", 1.5), ("id", [1]), ("id", False)],
)
def test_a_text_that_is_neither_text_nor_a_whole_number_is_refused(
    file: Callable[..., Path], field: str, value: Any
) -> None:
    assert len(problems_of(file(document(record(**{field: value})), "hall.json"))) == 1


def test_a_line_break_within_a_cell_is_a_control_character(file: Callable[..., Path]) -> None:
    path = file(HEADER + '"Flo\nor",A,1,500,KRW,\n')
    assert problems_of(path, "evt_1") == [(3, "section is over 128 characters or has control characters")]


def test_all_problems_of_all_lines_are_told_at_once_in_their_order(file: Callable[..., Path]) -> None:
    path = file(HEADER + ",A,1,free,won,\nFloor,A,1,500,KRW,\nFloor,A,1,500,KRW,\nFloor,A,2,7,USD,\nFloor,A,3\n")
    assert problems_of(path, "evt#1") == [
        (2, "section is empty"),
        (2, f"price is not a whole number from 0 to {10**12}"),
        (2, "currency is not three capital letters (ISO 4217)"),
        (4, "seat A-1 stands on line 3 already"),
        (5, "the currency differs from KRW of the seats before"),
        (6, NO_ROW),
        (0, "the event id is missing, over 128 characters, or has control characters or #"),
    ]


def test_the_same_id_by_name_and_by_place_is_a_duplicate(file: Callable[..., Path]) -> None:
    path = file(HEADER + "Floor,A,1,500,KRW,\nBalcony,B,2,500,KRW,A-1\n")
    assert problems_of(path, "evt_1") == [(3, "seat A-1 stands on line 2 already")]


def test_a_problem_reads_as_its_line_and_its_text_and_one_of_the_file_as_its_text() -> None:
    assert [str(Problem(7, "section is empty")), str(Problem(0, "no seats"))] == [
        "line 7: section is empty",
        "no seats",
    ]


# General admission, accessible seats, and how large a hall may be


WIDE = "section,row,number,price,currency,id,accessible,capacity\n"
NOT_A_CAPACITY = "capacity is not a whole number from 1 to 200000"


def pit(*ids: str) -> tuple[Seat, ...]:
    return tuple(seat(seat_id, "", "", "Pit") for seat_id in ids)


def test_a_line_with_a_capacity_is_so_many_places_without_row_and_number(file: Callable[..., Path]) -> None:
    path = file(WIDE + "Pit,,,500,KRW,,,3\nFloor,A,1,500,KRW,,,\nTerrace,,,500,KRW,T,,1\n")
    assert catalog.read(path, event_id="evt_1").seats == (
        *pit("Pit-1", "Pit-2", "Pit-3"),
        seat("A-1"),
        seat("T-1", "", "", "Terrace"),
    )


def test_several_lines_may_make_one_section_at_several_prices(file: Callable[..., Path]) -> None:
    path = file(WIDE + "Pit,,,500,KRW,near,,1\nPit,,,400,KRW,far,yes,2\n")
    near, far = pit("near-1")[0], pit("far-1", "far-2")
    cheap = [replace(each, price=Money(400, "KRW"), accessible=True) for each in far]
    assert catalog.read(path, event_id="evt_1").seats == (near, *cheap)


@pytest.mark.parametrize("capacity", [2, "2"])
def test_in_json_such_a_line_needs_neither_row_nor_number(file: Callable[..., Path], capacity: Any) -> None:
    line = {"section": "Pit", "price": 500, "currency": "KRW", "capacity": capacity}
    assert catalog.read(file(document(line), "hall.json")).seats == pit("Pit-1", "Pit-2")


@pytest.mark.parametrize(
    ("said", "accessible"),
    [(True, True), (False, False), ("yes", True), ("TRUE", True), ("1", True), (1, True), ("no", False), ("", False)],
)
def test_a_seat_may_be_accessible(file: Callable[..., Path], said: Any, accessible: bool) -> None:
    (found,) = catalog.read(file(document(record(accessible=said)), "hall.json")).seats
    assert found == replace(seat("A-1"), accessible=accessible)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        *((f"Pit,,,500,KRW,,,{bad}", NOT_A_CAPACITY) for bad in ("0", "-1", "1.5", "200001", "many", "1000000", " 3")),
        ("Pit,A,,500,KRW,,,3", "a section with a capacity has neither row nor number"),
        ("Pit,,1,500,KRW,,,3", "a section with a capacity has neither row nor number"),
        (",,,500,KRW,x,,3", "section is empty"),
        (f"Pit,,,500,KRW,{'x' * 122},,3", f"the seat id {NOT_AN_ID}"),
        ("Pit,,,500,KRW,a#b,,3", f"the seat id {NOT_AN_ID}"),
        ("Pit,,,-5,KRW,,,3", f"price is not a whole number from 0 to {10**12}"),
        ("Floor,A,1,500,KRW,,maybe,", "accessible is neither true nor false"),
        ("Floor,,,500,KRW,Floor-7,,", "section Floor has seats with and without row and number"),
        ("Floor,,,500,KRW,,,3", "section Floor has seats with and without row and number"),
        ("Field,,,500,KRW,Z,,1", "seat Z-1 stands on line 2 already"),
        ("Field,,,500,USD,,,1", "the currency differs from KRW of the seats before"),
    ],
)
def test_each_kind_of_bad_wide_line_is_told_with_its_number(file: Callable[..., Path], line: str, text: str) -> None:
    path = file(f"{WIDE}Floor,Z,1,500,KRW,,,\n{line}\n")
    assert problems_of(path, "evt_1") == [(3, text)]


@pytest.mark.parametrize("capacity", [True, 1.5, 0, -1, [1], {"of": 1}, 200_001])
def test_a_capacity_in_json_is_a_whole_number(file: Callable[..., Path], capacity: Any) -> None:
    line = {"section": "Pit", "price": 500, "currency": "KRW", "capacity": capacity}
    assert problems_of(file(document(line), "hall.json")) == [(1, NOT_A_CAPACITY)]


@pytest.mark.parametrize("missing", ["section", "price", "currency"])
def test_a_line_with_a_capacity_names_section_price_and_currency(file: Callable[..., Path], missing: str) -> None:
    line = {"section": "Pit", "price": 500, "currency": "KRW", "capacity": 3}
    del line[missing]
    assert problems_of(file(document(line), "hall.json")) == [(1, f"{missing} missing")]


def test_a_row_has_at_most_400_seats_and_a_section_as_many_places_as_it_likes(file: Callable[..., Path]) -> None:
    lines = [f"Floor,{row},{n},500,KRW,,," for row in "AB" for n in range(400)]
    whole = WIDE + "\n".join([*lines, "Pit,,,500,KRW,,,401"])
    assert len(catalog.read(file(whole), event_id="evt_1").seats) == 1_201
    assert problems_of(file(whole + "\nFloor,B,400,500,KRW,,,\n"), "evt_1") == [(803, "row B has more than 400 seats")]


def test_a_hall_has_at_most_200000_seats_and_nothing_is_read_beyond(file: Callable[..., Path]) -> None:
    largest = WIDE + "Pit,,,500,KRW,,,199999\nFloor,A,1,500,KRW,,,\n"
    assert len(catalog.read(file(largest), event_id="evt_1").seats) == 200_000
    beyond = "".join(f"Pit,,,500,KRW,{name},,200000\n" for name in ("more", "and-more", "and-still-more"))
    assert problems_of(file(largest + beyond), "evt_1") == [(4, "more than 200000 seats")]


# An event's settings


SETTINGS = {
    "holdSeconds": 90,
    "maxSeats": 4,
    "maxHoldsPerUser": 2,
    "preventOrphans": False,
    "saleStartsAt": "2026-01-31T19:00:00+09:00",
    "saleEndsAt": "2026-01-31T12:00:00.25Z",
}


def test_a_json_file_may_set_everything_of_its_event(file: Callable[..., Path]) -> None:
    found = catalog.read(file(document(record(), name="Hall", **SETTINGS), "hall.json"))
    assert not found.keep_settings
    assert found.event == Event(
        "evt_1",
        "Hall",
        hold_seconds=90,
        max_seats=4,
        max_holds_per_user=2,
        prevent_orphans=False,
        sale_starts_at=1_769_853_600_000,
        sale_ends_at=1_769_860_800_250,
    )


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "preventOrphans"])
def test_null_is_as_good_as_nothing_said(file: Callable[..., Path], name: str) -> None:
    assert catalog.read(file(document(record(), **{name: None}), "hall.json")).event == Event("evt_1")


@pytest.mark.parametrize(
    ("name", "low", "high"), [("holdSeconds", 5, 86_400), ("maxSeats", 1, 10), ("maxHoldsPerUser", 1, 20)]
)
def test_each_limit_of_an_event_has_its_limits(file: Callable[..., Path], name: str, low: int, high: int) -> None:
    for good in (low, high):
        catalog.read(file(document(record(), **{name: good}), "hall.json"))
    for bad in (low - 1, high + 1, float(low), str(low), True, [low]):
        found = problems_of(file(document(record(), **{name: bad}), "hall.json"))
        assert found == [(0, f"{name} is not a whole number from {low} to {high}")]


@pytest.mark.parametrize("bad", ["yes", "true", 1, 0, "", []])
def test_a_flag_of_an_event_is_true_or_false(file: Callable[..., Path], bad: Any) -> None:
    path = file(document(record(), preventOrphans=bad), "hall.json")
    assert problems_of(path) == [(0, "preventOrphans is neither true nor false")]


@pytest.mark.parametrize("milliseconds", [1, 123, 249, 999])
def test_a_time_is_read_to_the_millisecond(file: Callable[..., Path], milliseconds: int) -> None:
    path = file(document(record(), saleStartsAt=f"2026-01-31T10:00:00.{milliseconds:03d}Z"), "hall.json")
    assert catalog.read(path).event.sale_starts_at == 1_769_853_600_000 + milliseconds


@pytest.mark.parametrize("name", ["saleStartsAt", "saleEndsAt"])
@pytest.mark.parametrize(
    "bad", ["2026-01-31T19:00:00", "2026-01-31", "tomorrow", "", 1_769_853_600, True, ["2026-01-31T19:00:00Z"]]
)
def test_a_time_names_its_zone(file: Callable[..., Path], name: str, bad: Any) -> None:
    text = f"{name} is no time with a zone, such as 2026-01-31T19:00:00+09:00"
    assert problems_of(file(document(record(), **{name: bad}), "hall.json")) == [(0, text)]


@pytest.mark.parametrize("ends", ["2026-01-31T10:00:00Z", "2026-01-31T09:59:59.999Z"])
def test_a_sale_ends_after_it_starts(file: Callable[..., Path], ends: str) -> None:
    times = {"saleStartsAt": "2026-01-31T19:00:00+09:00", "saleEndsAt": ends}
    assert problems_of(file(document(record(), **times), "hall.json")) == [(0, "saleEndsAt is not after saleStartsAt")]


def test_all_problems_of_an_event_are_told_at_once(file: Callable[..., Path]) -> None:
    bad = dict.fromkeys(SETTINGS, "bad")
    assert len(problems_of(file(document(record(), **bad), "hall.json"))) == len(SETTINGS)


def test_a_csv_file_does_not_speak_of_settings(file: Callable[..., Path]) -> None:
    found = catalog.read(file("section,row,number,price,currency\nFloor,A,1,500,KRW\n"), event_id="evt_1")
    assert (found.keep_settings, found.event) == (True, Event("evt_1"))


# Bad files


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", (1, "the header lacks section, row, number, price, currency")),
        ("section,row,Number,price\n", (1, "the header lacks number, currency")),
        (HEADER, (0, "no seats")),
        (b"\xff\xfe" + HEADER.encode("utf-16-le"), (0, "not UTF-8 text")),
        (HEADER.encode() + b"Parkett,\xd6,1,500,KRW,\n", (0, "not UTF-8 text")),
    ],
    ids=["empty", "other header", "header only", "UTF-16", "Latin-1"],
)
def test_a_csv_file_that_is_none_is_refused(
    file: Callable[..., Path], content: str | bytes, problem: tuple[int, str]
) -> None:
    assert problems_of(file(content), "evt_1") == [problem]


def test_a_quote_that_nothing_closes_is_told_with_its_line(file: Callable[..., Path]) -> None:
    ((line, text),) = problems_of(file(f'{HEADER}Floor,"{"x" * 131_073}\n'), "evt_1")
    assert (line, text.startswith("not CSV: ")) == (2, True)


def test_seats_that_are_refused_count_towards_what_is_read(file: Callable[..., Path]) -> None:
    """Each line of the same 200,000 places takes as long as the first."""
    lines = ["Pit,,,500,KRW,,,150000"] * 50
    found = problems_of(file(WIDE + "\n".join(lines)), "evt_1")
    assert found == [(3, "seat Pit-1 stands on line 2 already"), (3, "more than 200000 seats")]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", 1),
        ("nonsense", 1),
        ('{"seats": [NaN]}', 1),
        (b'{"seats": ["\xff"]}', 1),
        ('{"seats": [\n  {"section": "Floor"},\n  {"section": Floor}\n]}', 3),
    ],
)
def test_what_is_not_json_is_told_with_its_line(file: Callable[..., Path], content: str | bytes, line: int) -> None:
    ((found, text),) = problems_of(file(content, "hall.json"))
    assert found == line
    assert text.startswith("not JSON: ")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], 'not an object with a list "seats"'),
        ({}, 'not an object with a list "seats"'),
        ({"seats": {}}, 'not an object with a list "seats"'),
        ({"seats": [record()], "event": "evt_1"}, '"event" is not an object'),
        (document(), "no seats"),
    ],
)
def test_json_of_another_shape_is_refused(file: Callable[..., Path], content: Any, text: str) -> None:
    assert problems_of(file(content, "hall.json")) == [(0, text)]


@pytest.mark.parametrize("event_id", ["", "a#b", "a\nb", LONG, 7, None])
def test_an_event_id_that_no_key_can_be_made_of_is_refused(file: Callable[..., Path], event_id: Any) -> None:
    text = "the event id is missing, over 128 characters, or has control characters or #"
    assert problems_of(file(document(record(), id=event_id), "hall.json")) == [(0, text)]


@pytest.mark.parametrize("seconds", [4, 0, -1, 5.0, True, "30"])
def test_holds_shorter_than_five_seconds_and_what_is_no_number_are_refused(
    file: Callable[..., Path], seconds: Any
) -> None:
    path = file(document(record(), holdSeconds=seconds), "hall.json")
    assert problems_of(path) == [(0, "holdSeconds is not a whole number from 5 to 86400")]


@pytest.mark.parametrize("name", [None, 7, ["Hall"], "Hall\n", "x" * 129])
def test_an_event_name_that_is_no_short_text_is_refused_and_no_name_is_none(
    file: Callable[..., Path], name: Any
) -> None:
    path = file(document(record(), name=name), "hall.json")
    if name is None:
        assert catalog.read(path).event.name == ""
    else:
        assert len(problems_of(path)) == 1


@pytest.mark.parametrize("name", ["missing.csv", "missing.json"])
def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        catalog.read(tmp_path / name, event_id="evt_1")
