"""Which tokens are believed, whom they tell of, and how long that is remembered."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from reservation.auth.access import Access
from reservation.auth.caller import TRUSTED, UNVERIFIED, Caller, Right
from reservation.auth.issuer import IssuerError
from reservation.auth.keyring import MOST_WAITING, REFRESH_SECONDS, RETRY_SECONDS, Keyring
from reservation.auth.keys import Keys, keys_of
from reservation.auth.tokens import LEEWAY_MS, TOKEN_BYTES, Tokens
from reservation.domain.errors import Forbidden, ReservationError, ServiceUnavailable, Unauthenticated
from tests.support.key_server import ALGORITHMS, AUDIENCE, SigningKey, published
from tests.support.moved_time import MovedTime
from tests.support.store import NOW

ISSUER = "https://issuer.example/realms/sales"
KEYS = {algorithm: SigningKey.new(f"key-{algorithm}", algorithm) for algorithm in ALGORITHMS}
RS, ES, ED = (KEYS[algorithm] for algorithm in ALGORITHMS)
OTHER = SigningKey.new("other", "ES256")

UNTIL = time.monotonic() + 3600
SECONDS = NOW / 1000


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a good customer's token; one that is None is left out."""
    good: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": SECONDS + 600}
    return {name: value for name, value in (good | changes).items() if value is not None}


class Stage:
    """Tokens over an issuer that publishes what the test says, in time that only the test moves."""

    def __init__(self, *keys: SigningKey) -> None:
        self.time = MovedTime()
        self.keys: Keys | None = published(*keys)
        self.asked = 0
        self.ring = Keyring(self._fetch, monotonic=lambda: self.time.now() / 1000, pause=self.time.sleep)
        self.tokens = Tokens(self.ring, issuer=ISSUER, audience=AUDIENCE, now=self.time.now)

    async def _fetch(self) -> Keys:
        self.asked += 1
        if self.keys is None:
            raise IssuerError("down")
        return self.keys

    async def caller(self, token: str) -> Caller:
        return await self.tokens.caller(token, self.time.now() / 1000 + 1)

    async def refused(self, token: str) -> ReservationError:
        try:
            caller = await self.caller(token)
        except ReservationError as error:
            return error
        raise AssertionError(f"believed: {caller}")


@pytest.fixture
def stage() -> Stage:
    return Stage(*KEYS.values())


# Who is believed


@pytest.mark.parametrize("key", KEYS.values(), ids=ALGORITHMS)
async def test_a_customers_token_tells_the_user(stage: Stage, key: SigningKey) -> None:
    caller = await stage.caller(key.sign(claims()))
    assert caller.name == "ann"
    assert caller.rights == {Right.RESERVATIONS, Right.INVENTORY_READ}
    assert (caller.user(""), caller.user("ann"), caller.owner("")) == ("ann", "ann", "ann")
    with pytest.raises(Forbidden):
        caller.user("bob")


@pytest.mark.parametrize("audience", [AUDIENCE, ["payments", AUDIENCE]])
async def test_a_token_may_be_for_others_too(stage: Stage, audience: Any) -> None:
    assert (await stage.caller(RS.sign(claims(aud=audience)))).name == "ann"


@pytest.mark.parametrize(
    ("granted", "rights"),
    [
        ({"scope": "openid reservations:act-as"}, {Right.RESERVATIONS}),
        ({"scope": "inventory:read"}, {Right.INVENTORY_READ}),
        ({"scp": ["inventory:write", 7]}, {Right.INVENTORY_READ, Right.INVENTORY_WRITE}),
        ({"scp": "inventory:read reservations:act-as"}, {Right.INVENTORY_READ, Right.RESERVATIONS}),
        ({"scope": "inventory:read", "scp": ["reservations:act-as"]}, {Right.INVENTORY_READ, Right.RESERVATIONS}),
    ],
)
async def test_a_services_token_may_do_what_its_scopes_say_and_nothing_else(
    stage: Stage, granted: dict[str, Any], rights: set[Right]
) -> None:
    caller = await stage.caller(RS.sign(claims(sub="checkout", **granted)))
    assert caller.rights == rights
    assert (caller.user(""), caller.user("ann"), caller.owner("ann"), caller.owner("")) == (
        "checkout",
        "ann",
        "ann",
        None,
    )


@pytest.mark.parametrize(
    "granted",
    [{}, {"scope": "openid profile"}, {"scope": ""}, {"scope": 7}, {"scp": {"inventory:write": True}}, {"scp": [None]}],
)
async def test_a_token_with_none_of_our_scopes_is_a_customers(stage: Stage, granted: dict[str, Any]) -> None:
    assert not (await stage.caller(RS.sign(claims(**granted)))).names_others


