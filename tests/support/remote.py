"""Sales from the inventory of a second service: its real server over tables of its own, asked by gRPC."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from structlog.testing import capture_logs

from reservation.api.inventory import InventoryHandlers, inventory_service
from reservation.api.server import Health, build
from reservation.availability import Availability
from reservation.aws.client import AwsClient
from reservation.background.recovery import Recovery
from reservation.domain import model
from reservation.domain.commands import Cancel, Confirm, Create
from reservation.domain.model import Reservation, Seat, Wish
from reservation.dynamodb.sagas import DynamoSagas
from reservation.inventory.breaker import Breaker
from reservation.inventory.remote import CHANNEL_OPTIONS, RemoteInventory
from reservation.inventory.saga import RemoteSales
from reservation.ports import Recorded
from reservation.service import Policy, Reservations, new_op_id
from tests.support.invariants import disagreements, violations
from tests.support.store import (
    EVENT,
    HOLD_MS,
    PRICE,
    SHARDS,
    SKEW_MS,
    WINDOW_MS,
    Party,
    Venue,
    open_venue,
    shard_by_hash,
    soon,
)
from tests.support.system import OPEN, limits_of

MANY_SEATS = tuple(Seat(f"B-{number}", "Floor", "B", str(number), PRICE) for number in range(1, 400))
PIT_PLACES = 5
PITS = tuple(f"Pit {number}" for number in range(1, 31))
"""General-admission sections of so many places each, for tests whose seats are chosen."""
_PLACES = tuple(Seat(f"{pit}-{number}", pit, "", "", PRICE) for pit in PITS for number in range(1, PIT_PLACES + 1))

_LEFT_TO_RECOVERY = {"saga.release_failed", "recovery.not_finished", "recovery.failed"}


class Died(Exception):
    """The process has ended here."""


@dataclass(slots=True)
class Life:
    """What the steps of one process are, and before or after which of them it dies. `steps` names those that began."""

    dies_at: int | None = None
    done: bool = False
    steps: list[str] = field(default_factory=list)

    async def step(self, name: str, act: Callable[[], Any]) -> Any:
        """Step number `dies_at` (from 0) is not made, or if `done` is made and its outcome never heard of."""
        number = len(self.steps)
        self.steps.append(name)
        dies = self.dies_at is not None and number >= self.dies_at
        if dies and (number > (self.dies_at or 0) or not self.done):
            raise Died(name)
        outcome = await act()
        if dies:
            raise Died(name)
        return outcome


class Mortal:
    """A port of a process that may die: its named methods are steps."""

    def __init__(self, port: Any, life: Life, *steps: str) -> None:
        self._port = port
        self._life = life
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if name not in self._steps:
            return method
        return lambda *arguments, **named: self._life.step(name, lambda: method(*arguments, **named))


@dataclass(frozen=True, slots=True)
class Seller:
    """A process that sells from the other service's inventory."""

    service: Reservations
    sales: RemoteSales
    inventory: RemoteInventory
    life: Life

    async def create(
        self,
        *seat_ids: str,
        key: str = "",
        token: str = "",
        user: str = "ann",
        traceparent: str = "",
        wish: Wish | None = None,
    ) -> Recorded:
        create = Create(EVENT.id, seat_ids, user, token, key, traceparent=traceparent, wish=wish)
        return await self.service.create(create, soon())

    async def extend(self, reservation_id: str, milliseconds: int, op_id: str = "op_extend") -> Reservation:
        held = await self.get(reservation_id)
        ends_at = held.hold_expires_at + milliseconds
        later = model.prolong(held, hold_expires_at=ends_at, now=held.updated_at, op_id=op_id)
        if later is None:
            raise AssertionError("it asks for nothing")
        return (await self.sales.advance(held, later, None, "", soon())).reservation

    async def confirm(
        self, reservation_id: str, payment: str = "pay_1", key: str = "", traceparent: str = "", patience: float = 10.0
    ) -> Recorded:
        return await self.service.confirm(Confirm(reservation_id, payment, None, key, traceparent), soon(patience))

    async def cancel(self, reservation_id: str, key: str = "") -> Recorded:
        return await self.service.cancel(Cancel(reservation_id, "", None, key), soon())

    async def get(self, reservation_id: str) -> Reservation:
        return await self.service.get(reservation_id, None, soon())

    async def unfinished(self) -> list[Reservation]:
        pages = [await self.sales.unfinished(f"{shard:04d}", None, soon()) for shard in range(SHARDS)]
        return [stuck for page in pages for stuck in page.holds]


