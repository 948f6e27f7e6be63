"""Everything that a load run loads: DynamoDB, a bus, processes of the service with a gRPC port each, and Envoy before
them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from reservation import app, ministack
from reservation.aws.session import session
from reservation.edge import RunningEdge
from reservation.eventbridge import create_bus
from reservation.settings import Settings
from tests.bench.box_office import BoxOffice, opened
from tests.bench.processes import cpu_seconds
from tests.load.k6 import Doors
from tests.support.edge import edge_over
from tests.support.system import own_settings

HOLD_SECONDS = 5
_LINGER_SECONDS: float = Settings.model_fields["linger_seconds"].default


@dataclass(frozen=True, slots=True)
class Stack:
    """A sale that is open on `office`, and the Envoy before its processes."""

    office: BoxOffice
    edge: RunningEdge

    @property
    def addresses(self) -> list[str]:
        """Of the processes, for native clients."""
        return [service.address for service in self.office.services]

    @property
    def doors(self) -> Doors:
        return Doors(self.edge.url, tuple(self.addresses))

    def cpu_seconds(self) -> tuple[float, float]:
        """Of all processes that serve now, and of Envoy."""
        return sum(cpu_seconds(service.pid) for service in self.office.services), cpu_seconds(self.edge.pid)


@asynccontextmanager
async def up(*, services: int, seats: int) -> AsyncIterator[Stack]:
    """Inside the block so many processes sell so many seats, and linger as long as anybody's do when they stop."""
    async with AsyncExitStack() as stack:
        # ministack, because DynamoDB Local bears less than a third of it.
        emulator = await stack.enter_async_context(ministack.running())
        settings = own_settings(emulator.url, aws_eventbridge_endpoint=emulator.url, linger_seconds=_LINGER_SECONDS)
        await _make_bus(settings)
        office = await stack.enter_async_context(
            opened(settings, services=services, seats=seats, hold_seconds=HOLD_SECONDS)
        )
        ports = tuple(int(service.address.rpartition(":")[2]) for service in office.services)
        edge = await stack.enter_async_context(edge_over(*ports))
        yield Stack(office, edge)


async def _make_bus(settings: Settings) -> None:
    client = session(app.aws_config_of(settings)).create_client("events", endpoint_url=settings.eventbridge_endpoint)
    async with client as events:
        await create_bus(events, settings.eventbridge_bus_name)