async def test_a_token_that_names_no_key_is_checked_by_the_only_one_there_is() -> None:
    assert (await Stage(RS).caller(RS.sign(claims(), kid=None))).name == "ann"
    assert isinstance(await Stage(RS, ES).refused(RS.sign(claims(), kid=None)), Unauthenticated)


# Who is not


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _hs256_by_the_public_key() -> str:
    """The signature that a library makes which takes the algorithm from the token and the key as bytes."""
    public = RS.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{_part({'alg': 'HS256', 'kid': RS.id})}.{_part(claims())}"
    signature = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _with_header(**header: Any) -> str:
    _, payload, signature = RS.sign(claims()).split(".")
    return f"{_part({'alg': 'RS256', 'kid': RS.id} | header)}.{payload}.{signature}"


REJECTED: dict[str, Callable[[], str]] = {
    "no algorithm": lambda: f"{_part({'alg': 'none', 'kid': RS.id})}.{_part(claims())}.",
    "no algorithm and no key": lambda: f"{_part({'alg': 'none'})}.{_part(claims())}.",
    "HS256 by the public key": _hs256_by_the_public_key,
    "another hash by the right key": lambda: jwt.encode(claims(), RS.private, "RS512", {"kid": RS.id}),
    "a key of another algorithm": lambda: RS.sign(claims(), kid=ES.id),
    "a key that the issuer does not have": lambda: OTHER.sign(claims()),
    "another's key under a known name": lambda: OTHER.sign(claims(), kid=ES.id),
    "a key that it brings along": lambda: OTHER.sign(claims(), kid=ES.id, jwk=OTHER.jwk()),
    "an extension that must be understood": lambda: RS.sign(claims(), crit=["exp"]),
    "a key id that is no text": lambda: _with_header(kid=7),
    "another header than was signed": lambda: _with_header(typ="at+jwt"),
    "other claims than were signed": lambda: ".".join(
        _part(claims(sub="bob")) if at == 1 else part for at, part in enumerate(RS.sign(claims()).split("."))
    ),
    "no signature": lambda: RS.sign(claims()).rpartition(".")[0] + ".",
    "cut off": lambda: RS.sign(claims())[:-5],
    "two parts": lambda: RS.sign(claims()).rpartition(".")[0],
    "more than 8 KiB": lambda: RS.sign(claims(padding="x" * TOKEN_BYTES)),
    "brackets in brackets": lambda: (
        base64.urlsafe_b64encode(b"[" * 5000).decode() + "." + RS.sign(claims()).partition(".")[2]
    ),
    "not ASCII": lambda: "표" + RS.sign(claims()),
    "empty": str,
    "another issuer": lambda: RS.sign(claims(iss="https://other.example")),
    "almost the issuer": lambda: RS.sign(claims(iss=ISSUER + "/")),
    "no issuer": lambda: RS.sign(claims(iss=None)),
    "another audience": lambda: RS.sign(claims(aud="payments")),
    "no audience": lambda: RS.sign(claims(aud=None)),
    "an audience that is no text": lambda: RS.sign(claims(aud=7)),
    "no end": lambda: RS.sign(claims(exp=None)),
    "an end that is text": lambda: RS.sign(claims(exp=str(SECONDS + 600))),
    "an end that is a truth": lambda: RS.sign(claims(exp=True)),
    "an end that is no number": lambda: RS.sign(claims(exp=float("nan"))),
    "an endless end": lambda: RS.sign(claims(exp=float("inf"))),
    "an end in 300 digits": lambda: RS.sign(claims(exp=10**300)),
    "not before a while": lambda: RS.sign(claims(nbf=SECONDS + 31)),
    "not before something": lambda: RS.sign(claims(nbf="now")),
    "no subject": lambda: RS.sign(claims(sub=None)),
    "an empty subject": lambda: RS.sign(claims(sub="")),
    "a subject that is no text": lambda: RS.sign(claims(sub=7)),
    "a subject too long": lambda: RS.sign(claims(sub="x" * 129)),
    "a subject with a line break": lambda: RS.sign(claims(sub="ann\nbob")),
    "a subject with half a character": lambda: RS.sign(claims(sub="ann\ud83c")),
    "the subject of those who are nobody": lambda: RS.sign(claims(sub="anonymous")),
}


@pytest.mark.parametrize("token", REJECTED.values(), ids=REJECTED)
async def test_a_token_that_is_not_as_it_must_be_is_refused_without_a_reason(
    stage: Stage, token: Callable[[], str]
) -> None:
    for _ in range(2):
        refused = await stage.refused(token())
        assert isinstance(refused, Unauthenticated)
        assert refused.text == "Unauthenticated: the token is not valid"


