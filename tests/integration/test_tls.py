"""The gRPC port over TLS: who is let in, certificates that change while it serves, a remote inventory behind one."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from structlog.testing import capture_logs

from reservation import app
from reservation.tls import KeyPair, ServerCertificate
from tests.support.certificates import Authority, Identity
from tests.support.edge import REPOSITORY
from tests.support.stub_service import PACKAGE, StubService, stub_service
from tests.support.system import (
    System,
    call,
    create_request,
    hold,
    make_tables,
    own_settings,
    refusal,
    selling,
    serving,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Secured:
    """A service that demands certificates of this authority, whose files are in `directory`, and one caller's."""

    system: System
    authority: Authority
    directory: Path
    caller: Identity

    def channel(self, authority: Authority, caller: Identity | None) -> grpc.aio.Channel:
        shown = (caller.key, caller.certificate) if caller is not None else (None, None)
        return grpc.aio.secure_channel(self.system.address, grpc.ssl_channel_credentials(authority.certificate, *shown))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(ministack_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    authority, directory = Authority(), tmp_path_factory.mktemp("tls")
    files = _files(authority, directory)
    async with selling(own_settings(ministack_url, **files)) as system:
        yield Secured(system, authority, directory, authority.issue("box office"))


def _files(authority: Authority, directory: Path) -> dict[str, Any]:
    """The settings of a port that demands certificates."""
    certificate, key = authority.issue("service").write(directory, "service")
    return {
        "tls_cert_file": certificate,
        "tls_key_file": key,
        "tls_client_ca_file": authority.write(directory),
    }


# Who is let in


async def test_a_caller_with_a_certificate_buys_seats(secured: Secured) -> None:
    async with secured.channel(secured.authority, secured.caller) as channel:
        held = await call(channel, create_request(secured.system.fresh_seats(2)))
    assert held.message.reservation_id.startswith("rsv_")


@pytest.mark.parametrize("caller", [None, Authority().issue("box office")], ids=["none", "a stranger's"])
async def test_a_caller_without_a_certificate_of_the_authority_is_not_served(
    secured: Secured, caller: Identity | None
) -> None:
    async with secured.channel(secured.authority, caller) as channel:
        refused = await refusal(call(channel, create_request(["A-1"]), timeout=5))
    assert refused.status is grpc.StatusCode.UNAVAILABLE


async def test_plain_text_is_not_served(secured: Secured) -> None:
    refused = await refusal(call(secured.system.channel, create_request(["A-1"]), timeout=5))
    assert refused.status is grpc.StatusCode.UNAVAILABLE


# Certificates that change


@dataclass(frozen=True)
class Rotating:
    """A server whose certificate is in `directory`, as Kubernetes mounts it."""

    stub: StubService
    authority: Authority
    directory: Path

    async def shown(self) -> int:
        """The serial number of what a new connection gets."""
        trust = ssl.create_default_context(cadata=self.authority.certificate.decode())
        trust.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", self.stub.port, ssl=trust)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(shown).serial_number


@pytest_asyncio.fixture(loop_scope="module")
async def rotating(tmp_path: Path) -> AsyncIterator[Rotating]:
    authority = Authority()
    certificate = ServerCertificate(KeyPair(*authority.issue().mount(tmp_path)))
    async with stub_service(certificate.credentials()) as stub:
        yield Rotating(stub, authority, tmp_path)


async def test_new_connections_get_the_new_certificate_and_old_ones_live_on(rotating: Rotating) -> None:
    credentials = grpc.ssl_channel_credentials(rotating.authority.certificate)
    async with grpc.aio.secure_channel(f"localhost:{rotating.stub.port}", credentials) as channel:
        create = channel.unary_unary(f"/{PACKAGE}.ReservationService/CreateReservation")
        await create(b"")
        new = rotating.authority.issue()
        new.mount(rotating.directory)
        assert await rotating.shown() == new.serial_number
        await create(b"")


def _of_another_key(directory: Path) -> None:
    """As an operator leaves it who has replaced only one of the files."""
    (directory / "tls.crt").unlink()
    (directory / "tls.crt").write_bytes(Authority().issue().certificate)


def _gone(directory: Path) -> None:
    (directory / "tls.key").unlink()


def _nonsense(directory: Path) -> None:
    (directory / "tls.crt").unlink()
    (directory / "tls.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nnonsense\n")


@pytest.mark.parametrize("spoil", [_of_another_key, _gone, _nonsense])
async def test_files_that_are_no_good_are_told_once_and_the_certificate_before_stays(
    rotating: Rotating, spoil: Callable[[Path], None]
) -> None:
    before = await rotating.shown()
    spoil(rotating.directory)
    with capture_logs() as logged:
        assert [await rotating.shown() for _ in range(3)] == [before] * 3
    (told,) = logged
    assert (told["event"], told["log_level"]) == ("tls.not_reloaded", "error")
    assert str(rotating.directory) in told["problem"]
    for link in ("tls.crt", "tls.key"):
        (rotating.directory / link).unlink(missing_ok=True)
    mended = rotating.authority.issue()
    mended.mount(rotating.directory)
    assert await rotating.shown() == mended.serial_number


@pytest.mark.parametrize("file", ["tls_cert_file", "tls_key_file", "tls_client_ca_file"])
async def test_a_file_that_is_no_good_stops_the_start_and_is_named(secured: Secured, tmp_path: Path, file: str) -> None:
    files = _files(Authority(), tmp_path)
    files[file].write_bytes(b"nonsense")
    settings = secured.system.settings.model_copy(update=files)
    with pytest.raises(app.StartError, match=f"{files[file]}.*TLS_CERT_FILE") as stopped:
        async with app.running(settings):
            pytest.fail("it serves")
    assert "nonsense" not in str(stopped.value)


async def test_a_new_authority_counts_for_new_connections(tmp_path: Path) -> None:
    authority, ours, theirs = Authority(), Authority(), Authority()
    pair = KeyPair(*authority.issue().write(tmp_path, "service"))
    caller = theirs.issue()
    credentials = grpc.ssl_channel_credentials(authority.certificate, caller.key, caller.certificate)
    served = []
    async with stub_service(ServerCertificate(pair, ours.write(tmp_path)).credentials()) as stub:
        for believed in (ours, theirs, ours):
            believed.write(tmp_path)
            async with grpc.aio.secure_channel(f"localhost:{stub.port}", credentials) as channel:
                create = channel.unary_unary(f"/{PACKAGE}.ReservationService/CreateReservation")
                try:
                    served.append(bool(await create(b"", timeout=5)))
                except grpc.aio.AioRpcError:
                    served.append(False)
    assert served == [False, True, False]


async def test_the_authority_of_the_read_me_serves_grpcurl_as_it_says(tmp_path: Path) -> None:
    made = await asyncio.create_subprocess_exec(REPOSITORY / "deploy/tls/make-test-ca", tmp_path)
    assert await made.wait() == 0
    pair = KeyPair(tmp_path / "server.pem", tmp_path / "server.key")
    async with stub_service(ServerCertificate(pair, tmp_path / "ca.pem").credentials()) as stub:
        asked = await asyncio.create_subprocess_exec(
            *("grpcurl", "-cacert", "ca.pem", "-cert", "client.pem", "-key", "client.key"),
            *(f"localhost:{stub.port}", "list"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await asked.communicate()
    assert f"{PACKAGE}.ReservationService" in told.decode().split()


# A remote inventory


async def test_seats_of_a_remote_inventory_are_sold_over_mutual_tls(secured: Secured, tmp_path: Path) -> None:
    """And one whose certificate another authority has signed is asked nothing."""
    certificate, key = secured.caller.write(tmp_path, "caller")
    sellers = own_settings(
        secured.system.settings.aws_endpoint_url or "",
        grpc_client_inventory_service_address=secured.system.address,
        grpc_client_inventory_service_timeout="1s",
        grpc_client_inventory_service_ca_file=secured.authority.write(tmp_path),
        grpc_client_inventory_service_cert_file=certificate,
        grpc_client_inventory_service_key_file=key,
    )
    await make_tables(sellers)
    async with serving(sellers) as seller, asyncio.timeout(30):
        held = ""
        while not held:  # what is slow on a busy machine is refused like what is not believed
            with suppress(grpc.aio.AioRpcError):
                held = await hold(seller.channel, secured.system.fresh_seats(1))
    stranger = Authority().write(tmp_path, "stranger")
    async with serving(sellers.model_copy(update={"grpc_client_inventory_service_ca_file": stranger})) as seller:
        refused = await refusal(hold(seller.channel, secured.system.fresh_seats(1)))
    assert refused.reason == "INVENTORY_SERVICE_ERROR"
