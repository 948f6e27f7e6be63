"""Event files: a good one becomes a catalog, a bad one is refused whole with every problem and its line."""

import json
from collections.abc import Callable
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


def test_the_demo_event_is_a_hall_of_500_seats_of_different_ids() -> None:
    found = catalog.demo()
    assert found.event == catalog.DEMO_EVENT
    assert len({each.id for each in found.seats}) == 500
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
