"""The log of the service and Envoy's tell what happened, and nothing by which somebody could act as a customer."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from reservation import catalog
from reservation.domain.model import Status
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.items import reservation_to_item
from reservation.settings import Settings
from tests.support.command import environment_of, started
from tests.support.edge import edge_over
from tests.support.rest import CONFIRM, CREATE, EXTEND, wanted
from tests.support.system import dynamodb_of, make_tables, own_settings
from tests.unit.examples import in_state

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRETS = BEARER, KEY, TOKEN, PAYMENT = (
    "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0LWJlYXJlcg.c2VjcmV0",
    "secret-idempotency-key",
    "rtkn_secret",
    "pay_secret",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(ministack_url: str) -> AsyncIterator[Settings]:
    """Of tables with a reservation that nobody can read: its status is what the customer pays with."""
    settings = own_settings(ministack_url)
    await make_tables(settings)
    async with dynamodb_of(settings) as dynamodb:
        demo = catalog.demo()
        await EventImport(dynamodb, settings.dynamodb_table_inventory).run(demo.event, demo.seats, lambda _: None)
        item = reservation_to_item(in_state(Status.CONFIRMED)) | {"status": {"S": PAYMENT}}
        await dynamodb.call("PutItem", {"TableName": settings.dynamodb_table_reservations, "Item": item})
    yield settings


@pytest.mark.parametrize(("log_format", "seat"), [("json", "A-1"), ("console", "A-2")])
async def test_no_secret_of_a_call_is_in_a_log_whatever_becomes_of_it(
    settings: Settings, log_format: str, seat: str, tmp_path: Path
) -> None:
    environment = environment_of(settings) | {"GRPC_SERVER_PORT": "0", "LOG_LEVEL": "DEBUG", "LOG_FORMAT": log_format}
    headers = {"authorization": f"Bearer {BEARER}", "idempotency-key": f"{KEY}-{log_format}"}
    edge_log = tmp_path / "envoy.log"
    async with started("serve", **environment) as service:
        port = int((await service.says(r"grpc_port\W+(\d+)"))[1])
        async with (
            edge_over(port, log_path=edge_log) as edge,
            httpx.AsyncClient(base_url=edge.url, headers=headers, timeout=10) as rest,
        ):
            answered = await _sell(rest, seat)
            ended = await service.end(signal.SIGTERM)
            answered.append((await rest.post(CONFIRM, json={"paymentIntentId": PAYMENT})).status_code)
    assert answered == [201, 409, 200, 409, 409, 500, 400, 404, 503]
    told = ended.out + ended.err + edge_log.read_text()
    assert [secret for secret in SECRETS if secret in told] == []
    for what in ("IDEMPOTENCY_CONFLICT", "RESERVATION_ALREADY_CONFIRMED", "reservation_from_item", "ValueError"):
        assert what in ended.err, "the log does not tell what happened"
    for path in (CREATE, CONFIRM, "/v1/nothing"):
        assert f'"path":"{path}"' in edge_log.read_text()


async def _sell(rest: httpx.AsyncClient, seat: str) -> list[int]:
    """Every way in which a call may end that carries secrets: their statuses."""
    order = wanted([seat], reservationToken=TOKEN)
    created = await rest.post(CREATE, json=order)
    payment = {"reservationId": created.json()["reservationId"], "paymentIntentId": PAYMENT}
    answers = [
        created,
        await rest.post(CREATE, json=order | {"seatIds": ["B-1"]}),
        await rest.post(CONFIRM, json=payment, headers={"idempotency-key": ""}),
        await rest.post(CONFIRM, json=payment | {"paymentIntentId": f"{PAYMENT}-2"}, headers={"idempotency-key": ""}),
        await rest.post(EXTEND, json=payment | {"extensionSeconds": 30}, headers={"idempotency-key": ""}),
        await rest.post(CONFIRM, json=payment | {"reservationId": in_state(Status.CONFIRMED).id, "userId": "user_1"}),
        await rest.post(CREATE, content=f'{{"reservationToken": "{TOKEN}", '),
        await rest.get(f"/v1/nothing?reservationToken={TOKEN}"),
    ]
    return [answer.status_code for answer in answers]