@dataclass(frozen=True, slots=True)
class Sale:
    """Two services that have one clock: `own` sells what `other` keeps, over `channel`."""

    own: Venue
    other: Venue
    keeper: Party
    channel: grpc.aio.Channel
    seats: Iterator[str] = field(default_factory=lambda: (seat.id for seat in MANY_SEATS))
    pits: Iterator[str] = field(default_factory=lambda: iter(PITS))

    def fresh(self, count: int = 1) -> tuple[str, ...]:
        """Ids of seats that no test has had yet."""
        return tuple(next(self.seats) for _ in range(count))

    def seller(
        self,
        *,
        client: AwsClient | None = None,
        channel: grpc.aio.Channel | None = None,
        life: Life | None = None,
        timeout: float = 5.0,
        hold: int = HOLD_MS,
    ) -> Seller:
        """Another process. Its time-out is long, because the machine may be busy."""
        life, clock = life or Life(), self.own.clock
        records = DynamoSagas(client or self.own.client, self.own.tables, now=clock.now, key_window=WINDOW_MS)
        inventory = RemoteInventory(channel or self.channel, Breaker(50, monotonic=time.monotonic), timeout=timeout)
        sales = RemoteSales(
            Mortal(records, life, "write"),
            Mortal(inventory, life, "reserve", "commit", "release"),  # type: ignore[arg-type]
            now=clock.now,
            new_op_id=new_op_id,
        )
        policy = Policy(hold=hold, max_clock_skew=SKEW_MS)
        service = Reservations(sales, inventory, policy, clock, shard_by_hash)
        return Seller(service, sales, inventory, life)

    def recovery(
        self, seller: Seller, *, may_work_on: Callable[[str], bool] = lambda shard: True, trusted: bool = True
    ) -> Recovery:
        return Recovery(
            seller.sales,
            held_shards=lambda: [f"{shard:04d}" for shard in range(SHARDS)],
            may_work_on=may_work_on,
            now=self.own.clock.now,
            clock_trusted=lambda: trusted,
        )

    async def recover(self, **settings: Any) -> None:
        """One pass of recovery over every shard, when every lease has run out. Another one if on a busy machine a call
        was not answered in its time, as there always is one."""
        slow = True
        while slow:
            self.own.clock.advance(2_000)
            recovery = self.recovery(self.seller(), **settings)
            with capture_logs() as logged:
                for shard in range(SHARDS):
                    await recovery.recover(f"{shard:04d}")
            slow = was_slow(logged)

    async def seat(self, seat_id: str) -> str:
        """Its status at the service that keeps it."""
        return str((await self.other.seat(seat_id))["status"]["S"])

    async def taken(self, pit: str) -> Counter[str]:
        """How many of the pit's places are in which status, but for those that are AVAILABLE."""
        there = (await self.other.rows()).seats.values()
        return Counter(
            str(place["status"]["S"])
            for place in there
            if place["section"]["S"] == pit and place["status"]["S"] != "AVAILABLE"
        )

    async def wrong(self) -> list[str]:
        """Everything that is wrong on either side, or told differently by them."""
        own, other, now = await self.own.rows(), await self.other.rows(), self.own.clock.now()
        return [
            *violations(own, now=now, seats_elsewhere=True),
            *violations(other, now=now),
            *disagreements(own, other, now=now),
        ]


@asynccontextmanager
async def open_sale(url: str) -> AsyncIterator[Sale]:
    """Two services on the emulator at `url`."""
    async with AsyncExitStack() as closing:
        own, other = [await closing.enter_async_context(open_venue(url)) for _ in range(2)]
        other.clock = own.clock
        await other.sell((*MANY_SEATS, *_PLACES))
        keeper = other.party()
        availability = Availability(keeper.inventory, keeper.clock)
        handlers = InventoryHandlers(availability, keeper.holds, max_seats=10)
        server = build([inventory_service(handlers, OPEN, limits_of())], Health())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        closing.push_async_callback(server.stop, None)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS)
        closing.push_async_callback(channel.close)
        yield Sale(own, other, keeper, channel)


def was_slow(logged: Iterable[Mapping[str, Any]]) -> bool:
    """Whether something was left to the next recovery because it was not answered in time."""
    return any(entry["event"] in _LEFT_TO_RECOVERY for entry in logged)


async def settled(*calls: Any) -> list[Any]:
    """What each came to: its result or its error."""
    return list(await asyncio.gather(*calls, return_exceptions=True))
