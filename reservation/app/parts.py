"""What requests and the loops beside them are made of."""

import time
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random

import grpc
import structlog

from reservation.api.inventory import InventoryHandlers, inventory_service
from reservation.api.reservations import ReservationHandlers, reservation_service
from reservation.app.connections import Clients, events_of, tables_of
from reservation.app.entrances import limits_of
from reservation.app.observation import Telemetry
from reservation.audience import Audience
from reservation.auth.access import Access
from reservation.auth.keyring import Keyring
from reservation.availability import Availability
from reservation.aws.client import AwsClient
from reservation.aws.errors import AwsError
from reservation.background.bus import BusCheck
from reservation.background.dead_letters import DeadLetters
from reservation.background.expiry import Expiry
from reservation.background.leader import Leader
from reservation.background.loops import Loops
from reservation.background.readiness import Readiness
from reservation.background.recovery import Recovery
from reservation.background.relay import Relay
from reservation.clock import Clock
from reservation.dynamodb.halls import Halls
from reservation.dynamodb.leases import LeaseTable
from reservation.dynamodb.outbox import Outbox
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.sagas import DynamoSagas
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.holds import Holds
from reservation.inventory.remote import RemoteInventory
from reservation.inventory.saga import RemoteSales
from reservation.service import Policy, Reservations, new_op_id
from reservation.settings import Settings
from reservation.telemetry.gauges import Gauges
from reservation.telemetry.untraced import INVENTORY_STEPS, STORE_STEPS
from reservation.watches import Watches

log = structlog.get_logger()


class _Background:
    """The leader, and the relay that works on what it holds. `worker_id`: this process's name in the leases table."""

    def __init__(self, worker_id: str, leader: Leader, relay: Relay) -> None:
        self.worker_id = worker_id
        self.leader = leader
        self.relay = relay

    async def enroll(self) -> None:
        try:
            await self.leader.enroll()
        except AwsError as error:
            log.warning("leases.not_enrolled", error=str(error))  # its loop goes on trying

    async def stop(self, loops: Loops) -> None:
        """Ends the work before the leases that allow it are handed over."""
        await self.relay.stop()
        await loops.stop()
        await self.leader.stop()


def _background(
    settings: Settings, clients: Clients, clock: Clock, bus: BusCheck, loops: Loops, telemetry: Telemetry
) -> _Background:
    tables = tables_of(settings)
    leases = LeaseTable(clients.leases, tables.leases, lease_seconds=settings.lease_seconds)

    def follow(gained: frozenset[str], lost: frozenset[str]) -> None:
        for shard in lost:
            relay.lost(shard)
        for shard in gained:
            relay.gained(shard)

    leader = Leader(
        leases,
        worker_id=telemetry.worker_id,
        lease_seconds=settings.lease_seconds,
        shard_count=settings.shards,
        monotonic=time.monotonic,
        now=clock.now,
        random=Random(),
        on_change=follow,
        fit=clock.trusted,  # without it nothing would be expired, and its shards must be another's
    )
    relay = Relay(
        Outbox(clients.loops, tables.outbox),
        events_of(settings, clients, telemetry),
        may_work_on=leader.may_work_on,
        may_publish=lambda: bus.may_publish,
        now=clock.now,
        start=loops.start,
        on_accepted=telemetry.metrics.delivered,
    )
    return _Background(telemetry.worker_id, leader, relay)


@dataclass(frozen=True, slots=True)
class _UseCases:
    """`inventory` and `holds`: none if the seats are another service's. `sagas`: only then."""

    reservations: Reservations
    inventory: EmbeddedInventory | None = None
    holds: Holds | None = None
    sagas: RemoteSales | None = None

    async def drain(self) -> None:
        if self.holds is not None:
            await self.holds.drain()
        await self.reservations.drain()


