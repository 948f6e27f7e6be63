"""Several real processes on one set of tables: killed, frozen and stopped, with a failing event bus, and with clocks
that differ. Customers go on buying through gRPC meanwhile, and at the end all that they were told must be true."""

import asyncio
import math
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile
from typing import Any

import betterproto2
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reservation import app, catalog
from reservation.audit.promises import Graces, Snapshot
from reservation.audit.queue import EventQueue
from reservation.audit.reading import Audit, Receiver
from reservation.dynamodb.items import reservation_from_item, seat_key
from reservation.eventbridge import create_bus, subscribe_queue
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.aws import REGION, admin_client
from tests.support.conflict_proxy import ConflictProxy
from tests.support.crowd import Crowd, lies
from tests.support.event_bus_proxy import EventBusProxy, first_deliveries, message_id
from tests.support.faults import HoldReply, Request
from tests.support.fleet import Fleet, Service, fleet, until
from tests.support.invariants import seats_with_two_owners
from tests.support.system import (
    EVENT_ID,
    Answer,
    Refusal,
    becomes,
    call,
    create_request,
    own_settings,
    refusal,
    refusal_of,
    scan,
    table_name,
    watch_health,
)

SKEW_MS, AN_HOUR_MS = 1_000, 3_600_000
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING

_SEATS = [seat.id for seat in catalog.demo().seats]
FOR_ALL, OURS = _SEATS[:-150], iter(_SEATS[-150:])
"""What customers buy, and what they leave to the tests."""

_OPEN_SECONDS = 100.0

OWNERSHIP = ("leases.gained", "leases.lost")
STOOD_STILL = ("belief ended", "declared dead", "taken over or removed")
"""Why a process loses shards that did not get the time to beat, as on a busy machine."""


@dataclass(frozen=True, slots=True)
class Town:
    """A fleet, the bus that its processes publish to, and the customers."""

    fleet: Fleet
    bus: EventBusProxy
    crowd: Crowd

    async def open(self, **clock_offsets: int) -> list[Service]:
        """Starts these processes, and waits until each has its part of the shards."""
        services = await asyncio.gather(*(self.fleet.start(*each) for each in clock_offsets.items()))
        await until(self.fleet.shared_out, "shards shared out")
        return services

    async def at_rest(self) -> Snapshot:
        """What is there when every hold has ended and every event has left. By then each answer must be true of the
        tables, the audit clean, no letter dead, and every event accepted, those of each reservation in order."""
        await until(self._nothing_is_left, "holds settled and events published")
        snapshot, findings = await self.audit().run()
        assert findings == []
        assert list(lies(self.crowd.visits, snapshot)) == []
        assert self.crowd.told().keys() >= {"CONFIRMED", "CANCELLED", "HOLD"}
        versions = {each.id: [*range(1, each.version + 1)] for each in snapshot.reservations.values()}
        assert first_deliveries(self.published()) == versions
        return snapshot

    def audit(self, receiver: Receiver | None = None) -> Audit:
        tables = app.tables_of(self.fleet.settings)
        return Audit(self.fleet.dynamodb, tables, now=_now, graces=Graces(0, 0), receiver=receiver)

    async def _nothing_is_left(self) -> bool:
        waiting = await self._items("outbox")
        assert not [row for row in waiting if row["shard"]["S"].startswith("dead#")]
        return not waiting and not [item for item in await self._items("reservations") if "expiryShard" in item]

    async def _items(self, name: str) -> list[Any]:
        return await scan(self.fleet.dynamodb, table_name(self.fleet.settings, name))

    async def waiting(self) -> set[str]:
        """The message ids of the events that are still in the outbox."""
        rows = await self._items("outbox")
        return {f"{row['reservationId']['S']}#{int(row['seq']['S'].rpartition('#')[2])}" for row in rows}

    async def waits_in(self, shards: set[str]) -> bool:
        """Whether in each of these is an event that is still to be published."""
        return shards <= {row["shard"]["S"] for row in await self._items("outbox")}

    async def were_made(self, calls: int) -> bool:
        return len(self.bus.calls) >= calls

    async def publishes(self, service: Service, since: int) -> bool:
        return self.sent_by(service, since) != []

    def sent_by(self, service: Service, since: int) -> list[tuple[float, str]]:
        """When it sent which message ids, whatever became of them, from the call with this number on."""
        calls = zip(self.bus.called_by, self.bus.called_at, self.bus.calls, strict=True)
        mine = [(at, entries) for caller, at, entries in islice(calls, since, None) if caller == service.name]
        return [(at, message_id(entry)) for at, entries in mine for entry in entries]

    def published(self) -> list[str]:
        """The message ids that the bus accepted, in the order in which it did."""
        return [message_id(entry) for entry in self.bus.accepted]

    def repeated(self) -> dict[str, list[str]]:
        """The message ids that were accepted more than once, and from whom each time."""
        senders: dict[str, list[str]] = defaultdict(list)
        for each, sender in zip(self.published(), self.bus.accepted_from, strict=True):
            senders[each].append(sender)
        return {each: sent_by for each, sent_by in senders.items() if len(sent_by) > 1}

    def given_up_by(self, name: str, *reasons: str) -> set[str]:
        """The shards that a process of this name has lost or handed back while it lived, for these reasons or any."""
        (service,) = [service for service in self.fleet.services if service.name == name]
        changes = [change for change in service.log("leases.lost") if not reasons or change["reason"] in reasons]
        return {shard for change in changes for shard in change["shards"]}

    async def watch_leases(self) -> None:
        """For as long as it runs: tokens only grow, and no two owners ever have a shard under the same one."""
        owners: dict[tuple[str, int], str] = {}
        tokens: Counter[str] = Counter()
        while True:
            for shard in await self.fleet.shards():
                assert shard.token >= tokens[shard.name]
                tokens[shard.name] = shard.token
                if shard.owner:
                    assert owners.setdefault((shard.name, shard.token), shard.owner) == shard.owner
            await asyncio.sleep(0.1)

    async def watch_owners(self) -> None:
        """For as long as it runs: by the fastest clock that is believed, no seat belongs to two."""
        while True:
            reservations = [reservation_from_item(item) for item in await self._items("reservations")]
            assert list(seats_with_two_owners(reservations, _now() + SKEW_MS)) == []
            await asyncio.sleep(0.1)


