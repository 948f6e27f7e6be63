"""A small system to break: three processes without a network between them and their customers, one shard, and before
the emulator a proxy that conflicts, throttles and loses replies. Time passes only as a play says."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypedDict

import orjson

from reservation.background.expiry import Expiry
from reservation.background.relay import Relay
from reservation.domain.errors import ReservationError, SeatUnavailable
from reservation.domain.model import Reservation, Seat, SeatStatus
from reservation.dynamodb.outbox import Outbox
from reservation.eventbridge import EventBridge
from tests.chaos.doors import Command, Reply
from tests.chaos.history import OK, Answer, Delivery, Kind
from tests.support.aws import quick_client
from tests.support.conflict_proxy import ConflictProxy
from tests.support.event_bus_proxy import EventBusProxy
from tests.support.store import EVENT, PRICE, Party, SettableClock, Venue, open_venue, soon

HALL = tuple(Seat(f"A-{number}", "Floor", "A", str(number), PRICE) for number in range(1, 121))
OFFSETS = (-400, 0, 400)
"""Of the processes' clocks, in milliseconds: two of them differ by less than a reader allows for."""

_SHARD = "0003"
_THROTTLE, _LOSE_REPLY, _BUS_FAILS = 0.04, 0.06, 0.1


class Offset(SettableClock):
    """Another clock, and so much more."""

    def __init__(self, clock: SettableClock, offset: int) -> None:
        super().__init__()
        self._clock = clock
        self._offset = offset

    def now(self) -> int:
        return self._clock.now() + self._offset

    def monotonic(self) -> float:
        return self._clock.monotonic()


@dataclass(slots=True)
class SmallStage:
    """`store` is what befalls the calls of all `parties`. `deliveries`: what the bus has accepted so far."""

    venue: Venue
    store: ConflictProxy
    bus: EventBusProxy
    parties: list[Party]
    relay: Relay
    deliveries: list[Delivery] = field(default_factory=list)

    def now(self) -> int:
        """The true time, in milliseconds since the epoch."""
        return self.venue.clock.now()

    def let_pass(self, milliseconds: int) -> None:
        self.venue.clock.advance(milliseconds)

    async def expire(self, party: Party) -> None:
        """Settles what is over, and what will be soon: then that time has come."""
        expiry = Expiry(
            party.service,
            held_shards=lambda: [_SHARD],
            may_work_on=lambda _: True,
            now=party.clock.now,
            clock_trusted=party.clock.trusted,
            sleep=self._sleep,
            monotonic=lambda: party.clock.now() / 1000,  # its deadlines must lie ahead of the real time.monotonic()
        )
        await expiry.look_ahead(_SHARD)
        await expiry.settle_all()

    async def publish(self) -> None:
        await self.relay.pass_(_SHARD)
        told = [orjson.loads(entry["Detail"]) for entry in self.bus.accepted[len(self.deliveries) :]]
        self.deliveries += [Delivery(self.now(), detail) for detail in told]

    async def _sleep(self, seconds: float) -> None:
        self.let_pass(round(seconds * 1000))


@asynccontextmanager
async def small_stage(url: str, rng: random.Random) -> AsyncIterator[SmallStage]:
    """Over new tables of the emulator at `url`, with the seats of HALL on sale."""
    async with AsyncExitStack() as stack:
        venue = await stack.enter_async_context(open_venue(url))
        await venue.sell(HALL)
        store, client = await stack.enter_async_context(
            venue.behind(hold=0.004, throttle=_THROTTLE, lose_reply=_LOSE_REPLY, rng=rng)
        )
        bus = await stack.enter_async_context(
            EventBusProxy(entry_failures=_BUS_FAILS, call_failures=_BUS_FAILS, rng=rng)
        )
        events = await stack.enter_async_context(quick_client("events", bus.url))
        relay = Relay(
            Outbox(client, venue.tables.outbox),
            EventBridge(events, "bus"),
            may_work_on=lambda _: True,
            now=venue.clock.now,
            monotonic=venue.clock.monotonic,
        )
        parties = [
            venue.party(await venue.connect(store.url), clock=Offset(venue.clock, offset), shard=_SHARD)
            for offset in OFFSETS
        ]
        yield SmallStage(venue, store, bus, parties, relay)


async def send(party: Party, command: Command, patience: float) -> Reply:
    """What comes of it, if its customer waits for so many seconds."""
    try:
        answer, replayed = await _ask(party, command, patience)
    except SeatUnavailable as refusal:
        return Reply(refusal.code, answer=Answer(unavailable=refusal.seat_ids))
    except ReservationError as refusal:
        return Reply(refusal.code)
    return Reply(OK, replayed, answer)


class _Common(TypedDict):
    """What every change of a hold is asked with."""

    owner: str
    key: str
    patience: float


async def _ask(party: Party, asked: Command, patience: float) -> tuple[Answer, bool]:
    """The answer, and whether it is a replay. Raises ReservationError."""
    common = _Common(owner=asked.user, key=asked.key, patience=patience)
    match asked.kind:
        case Kind.CREATE:
            made = party.create(*asked.seat_ids, user=asked.user, key=asked.key, token=asked.key, patience=patience)
        case Kind.CONFIRM:
            made = party.confirm(asked.reservation_id, asked.payment_id, **common)
        case Kind.CANCEL:
            made = party.cancel(asked.reservation_id, **common)
        case Kind.EXTEND:
            made = party.extend(asked.reservation_id, seconds=asked.seconds, **common)
        case Kind.GET:
            return _answer(await party.get(asked.reservation_id, asked.user)), False
        case Kind.CHECK:
            return await _look(party, asked.seat_ids), False
    recorded = await made
    return _answer(recorded.reservation), recorded.replayed


async def _look(party: Party, seat_ids: tuple[str, ...]) -> Answer:
    seen = await party.inventory.look(EVENT.id, seat_ids, soon())
    free = tuple(seat.id for seat, status in seen if status is SeatStatus.AVAILABLE)
    return Answer(seat_ids=free, unavailable=tuple(seat.id for seat, _ in seen if seat.id not in free))


def _answer(told: Reservation) -> Answer:
    return Answer(told.id, told.status, told.seat_ids, told.hold_expires_at, told.order_id, told.payment_intent_id)
