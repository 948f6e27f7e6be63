"""Hostile texts and files to whatever reads them: one kind of refusal, and nothing else is ever raised."""

import base64
import io
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
import pytest_asyncio
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from reservation import catalog
from reservation.api import validation
from reservation.api.call import Call
from reservation.api.pages import Pages
from reservation.auth.access import Access
from reservation.auth.keyring import Keyring
from reservation.auth.keys import Keys
from reservation.auth.tokens import Tokens
from reservation.aws.errors import AwsError
from reservation.catalog import BadFile, Catalog
from reservation.domain.errors import InvalidRequest, MissingIdempotencyKey, Unauthenticated
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.operators import Operators, operators
from reservation.settings import Settings, SettingsError
from tests.support.fuzz import examples
from tests.support.hostile_requests import TEXTS
from tests.support.key_server import ALGORITHMS, AUDIENCE, SigningKey, published
from tests.support.leaks import leaks
from tests.support.store import NOW
from tests.support.system import make_tables, own_settings

PATIENCE_SECONDS = 10

texts = st.sampled_from(TEXTS) | st.text(max_size=80)

# Page tokens and idempotency keys

PAGES = Pages("seats", "evt_1", "Floor")
tokens = texts | st.binary(max_size=80).map(lambda raw: base64.urlsafe_b64encode(raw).decode())


@given(token=tokens, begin=texts)
@examples(200)
def test_any_text_is_a_token_of_this_list_or_an_invalid_request(token: str, begin: str) -> None:
    made_up = PAGES.token(begin)
    for each in (token, made_up, made_up + token, token + made_up, made_up[: len(token)]):
        try:
            validation.list_seats(messages.ListSeatsRequest(event_id="evt_1", page_token=each), PAGES)
        except InvalidRequest:
            continue
        assert each == "" or int(PAGES.begin(each) or "") >= 0


@given(in_message=texts, in_header=texts, quotes=st.sampled_from(["", '"']), at_edge=st.booleans())
@examples(200)
def test_any_text_is_a_key_that_can_be_stored_or_a_refusal(
    in_message: str, in_header: str, quotes: str, at_edge: bool
) -> None:
    metadata = [("idempotency-key", f"{quotes}{in_header}{quotes}"), *([("x-edge", "1")] if at_edge else [])]
    context = SimpleNamespace(invocation_metadata=lambda: tuple(metadata), time_remaining=lambda: None)
    try:
        key = Call.of(context).key(in_message, required_at_edge=True)
        validation.key(key)
    except (InvalidRequest, MissingIdempotencyKey):
        return
    assert key or not at_edge
    assert len(key) <= 255
    assert key in in_message or key in f"{quotes}{in_header}{quotes}"


# Tokens of who calls

_ISSUER = "https://issuer.example"
_KEYS = [SigningKey.new(f"key-{algorithm}", algorithm) for algorithm in ALGORITHMS]
_CLAIMS = {"iss": _ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": NOW / 1000 + 600}
_claim = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([_ISSUER, AUDIENCE, NOW / 1000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kid", "a"]), inner, max_size=2),
    max_leaves=4,
)
_claims = st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "scope", "scp"]), _claim)
_headers = st.dictionaries(
    st.sampled_from(["kid", "typ", "jwk", "jku", "x5u", "crit", "b64", "zip"]), _claim, max_size=2
)


@st.composite
def authorizations(draw: st.DrawFn) -> str:
    """Signed as it should be or not, of claims and headers that nobody would sign, and damaged in places."""
    header = json.dumps(
        {"alg": draw(st.sampled_from([*ALGORITHMS, "none", "HS256"])), "kid": "key-ES256"} | draw(_headers)
    )
    claims = json.dumps(_CLAIMS | draw(_claims))
    signed = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in (header, claims))
    key = draw(st.sampled_from(_KEYS))
    signature = jwt.get_algorithm_by_name(key.algorithm).sign(signed.encode(), key.private)
    token = f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    start, length = draw(st.integers(0, len(token))), draw(st.sampled_from([0, 0, 0, 1, 9]))
    damage = draw(st.just("") | texts) if length else ""
    return (
        draw(st.sampled_from(["Bearer ", "bearer  ", "Basic ", ""])) + token[:start] + damage + token[start + length :]
    )


@given(authorization=authorizations() | texts | texts.map(lambda text: f"Bearer {text}"), via_edge=st.booleans())
@examples(100)
async def test_any_authorization_tells_who_calls_or_is_refused(authorization: str, via_edge: bool) -> None:
    async def fetch() -> Keys:
        return published(*_KEYS)

    tokens = Tokens(Keyring(fetch), issuer=_ISSUER, audience=AUDIENCE, now=lambda: NOW)
    try:
        caller = await Access(tokens, trust_direct=False).caller(
            authorization, via_edge=via_edge, until=time.monotonic() + PATIENCE_SECONDS
        )
    except Unauthenticated as refused:
        told = refused.text
    else:
        assert 0 < len(caller.name) <= 128
        return
    assert leaks(told) == []


# Event files