@asynccontextmanager
async def town(ministack_url: str, bus: EventBusProxy | None = None, **settings: Any) -> AsyncIterator[Town]:
    """Leases last 1.5 seconds and holds 5. While it is open, leases and owners are watched. It closes by itself, with
    an error, if something that a test waits for does not come."""
    async with asyncio.timeout(_OPEN_SECONDS), bus or EventBusProxy() as proxy:
        values: dict[str, Any] = {
            "aws_region": REGION,
            "aws_eventbridge_endpoint": proxy.url,
            "eventbridge_bus_name": "bus",
        }
        values |= {"lease_seconds": 1.5, "hold_seconds": 5}
        async with fleet(own_settings(ministack_url, **values | settings)) as members:
            it = Town(members, proxy, Crowd(members.channels, FOR_ALL))
            async with asyncio.TaskGroup() as group:
                watches = [group.create_task(watch) for watch in (it.watch_leases(), it.watch_owners())]
                yield it
                for watch in watches:
                    watch.cancel()


def _now() -> int:
    return time.time_ns() // 1_000_000


async def test_processes_killed_under_load_lose_nothing_and_repeat_only_what_was_under_way(ministack_url: str) -> None:
    """Each is killed when the bus has accepted events of which it has not heard yet, and another is started. A consumer
    at the end of a real bus gets everything.
    https://github.com/alfio-event/alf.io/issues/1421"""
    bus = f"bus-{uuid.uuid4().hex[:8]}"
    async with admin_client("events", ministack_url) as events, admin_client("sqs", ministack_url) as sqs:
        await create_bus(events, bus)
        queue = await subscribe_queue(events, sqs, bus, bus)
        async with town(ministack_url, EventBusProxy(ministack_url), eventbridge_bus_name=bus) as it:
            victims = await it.open(a=0, b=0, c=0)
            left: dict[str, set[str]] = {}
            async with it.crowd.buying():
                for number, victim in enumerate(victims):
                    await it.crowd.until_told(10)
                    left[victim.name] = await _kill_with_events_under_way(it, victim)
                    await it.open(**{f"successor{number}": 0})
            snapshot = await it.at_rest()
            _, findings = await it.audit(EventQueue(sqs, queue)).run()
            assert findings == []
    senders = it.repeated()
    assert {sender for sent_by in senders.values() for sender in sent_by[:-1]} >= left.keys()
    for message, sent_by in senders.items():
        shard = snapshot.reservations[message.partition("#")[0]].shard
        assert len(set(sent_by)) == len(sent_by)
        assert all(message in left.get(sender, ()) or shard in it.given_up_by(sender) for sender in sent_by[:-1])


async def _kill_with_events_under_way(it: Town, victim: Service) -> set[str]:
    """The message ids of all events that were not known to be published when it died."""
    accepted = HoldReply()
    it.bus.fail_calls(accepted, by=victim.name)
    await accepted.reached.wait()
    await victim.kill()
    left = await it.waiting()
    accepted.event.set()
    return left


