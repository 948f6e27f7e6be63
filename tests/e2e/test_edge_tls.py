"""TLS on both sides of the edge: callers show certificates to Envoy, Envoy shows its own to the service."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from cryptography import x509

from reservation.edge import EdgeConfig, EdgeError, running
from reservation.edge_tls import ListenerTls, UpstreamTls
from reservation.gen.com.traffic_tacos.reservation import v1
from reservation.tls import KeyPair, ServerCertificate
from tests.support.certificates import Authority, Identity
from tests.support.edge import EdgeOverStub, check_error, check_nothing_internal, edge_over, stats
from tests.support.stub_service import PACKAGE, stub_service

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONNECTIONS = r"^http\.edge\.downstream_cx_total$"
FORGED = {"x-forwarded-client-cert": 'Subject="CN=somebody else"'}


@dataclass(frozen=True)
class Secured:
    """An edge and a stub of the service that both demand certificates. Their files are in `directory`."""

    over_stub: EdgeOverStub
    directory: Path
    authority: Authority
    caller: Identity

    @property
    def url(self) -> str:
        return self.over_stub.edge.url

    def trust(self, *, caller: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.certificate.decode())
        if caller:
            context.load_cert_chain(self.directory / "caller.pem", self.directory / "caller.key")
        return context

    async def serial_number(self) -> int:
        """Of the certificate that a new connection gets."""
        port = int(self.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=self.trust())
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(shown).serial_number


@asynccontextmanager
async def secured(directory: Path, *, upstream_name: str = "service.internal") -> AsyncIterator[Secured]:
    authority, own = Authority(), Authority()
    listener = KeyPair(*authority.issue("edge", ["127.0.0.1"]).mount(directory))
    service = KeyPair(*own.issue("service", ["service.internal"]).write(directory, "service"))
    envoy = KeyPair(*own.issue("envoy").write(directory, "envoy"))
    ca, own_ca = authority.write(directory, "callers-ca"), own.write(directory, "own-ca")
    caller = authority.issue("box office")
    caller.write(directory, "caller")
    credentials = ServerCertificate(service, own_ca).credentials()
    upstream = UpstreamTls(own_ca, upstream_name, envoy)
    async with (
        stub_service(credentials) as stub,
        edge_over(stub.port, listener_tls=ListenerTls(listener, ca), upstream_tls=upstream) as edge,
    ):
        yield Secured(EdgeOverStub(edge, stub), directory, authority, caller)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    async with secured(tmp_path_factory.mktemp("tls")) as world:
        yield world


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_a_caller_with_a_certificate_is_served_and_named_to_the_service(world: Secured, http2: bool) -> None:
    async with httpx.AsyncClient(base_url=world.url, verify=world.trust(), http2=http2) as client:
        answer = await client.post("/v1/reservations", json={"eventId": "evt_1"}, headers=FORGED)
    assert (answer.status_code, answer.http_version) == (201, "HTTP/2" if http2 else "HTTP/1.1")
    check_nothing_internal(answer)
    (told,) = world.over_stub.stub.received[-1].values("x-forwarded-client-cert")
    assert 'Subject="CN=box office,' in str(told)
    assert "somebody else" not in str(told)


async def test_a_native_caller_with_a_certificate_is_served(world: Secured) -> None:
    credentials = grpc.ssl_channel_credentials(world.authority.certificate, world.caller.key, world.caller.certificate)
    async with grpc.aio.secure_channel(world.over_stub.target, credentials) as channel:
        create = channel.unary_unary(f"/{PACKAGE}.ReservationService/CreateReservation")
        answer = v1.CreateReservationResponse.parse(await create(b""))
    assert answer.reservation_id == "rsv_1"


async def test_a_caller_without_a_certificate_or_with_a_strangers_is_not_served(world: Secured, tmp_path: Path) -> None:
    stranger = world.trust(caller=False)
    stranger.load_cert_chain(*Authority().issue("box office").write(tmp_path, "stranger"))
    before = len(world.over_stub.stub.received)
    for trust in (world.trust(caller=False), stranger):
        async with httpx.AsyncClient(base_url=world.url, verify=trust) as client:
            with pytest.raises((ssl.SSLError, httpx.TransportError)):
                await client.post("/v1/reservations", json={})
    async with httpx.AsyncClient(base_url=world.url.replace("https", "http")) as client:
        with pytest.raises(httpx.TransportError):
            await client.post("/v1/reservations", json={})
    assert len(world.over_stub.stub.received) == before


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_tls_older_than_1_2_is_refused(world: Secured) -> None:
    old = world.trust()
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_PROTOCOL_VERSION"):
        await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]), ssl=old)


async def test_new_connections_get_the_new_certificate_unless_it_is_no_good_and_old_ones_live_on(
    world: Secured,
) -> None:
    async with httpx.AsyncClient(base_url=world.url, verify=world.trust()) as client:
        assert (await client.post("/v1/reservations", json={})).status_code == 201
        before, new = await world.serial_number(), world.authority.issue("edge", ["127.0.0.1"])
        replace(new, key=Authority().issue().key).mount(world.directory)
        await _rises(world, r"^sds\.edge_certificate\.key_rotation_failed$")
        assert await world.serial_number() == before
        new = world.authority.issue("edge", ["127.0.0.1"])
        new.mount(world.directory)
        async with asyncio.timeout(10):
            while await world.serial_number() != new.serial_number:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        connections = await _count(world, CONNECTIONS)
        assert (await client.post("/v1/reservations", json={})).status_code == 201
        assert await _count(world, CONNECTIONS) == connections


async def test_a_service_by_another_name_is_not_believed(tmp_path: Path) -> None:
    async with secured(tmp_path, upstream_name="other.internal") as world:
        async with httpx.AsyncClient(base_url=world.url, verify=world.trust()) as client:
            answer = await client.post("/v1/reservations", json={})
        check_error(answer, 503, "SERVICE_UNAVAILABLE", "/v1/reservations")
        assert world.over_stub.stub.received == []


async def test_envoy_does_not_start_with_a_key_of_another_certificate(tmp_path: Path) -> None:
    """By itself it would, and hang up on every caller."""
    certificate, _ = Authority().issue().write(tmp_path, "one")
    _, key = Authority().issue().write(tmp_path, "other")
    with pytest.raises(EdgeError, match=f"{certificate} and {key}: "):
        async with running(EdgeConfig(port=0, admin_port=0, listener_tls=ListenerTls(KeyPair(certificate, key)))):
            pytest.fail("it serves")


async def _count(world: Secured, pattern: str) -> int:
    (count,) = (await stats(world.over_stub.edge, pattern)).values()
    return count


async def _rises(world: Secured, pattern: str) -> None:
    async with asyncio.timeout(10):
        while not await _count(world, pattern):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
