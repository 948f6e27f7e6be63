"""The whole system on this machine as one command: emulated AWS, tables, a demo event, the service and Envoy."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reservation import app, catalog, edge, ministack, processes
from reservation.aws.session import connect, session
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.tables import create_tables
from reservation.eventbridge import create_bus, subscribe_queue
from reservation.processes import Doors
from reservation.settings import Settings

QUEUE = "traffic-tacos-reservation-events"


@dataclass(frozen=True, slots=True)
class Stack:
    """Where its parts are reached. `processes`: those of the service, of which this one is the first."""

    rest_url: str
    processes: tuple[Doors, ...]
    aws_url: str
    queue_url: str
    settings: Settings

    @property
    def grpc_address(self) -> str:
        return self.processes[0].grpc_address


@asynccontextmanager
async def running(
    settings: Settings, *, aws_port: int, admin_port: int, state_dir: Path | None, service_processes: int = 1
) -> AsyncIterator[Stack]:
    """Everything up inside the block, and stopped after it in the order in which requests flow. Port 0: any free one.

    The settings' AWS endpoints are replaced by the emulator's, and this process's AWS credentials by made-up ones, so
    that it can reach no real account. With `state_dir` the data outlives a clean stop. The service is this process, and
    further ones on free ports up to `service_processes`, whose other settings are those of the environment.

    Raises StartError, EdgeError, ServerStartError, MinistackMissingError, and ProcessEnded.
    """
    envoy_config = app.edge_config_of(settings)  # what cannot be is told before anything starts
    _forget_real_credentials()
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(ministack.running(port=aws_port, state_dir=state_dir))
        changes = _changes(emulator.url)
        settings = settings.model_copy(update=changes)
        queue_url = await prepare(settings)
        service = await stack.enter_async_context(app.running(settings))
        others = await stack.enter_async_context(processes.running(service_processes - 1, _environment(changes)))
        doors = (Doors(service.grpc_port, service.metrics_port), *others)
        envoy = await stack.enter_async_context(
            edge.running(
                replace(
                    envoy_config,
                    grpc_host="127.0.0.1",
                    grpc_addresses=1,
                    grpc_ports=tuple(each.grpc_port for each in doors),
                    admin_port=admin_port,
                    metrics_port=service.metrics_port,
                ),
                graceful=True,
            )
        )
        yield Stack(envoy.url, doors, emulator.url, queue_url, settings)


def _changes(aws_url: str) -> dict[str, Any]:
    """What is set otherwise here, by the names of the settings."""
    return {
        "aws_endpoint_url": aws_url,
        "aws_dynamodb_endpoint": None,
        "aws_eventbridge_endpoint": None,
        "aws_profile": None,
        "linger_seconds": 0,  # Envoy has sent its clients away before
    }


def _environment(changes: dict[str, Any]) -> dict[str, str]:
    """This process's, with the changes. A variable that is unset is left out: to botocore an empty one is something."""
    changed = {name.upper(): value for name, value in changes.items()}
    kept = {name: value for name, value in os.environ.items() if name not in changed}
    return kept | {name: str(value) for name, value in changed.items() if value is not None}


def welcome(stack: Stack) -> str:
    """What to try first."""
    event = catalog.DEMO_EVENT.id
    curl, grpcurl = _by_tls(stack.settings)
    return f"""
[bold]Traffic Tacos Reservation is up.[/bold] Ctrl-C stops it.
  REST  {stack.rest_url}/v1/reservations     gRPC  {stack.grpc_address}     AWS (emulated)  {stack.aws_url}
  Swagger UI  {stack.rest_url}/swagger-ui.html
{_processes(stack.processes)}
  curl -i{curl} {stack.rest_url}/v1/reservations -H 'Idempotency-Key: first-try' \\
    -d '{{"eventId":"{event}","quantity":2,"seatIds":["A-12","A-13"]}}'

  curl -i{curl} {stack.rest_url}/v1/reservations -H 'Idempotency-Key: best-seats' \\
    -d '{{"eventId":"{event}","quantity":3}}'

  grpcurl {grpcurl} -d '{{"event_id":"{event}","quantity":2,"seat_ids":["B-1","B-2"]}}' \\
    {stack.grpc_address} com.traffic_tacos.reservation.v1.ReservationService/CreateReservation
"""


def _processes(processes: Sequence[Doors]) -> str:
    """A line for each, if there are several."""
    if len(processes) == 1:
        return ""
    return "".join(
        f"  process {number}  gRPC {each.grpc_address}  metrics http://{each.metrics_address}/metrics\n"
        for number, each in enumerate(processes, 1)
    )


def _by_tls(settings: Settings) -> tuple[str, str]:
    """What curl and grpcurl have to be told besides. Who signed the certificates only their owner knows."""
    curl = " --cacert CA.pem" if settings.edge_tls_cert_file is not None else ""
    curl += " --cert CLIENT.pem --key CLIENT.key" if settings.edge_tls_client_ca_file is not None else ""
    grpcurl = "-cacert CA.pem" if settings.tls_cert_file is not None else "-plaintext"
    grpcurl += " -cert CLIENT.pem -key CLIENT.key" if settings.tls_client_ca_file is not None else ""
    return curl, grpcurl


async def prepare(settings: Settings) -> str:
    """Tables, bus, a queue that gets every event, and the demo event; all may be there already. Returns the queue's
    URL."""
    config = app.aws_config_of(settings)
    tables = app.tables_of(settings)
    async with AsyncExitStack() as clients:
        dynamodb, events, sqs = [
            await clients.enter_async_context(
                session(config).create_client(name, endpoint_url=settings.aws_endpoint_url)
            )
            for name in ("dynamodb", "events", "sqs")
        ]
        await create_tables(dynamodb, tables)
        await create_bus(events, settings.eventbridge_bus_name)
        queue_url = await subscribe_queue(events, sqs, settings.eventbridge_bus_name, QUEUE)
    client = await connect(config, "dynamodb", endpoint_url=settings.dynamodb_endpoint)
    try:
        sale = catalog.demo()
        await EventImport(client, tables.inventory).run(sale.event, sale.seats, lambda _: None)
    finally:
        await client.close()
    return queue_url


def _forget_real_credentials() -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