class Parts:
    """What requests and the loops beside them have in common, and what is made of it."""

    def __init__(
        self,
        settings: Settings,
        clients: Clients,
        clock: Clock,
        bus: BusCheck,
        loops: Loops,
        remote: RemoteInventory | None,
        telemetry: Telemetry,
    ) -> None:
        self.settings = settings
        self.tables = tables_of(settings)
        self.clock = clock
        self.policy = _policy(settings)
        self.telemetry = telemetry
        self.background = _background(settings, clients, clock, bus, loops, telemetry)
        self.halls = Halls(clients.loops, self.tables.inventory, now=clock.now)
        self.audience = Audience()
        self.outbox = Outbox(clients.loops, self.tables.outbox)
        self._remote = remote

    def use_cases(self, client: AwsClient) -> _UseCases:
        return self._embedded(client) if self._remote is None else self._from_elsewhere(client, self._remote)

    def _embedded(self, client: AwsClient) -> _UseCases:
        leader = self.background.leader
        inventory = EmbeddedInventory(
            client, self.tables.inventory, halls=self.halls, stripe=lambda: leader.position, now=self.clock.now
        )
        store = DynamoReservations(
            client,
            self.tables,
            inventory,
            now=self.clock.now,
            key_window=self._key_window,
            event_written=self.background.relay.nudge,
            changed=self.audience.notice,
            moved=self.telemetry.moved,
        )
        drawn = self.telemetry.traces.steps(store, STORE_STEPS)
        facts = self.telemetry.traces.steps(inventory, INVENTORY_STEPS)
        reservations = Reservations(drawn, facts, self.policy, self.clock, leader.shard_for)
        return _UseCases(reservations, inventory, Holds(reservations, drawn, self.policy, self.clock))

    def _from_elsewhere(self, client: AwsClient, remote: RemoteInventory) -> _UseCases:
        records = DynamoSagas(
            client,
            self.tables,
            now=self.clock.now,
            key_window=self._key_window,
            event_written=self.background.relay.nudge,
        )
        sagas = RemoteSales(
            self.telemetry.traces.steps(records, STORE_STEPS),
            remote,
            now=self.clock.now,
            new_op_id=new_op_id,
            changed=self.audience.notice,
            moved=self.telemetry.moved,
        )
        shard_for = self.background.leader.shard_for
        return _UseCases(Reservations(sagas, remote, self.policy, self.clock, shard_for), sagas=sagas)

    @property
    def _key_window(self) -> int:
        return self.settings.idempotency_ttl_seconds * 1000

    def services(self, use_cases: _UseCases, watches: Watches, access: Access) -> list[grpc.GenericRpcHandler]:
        max_seats, limits, outcomes = self.policy.max_seats, limits_of(self.settings), self.telemetry.outcomes
        handlers = None
        if use_cases.inventory is not None and use_cases.holds is not None:
            availability = Availability(use_cases.inventory, self.clock)
            handlers = InventoryHandlers(availability, use_cases.holds, max_seats=max_seats)
        return [
            self.telemetry.traces.serving(service)
            for service in (
                reservation_service(
                    ReservationHandlers(use_cases.reservations, watches, max_seats=max_seats), access, limits, outcomes
                ),
                inventory_service(handlers, access, limits, outcomes),
            )
        ]

    def work_of(self, use_cases: _UseCases) -> dict[str, Coroutine[None, None, None]]:
        """The loops that settle what is over, on the shards that this process holds."""
        leader = self.background.leader
        expiry = Expiry(
            use_cases.reservations,
            held_shards=lambda: leader.held,
            may_work_on=leader.may_work_on,
            now=self.clock.now,
            clock_trusted=self.clock.trusted,
            settled=self.telemetry.metrics.expired,
        )
        if use_cases.sagas is None:
            return {"expiry": expiry.run()}
        recovery = Recovery(
            use_cases.sagas,
            held_shards=lambda: leader.held,
            may_work_on=leader.may_work_on,
            now=self.clock.now,
            clock_trusted=self.clock.trusted,
        )
        return {"expiry": expiry.run(), "recovery": recovery.run()}

    def looks(self, readiness: Readiness, keyring: Keyring | None) -> dict[str, Coroutine[None, None, None]]:
        """The loops that see for operators how things are."""
        metrics, leader, relay, remote = (
            self.telemetry.metrics,
            self.background.leader,
            self.background.relay,
            self._remote,
        )
        gauges = Gauges(
            metrics,
            ready=lambda: readiness.ready,
            clock_skew=lambda: self.clock.skew_seconds,
            shards=lambda: len(leader.shards),
            shards_held=lambda: len(leader.held),
            oldest_event=lambda: relay.oldest_age,
            watches=lambda: len(self.audience),
            circuit=(lambda: remote.circuit) if remote is not None else None,
            keys_age=(lambda: keyring.age) if keyring is not None else None,
        )
        found = metrics.gauge("outbox_dead_letters", "Dead letters of the shards that this process works on.")
        dead = DeadLetters(self.outbox, held_shards=lambda: leader.held, found=found)
        return {"gauges": gauges.run(), "loop lag": metrics.watch_loop(), "dead letters": dead.run()}


def _policy(settings: Settings) -> Policy:
    return Policy(
        hold=settings.hold_seconds * 1000,
        max_clock_skew=int(settings.max_clock_skew_seconds * 1000),
        max_seats=settings.max_seats_per_reservation,
        max_holds_per_user=settings.max_holds_per_user,
        max_extensions=settings.hold_extensions_max,
        max_hold_total=settings.hold_total_seconds_max * 1000,
    )