async def test_a_frozen_process_drops_everything_before_it_acts_again(ministack_url: str) -> None:
    """When it goes on, others have what it had, and in each of those shards there is an event that it could publish."""
    async with town(ministack_url) as it:
        frozen, *_ = await it.open(a=0, b=0, c=0)
        async with it.crowd.buying():
            await it.crowd.until_told(20)
            frozen.freeze()
            had, noted = await it.fleet.shards_of(frozen), len(frozen.log(*OWNERSHIP))
            assert had
            await until(it.fleet.shared_out, "the frozen one's shards taken over")
            it.bus.down = True
            await until(lambda: it.waits_in(had), "events waiting in all that it had")
            calls = len(it.bus.calls)
            frozen.thaw()
            await until(lambda: it.publishes(frozen, calls), "the thawed one at work again")
            sent = it.sent_by(frozen, calls)
            it.bus.down = False
            await it.crowd.until_told(20)
        snapshot = await it.at_rest()
    changes = frozen.log(*OWNERSHIP)[noted:]
    dropped = [*takewhile(lambda change: change["event"] == "leases.lost", changes)]
    assert {shard for change in dropped for shard in change["shards"]} == had
    gains = [change for change in changes if change["event"] == "leases.gained"]
    regained = {change["shard"]: _seconds(change) for change in reversed(gains)}
    for at, message in sent:
        assert at >= regained.get(snapshot.reservations[message.partition("#")[0]].shard, math.inf)


async def test_a_process_that_is_asked_to_stop_hands_over_and_finishes_what_is_under_way(ministack_url: str) -> None:
    """Its shards are not its own any more when it has ended; after a crash they would be, until somebody noticed."""
    async with (
        ConflictProxy(ministack_url, hold=0.0) as store,
        town(ministack_url, aws_dynamodb_endpoint=store.url) as it,
    ):
        leaver, *_ = await it.open(a=0, b=0, c=0)
        async with it.crowd.buying():
            await it.crowd.until_told(20)
            (seat,) = seats = [next(OURS)]
            applied = HoldReply()
            store.script(_takes(seat), applied)
            under_way = asyncio.create_task(call(leaver.channel, create_request(seats)))
            await applied.reached.wait()
            readiness = watch_health(leaver.channel, "readiness")
            await becomes(readiness, SERVING)
            leaver.terminate()
            await becomes(readiness, NOT_SERVING)
            applied.event.set()
            assert (await under_way).message.status is messages.ReservationStatus.HOLD
            told = await leaver.ended()
            assert await it.fleet.shards_of(leaver) == set()
            assert (told.code, leaver.log("stopped") != []) == (0, True)
            await until(it.fleet.shared_out, "its shards in other hands")
            await it.crowd.until_told(20)
        snapshot = await it.at_rest()
    for message, sent_by in it.repeated().items():
        shard = snapshot.reservations[message.partition("#")[0]].shard
        assert all(shard in it.given_up_by(sender, *STOOD_STILL) for sender in sent_by[:-1])


async def test_a_failing_bus_and_one_that_is_down_cost_nothing_but_time(ministack_url: str) -> None:
    """A tenth of the entries is not accepted and a few calls fail; for a while no call is answered at all."""
    bus = EventBusProxy(entry_failures=0.1, call_failures=0.03, rng=random.Random(5))
    async with town(ministack_url, bus) as it:
        await it.open(a=0, b=0)
        async with it.crowd.buying():
            await it.crowd.until_told(40)
            bus.down = True
            accepted, calls = len(bus.accepted), len(bus.calls)
            await it.crowd.until_told(60)
            await until(lambda: it.were_made(calls + 40), "calls refused")
            assert len(bus.accepted) == accepted
            bus.down = False
            await it.crowd.until_told(40)
        await it.at_rest()


# Clocks


async def test_with_clocks_apart_a_seat_has_one_owner_and_who_is_an_hour_off_leaves_all_to_the_others(
    ministack_url: str,
) -> None:
    """Three clocks are up to 2 seconds apart. A fourth process joins with one that is an hour ahead.
    https://github.com/johanhaleby/occurrent/issues/659 https://github.com/johanhaleby/occurrent/issues/662
    https://github.com/awslabs/amazon-dynamodb-lock-client/issues/44
    https://github.com/awslabs/amazon-dynamodb-lock-client/issues/88"""
    async with town(ministack_url) as it:
        slow, even, fast = await it.open(slow=-SKEW_MS, even=0, fast=SKEW_MS)
        async with it.crowd.buying(4):
            lost = await it.fleet.start("lost", AN_HOUR_MS, ready=False)
            await asyncio.gather(
                _refuses_all(lost, next(OURS), even),
                _until_in_time(lambda: _take_over(next(OURS), slow, fast)),
                _until_in_time(lambda: _read_until_settled(next(OURS), slow, [slow, even, fast])),
            )
        snapshot = await it.at_rest()
        assert await it.fleet.shards_of(lost) == set()
    assert all(each.updated_at <= fast.now() for each in snapshot.reservations.values())