@given(st.text(max_size=200) | st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}\.[\w-]{0,40}", fullmatch=True))
async def test_whatever_else_comes_as_a_token_is_refused(text: str) -> None:
    assert isinstance(await Stage(RS).refused(text), Unauthenticated)


# When


async def test_a_token_is_believed_until_its_end_and_the_leeway(stage: Stage) -> None:
    token = RS.sign(claims(exp=SECONDS + 10))
    await stage.caller(token)
    stage.time.advance(10_000 + LEEWAY_MS - 1)
    await stage.caller(token)
    stage.time.advance(1)
    assert (await stage.refused(token)).text == "Unauthenticated: the token has expired"


async def test_a_token_is_believed_a_leeway_before_its_beginning(stage: Stage) -> None:
    token = RS.sign(claims(nbf=SECONDS + 31))
    stage.time.advance(999)
    await stage.refused(token)
    stage.time.advance(1)
    assert (await stage.caller(token)).name == "ann"


async def test_a_verified_token_is_remembered_and_others_are_not(stage: Stage) -> None:
    """The same object: nothing was made, so nothing was computed."""
    token = RS.sign(claims())
    first = await stage.caller(token)
    assert await stage.caller(token) is first
    assert await stage.caller(RS.sign(claims(jti="2"))) is not first
    stage.time.advance(300_000)
    assert await stage.caller(token) is not first


# Keys that change


async def test_a_token_by_a_new_key_makes_the_keys_be_asked_for(stage: Stage) -> None:
    await stage.caller(RS.sign(claims()))
    assert stage.asked == 1
    stage.keys = published(RS, OTHER)
    stage.time.advance(int(RETRY_SECONDS * 1000))
    assert (await stage.caller(OTHER.sign(claims()))).name == "ann"
    assert stage.asked == 2


async def test_a_flood_of_unknown_keys_asks_once_in_ten_seconds(stage: Stage) -> None:
    await stage.ring.refresh()
    for _ in range(3):
        stage.time.advance(int(RETRY_SECONDS * 1000))
        for number in range(50):
            assert isinstance(await stage.refused(OTHER.sign(claims(), kid=f"made-up-{number}")), Unauthenticated)
    assert stage.asked == 1 + 3