_COLUMNS = ("section", "row", "number", "price", "currency", "id", "accessible", "capacity")
_CELLS = (
    *("Floor", "A", "1", "500", "KRW", "true", "", "3", "199999", "200000", "200001", str(10**12), str(10**400), "-1"),
    *(
        "1e9",
        "=1+1",
        "@SUM(A1)",
        "+1",
        "\u0663",
        '"',
        '""',
        'a"b',
        "a\nb",
        "a\rb",
        "a,b",
        "\0",
        "\ufeff",
        "#",
        "x" * 2_000,
    ),
)
cells = st.sampled_from(_CELLS) | texts
headers = (
    st.just(",".join(_COLUMNS)) | st.just(",".join(_COLUMNS[:5])) | st.lists(st.sampled_from(_COLUMNS)).map(",".join)
)


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """Rows of good and bad cells, quoted or not, with any line ends, and bytes that are no text here and there."""
    quoted = st.booleans()
    lines = [draw(headers)]
    for row in draw(st.lists(st.lists(cells, max_size=9), max_size=4)):
        lines.append(",".join('"' + cell.replace('"', '""') + '"' if draw(quoted) else cell for cell in row))
    text = "".join(line + draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n", ""])) for line in lines)
    return (
        draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\0"])) + text.encode() + draw(st.binary(max_size=2))
    )


_VALUES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | cells
    | st.sampled_from(["2026-01-31T19:00:00+09:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026"])
)  # fmt: skip
values = st.recursive(
    _VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)
good_seat = {"section": "Floor", "row": "A", "number": 1, "price": 500, "currency": "KRW"}
seats = st.dictionaries(st.sampled_from(_COLUMNS), values, max_size=3).map(lambda changes: good_seat | changes)
_SETTINGS = ("id", "name", "holdSeconds", "maxSeats", "maxHoldsPerUser", "preventOrphans", "saleStartsAt", "saleEndsAt")
events = st.dictionaries(st.sampled_from(_SETTINGS), values, max_size=3).map(lambda changes: {"id": "evt_1"} | changes)
documents = (
    st.fixed_dictionaries({"event": events | values, "seats": st.lists(seats | values, max_size=4) | values}) | values
)
json_files = documents.map(lambda document: json.dumps(document).encode()) | st.sampled_from(
    [
        b"[" * 100_000,
        b'{"seats":' * 5_000,
        b'{"seats":[' + b"1" * 100_000 + b"]}",
        b'{"seats":["\\ud800"]}',
        b"\xef\xbb\xbf{}",
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@given(content=csv_files() | st.binary(max_size=200))
@example(content=f"{','.join(_COLUMNS[:5])}\nFloor,{'x' * 200_000},1,500,KRW\n".encode())
@examples(150)
def test_any_bytes_are_a_csv_catalog_or_a_bad_file(folder: Path, content: bytes) -> None:
    check_file(folder / "hall.csv", content)


@given(content=json_files | st.binary(max_size=200))
@examples(120)
def test_any_bytes_are_a_json_catalog_or_a_bad_file(folder: Path, content: bytes) -> None:
    check_file(folder / "hall.json", content)


def check_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        found = catalog.read(path, event_id="evt_1")
    except BadFile as bad:
        problems = bad.problems
    else:
        check_catalog(found)
        return
    assert problems
    assert all(problem.text and problem.line >= 0 for problem in problems)


def check_catalog(found: Catalog) -> None:
    assert 0 < len({seat.id for seat in found.seats}) == len(found.seats) <= 200_000
    assert all(0 <= seat.price.amount <= 10**12 for seat in found.seats)


# Settings

_SETTINGS_TEXTS = (
    *(
        "250ms",
        "1s",
        "0",
        "-1s",
        "1e3",
        "nan",
        "inf",
        "-inf",
        "9" * 400,
        "9" * 400 + "s",
        "0.0.1s",
        "\u0663s",
        " 1 s ",
        "1S",
    ),
    *("true", "[]", "{}", "null", "127.0.0.1:1", "dns:///x:1", "static://x:99999", "http://", "0x10", "1_0", "\udcff"),
)
_NAMES = sorted(name.upper() for name in Settings.model_fields)


@given(
    name=st.sampled_from(_NAMES), value=st.sampled_from(_SETTINGS_TEXTS) | texts.filter(lambda text: "\0" not in text)
)
@examples(60)
def test_any_setting_is_usable_or_refused_by_its_name(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(name, value)
        try:
            settings = Settings.from_environment()
        except SettingsError as refused:
            told = str(refused)
        else:
            assert all(math.isfinite(each) for each in settings.model_dump().values() if isinstance(each, float))
            return
    assert name in told


# What operators type


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def them(ministack_url: str) -> AsyncIterator[Operators]:
    settings = own_settings(ministack_url)
    await make_tables(settings)
    async with operators(settings, Console(file=io.StringIO())) as them:
        yield them


@pytest.mark.asyncio(loop_scope="module")
@given(name=texts | st.sampled_from(["[/x]", "[bold", "[red]x[/blue]", "\\[", "0000", "evt_1"]))
@example(name="[/x]")
@examples(40)
async def test_any_id_that_an_operator_types_is_looked_up_or_said_to_be_none(them: Operators, name: str) -> None:
    """What no key can be, such as no text at all, DynamoDB refuses; the command line tells that in one line."""
    commands: list[Callable[[], Awaitable[bool]]] = [
        lambda: them.show_event(name),
        lambda: them.block_seats(name, [name]),
        lambda: them.unblock_seats(name, [name]),
        lambda: them.show_dead(name, name),
        lambda: them.replay_dead(name, name),
        lambda: them.purge_dead(name, name),
        lambda: them.retire_shard(f"{name} none"),
    ]
    for command in commands:
        with suppress(AwsError):
            assert await command() is False
    await them.add_shard(name)