async def _until_in_time(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Each is about what a process believes while another does not, and says whether it was asked meanwhile."""
    while not any(await asyncio.gather(*(attempt() for _ in range(4)))):
        pass


async def _take_over(seat_id: str, slow: Service, fast: Service) -> bool:
    """A hold of the slow process is taken over through the fast one as soon as its clock allows it, and then paid for.
    Whether it was still live by the slow process's clock then."""
    first = (await _insist(slow, create_request([seat_id], user_id="first"))).message
    ends = _milliseconds(first.hold_expires_at)
    asked_at = 0
    while (refused := await _refused(fast, create_request([seat_id], user_id="second"))) is not None:
        assert (refused.reason, asked_at < ends) == ("SEAT_UNAVAILABLE", True)
        await asyncio.sleep(0.05)
        asked_at = fast.now()
    assert fast.now() >= ends
    payment = messages.ConfirmReservationRequest(reservation_id=first.reservation_id, payment_intent_id="late")
    refused = await _refused(slow, payment)
    assert refused is not None
    assert refused.reason == "RESERVATION_EXPIRED"
    return slow.now() < ends


async def _read_until_settled(seat_id: str, holder: Service, readers: Sequence[Service]) -> bool:
    """Whether a reader was told EXPIRED before anybody had recorded it, which may be a second after its time by the
    clock that it asks and no earlier; until then a HOLD is a HOLD."""
    held = (await _insist(holder, create_request([seat_id]))).message
    ends = _milliseconds(held.hold_expires_at)
    settled = unsettled = False
    while not settled:
        for reader in readers:
            asked_at = reader.now()
            seen = (await _insist(reader, messages.GetReservationRequest(reservation_id=held.reservation_id))).message
            if seen.status is messages.ReservationStatus.HOLD:
                assert asked_at <= ends + SKEW_MS
            elif seen.updated_at == seen.created_at:
                unsettled = True
                assert reader.now() > ends + SKEW_MS
            else:
                settled = True
                assert _milliseconds(seen.updated_at) >= ends
        await asyncio.sleep(0.02)
    return unsettled


async def _refuses_all(lost: Service, seat_id: str, other: Service) -> None:
    """Not ready, but alive; no command on a hold that is over by its clock has an effect, and no read calls it over."""
    await lost.command.says("the clock is 3[56]")
    assert await _health_of(lost, "readiness") == NOT_SERVING
    assert await _health_of(lost, "liveness") == SERVING
    held = (await _insist(other, create_request([seat_id]))).message
    about = {"reservation_id": held.reservation_id}
    for request in (
        create_request([seat_id], user_id="rival"),
        messages.ConfirmReservationRequest(**about, payment_intent_id="pay"),
        messages.CancelReservationRequest(**about),
    ):
        assert (await refusal(call(lost.channel, request))).status is grpc.StatusCode.UNAVAILABLE
    asked_at = other.now()
    seen = (await call(lost.channel, messages.GetReservationRequest(**about))).message
    assert seen.status is messages.ReservationStatus.HOLD or asked_at > _milliseconds(held.hold_expires_at) - SKEW_MS


async def _insist(service: Service, request: betterproto2.Message) -> Answer:
    """The definite answer. Raises AioRpcError for a refusal."""
    while True:
        try:
            return await call(service.channel, request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        await asyncio.sleep(0.05)


async def _refused(service: Service, request: betterproto2.Message) -> Refusal | None:
    try:
        await _insist(service, request)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    return None


async def _health_of(service: Service, name: str) -> int:
    answer = await health_pb2_grpc.HealthStub(service.channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


def _takes(seat_id: str) -> Callable[[Request], bool]:
    """The transaction that takes this seat."""

    def matches(request: Request) -> bool:
        actions = request.params.get("TransactItems", [])
        return any(action.get("Update", {}).get("Key") == seat_key(EVENT_ID, seat_id) for action in actions)

    return matches


def _seconds(entry: dict[str, Any]) -> float:
    """When it was logged, since the epoch."""
    return datetime.fromisoformat(entry["timestamp"]).timestamp()


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