async def test_a_slow_issuer_makes_few_wait_and_nobody_whose_key_is_known() -> None:
    answer = asyncio.Event()
    fetches = 0

    async def fetch() -> Keys:
        nonlocal fetches
        fetches += 1
        if fetches > 1:
            await answer.wait()
        return published(RS, OTHER)

    ring = Keyring(fetch, monotonic=lambda: fetches * RETRY_SECONDS)
    await ring.refresh()
    waiting = [asyncio.create_task(ring.find(f"made-up-{number}", UNTIL)) for number in range(MOST_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnavailable):
        await asyncio.wait_for(ring.find("made-up", UNTIL), 5)
    assert await ring.find(RS.id, UNTIL) is not None
    answer.set()
    assert await asyncio.gather(*waiting) == [None] * MOST_WAITING
    assert fetches == 2


async def test_a_withdrawn_key_is_believed_no_more_not_even_what_is_remembered(stage: Stage) -> None:
    token, other = RS.sign(claims()), ES.sign(claims())
    await stage.caller(token)
    stage.keys = published(ES)
    await stage.ring.refresh()
    assert isinstance(await stage.refused(token), Unauthenticated)
    assert (await stage.caller(other)).name == "ann"


async def test_another_key_under_the_same_name_replaces_it(stage: Stage) -> None:
    old, new = SigningKey.new("key", "ES256"), SigningKey.new("key", "ES256")
    stage.keys = published(old)
    token = old.sign(claims())
    await stage.caller(token)
    stage.keys = published(new)
    await stage.ring.refresh()
    assert isinstance(await stage.refused(token), Unauthenticated)
    assert (await stage.caller(new.sign(claims()))).name == "ann"


async def test_equal_keys_leave_what_is_remembered(stage: Stage) -> None:
    token = RS.sign(claims())
    first = await stage.caller(token)
    stage.keys = published(*KEYS.values())
    await stage.ring.refresh()
    assert await stage.caller(token) is first


async def test_keys_grow_old_while_the_issuer_tells_none(stage: Stage) -> None:
    assert stage.ring.age == float("inf")
    await stage.ring.refresh()
    stage.keys = None
    stage.time.advance(30_000)
    await stage.ring.refresh()
    assert stage.ring.age == 30


async def test_known_keys_outlive_the_issuer_and_an_unknown_one_cannot_be_judged(stage: Stage) -> None:
    await stage.ring.refresh()
    stage.keys = None
    await stage.ring.refresh()
    assert (await stage.caller(RS.sign(claims()))).name == "ann"
    assert isinstance(await stage.refused(OTHER.sign(claims())), ServiceUnavailable), "it may be the issuer's newest"


async def test_before_the_first_keys_are_known_nobody_is_refused_for_good(stage: Stage) -> None:
    keys, stage.keys = stage.keys, None
    for _ in range(20):
        assert isinstance(await stage.refused(RS.sign(claims())), ServiceUnavailable)
    assert stage.asked == 1
    stage.keys = keys
    stage.time.advance(int(RETRY_SECONDS * 1000))
    assert (await stage.caller(RS.sign(claims()))).name == "ann"


# The keys of a document


def _part_of_private(key: SigningKey) -> str:
    return str(json.loads(jwt.get_algorithm_by_name(key.algorithm).to_jwk(key.private))["d"])


USELESS: dict[str, Any] = {
    "for encryption": RS.jwk(use="enc"),
    "for another hash": RS.jwk(alg="RS512"),
    "with its private part": ED.jwk(d=_part_of_private(ED)),
    "too short": SigningKey("short", "RS256", rsa.generate_private_key(65537, 1024)).jwk(),  # noqa: S505
    "far too short": RS.jwk(n="AQAB"),
    "of bad letters": RS.jwk(n="?"),
    "of numbers": RS.jwk(n=7),
    "shared": {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
    "on another curve": {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"},
    "on no point of the curve": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
    "on Ed448": {"kty": "OKP", "crv": "Ed448", "x": "AA"},
    "of a list of types": {"kty": ["RSA"]},
    "of no type": {},
    "a text": "RSA",
}


@pytest.mark.parametrize("useless", USELESS.values(), ids=USELESS)
def test_a_key_that_is_no_use_is_passed_over(useless: Any) -> None:
    assert list(keys_of({"keys": [useless, ES.jwk(use="sig", alg="ES256")]}).by_id) == [ES.id]


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, {"keys": []}, {"keys": [{"kty": "oct"}]}])
def test_a_document_without_keys_is_none(document: Any) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        keys_of(document)


# Doors


async def test_the_keys_are_asked_for_again_every_five_minutes_and_sooner_while_that_fails(stage: Stage) -> None:
    await stage.ring.refresh()
    loop = asyncio.create_task(stage.ring.run())
    await stage.time.move(int(REFRESH_SECONDS * 1000) - 1)
    assert stage.asked == 1
    stage.keys = None
    await stage.time.move(1)
    assert stage.asked == 2
    await stage.time.move(int(RETRY_SECONDS * 1000) * 3)
    assert stage.asked == 5
    loop.cancel()


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {} "])
async def test_the_scheme_has_no_case(stage: Stage, header: str) -> None:
    access = Access(stage.tokens, trust_direct=False)
    caller = await access.caller(header.format(RS.sign(claims())), via_edge=True, until=UNTIL)
    assert caller.name == "ann"


@pytest.mark.parametrize(
    "header",
    ["Basic YW5uOnNlY3JldA==", "Bearer", "Bearer ", "{}", "Bearer{}", "Bearer {0}, Bearer {0}", "Bearer {} x"],
)
@pytest.mark.parametrize("trust_direct", [False, True])
async def test_a_header_that_is_there_must_be_good_even_where_none_is_needed(
    stage: Stage, header: str, trust_direct: bool
) -> None:
    access = Access(stage.tokens, trust_direct=trust_direct)
    with pytest.raises(Unauthenticated):
        await access.caller(header.format(RS.sign(claims())), via_edge=False, until=UNTIL)


@pytest.mark.parametrize(
    ("trust_direct", "via_edge", "trusted"),
    [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
)
async def test_only_a_direct_caller_that_is_trusted_needs_no_token(
    stage: Stage, trust_direct: bool, via_edge: bool, trusted: bool
) -> None:
    access = Access(stage.tokens, trust_direct=trust_direct)
    if trusted:
        assert await access.caller("", via_edge=via_edge, until=UNTIL) is TRUSTED
    else:
        with pytest.raises(Unauthenticated, match="required"):
            await access.caller("", via_edge=via_edge, until=UNTIL)


async def test_without_an_issuer_everybody_is_let_in_and_the_edge_may_not_command_the_inventory() -> None:
    access = Access(None, trust_direct=False)
    assert await access.caller("Bearer x", via_edge=False, until=UNTIL) is TRUSTED
    assert await access.caller("Bearer x", via_edge=True, until=UNTIL) is UNVERIFIED
    assert Right.INVENTORY_WRITE not in UNVERIFIED.rights
