"""The issuer's keys over real HTTPS, and what is no such thing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from reservation.auth import issuer
from reservation.auth.issuer import Issuer, IssuerError
from reservation.auth.keyring import Keyring
from reservation.auth.keys import Keys
from reservation.domain.errors import ServiceUnavailable
from tests.support.key_server import ALGORITHMS, KeyServer, SigningKey, key_server, published
from tests.support.store import SettableClock

KEYS = [SigningKey.new(algorithm, algorithm) for algorithm in ALGORITHMS]
DISCOVERY, METADATA = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[KeyServer]:
    async with key_server(tmp_path, *KEYS) as server:
        yield server


@pytest_asyncio.fixture
async def known(server: KeyServer) -> AsyncIterator[Issuer]:
    async with issuer.connect(server.uri, server.ca_file) as session:
        yield Issuer(session, server.uri)


async def test_keys_are_found_through_the_discovery_document(server: KeyServer, known: Issuer) -> None:
    assert await known.keys() == published(*KEYS)
    assert server.fetches == [DISCOVERY, "/keys"]


async def test_an_authorization_server_without_openid_has_its_own_document(server: KeyServer, known: Issuer) -> None:
    server.oauth = True
    assert await known.keys() == published(*KEYS)
    assert server.fetches == [DISCOVERY, METADATA, "/keys"]


async def test_a_server_with_a_certificate_of_an_unknown_authority_is_not_asked(server: KeyServer) -> None:
    async with issuer.connect(server.uri, None) as session:
        with pytest.raises(IssuerError, match="certificate"):
            await Issuer(session, server.uri).keys()
    assert server.fetches == []


async def test_an_issuer_of_another_name_is_not_ours(server: KeyServer, known: Issuer) -> None:
    server.issuer = server.uri + "/"
    with pytest.raises(IssuerError, match="calls itself"):
        await known.keys()
    assert server.fetches == [DISCOVERY]


@pytest.mark.parametrize("elsewhere", ["http://issuer.example/keys", "file:///etc/passwd", "keys", "https://[/keys"])
async def test_keys_come_by_https_only(server: KeyServer, known: Issuer, elsewhere: str) -> None:
    server.jwks_uri = elsewhere
    with pytest.raises(IssuerError, match=r"https|URL"):
        await known.keys()


@pytest.mark.parametrize("path", ["/moved", "/big", "/text", "/nested"])
async def test_an_answer_that_is_no_document_of_a_sensible_size_is_an_error(
    server: KeyServer, known: Issuer, path: str
) -> None:
    server.jwks_uri = server.uri + path
    with pytest.raises(IssuerError):
        await known.keys()
    assert server.fetches == [DISCOVERY, path], "redirects are not followed"


async def test_a_key_that_the_issuer_changes_to_is_found_when_a_token_names_it(
    server: KeyServer, known: Issuer
) -> None:
    clock = SettableClock()
    ring = Keyring(known.keys, monotonic=clock.monotonic)
    await ring.refresh()
    server.keys = [SigningKey.new("next", "ES256")]
    clock.advance(10_000)
    found = await ring.find("next", clock.monotonic() + 60)
    assert found is not None
    assert await ring.find("RS256", clock.monotonic() + 60) is None
    assert len(server.fetches) == 4
    server.down = True
    await ring.refresh()
    assert await ring.find("next", clock.monotonic() + 60) == found


async def test_who_waits_for_a_key_shares_one_question_and_waits_no_longer_than_it_may(server: KeyServer) -> None:
    asked, may_go_on = asyncio.Event(), asyncio.Event()
    calls = 0

    async def fetch() -> Keys:
        nonlocal calls
        calls += 1
        asked.set()
        await may_go_on.wait()
        return published(*KEYS)

    ring = Keyring(fetch)
    long = asyncio.get_running_loop().time() + 3600
    waiting = [asyncio.create_task(ring.find("RS256", long)) for _ in range(20)]
    await asked.wait()
    with pytest.raises(ServiceUnavailable):
        await ring.find("RS256", 0.0)
    may_go_on.set()
    assert {key.algorithm for key in await asyncio.gather(*waiting) if key is not None} == {"RS256"}
    assert calls == 1


async def test_a_question_under_way_ends_with_its_keyring() -> None:
    async def fetch() -> Keys:
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    ring = Keyring(fetch)
    waiting = asyncio.create_task(ring.find("RS256", asyncio.get_running_loop().time() + 3600))
    await asyncio.sleep(0)
    await ring.close()
    with pytest.raises(ServiceUnavailable):
        await waiting
