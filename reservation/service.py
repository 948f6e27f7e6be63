"""The use cases: create, get, confirm, cancel."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from reservation.domain import model
from reservation.domain.commands import Cancel, Confirm, Create
from reservation.domain.errors import (
    EventNotFound,
    InvalidRequest,
    ReservationError,
    ReservationExpired,
    ReservationNotFound,
    ServiceUnavailable,
)
from reservation.domain.idempotency import Key, scoped_key, token_key
from reservation.domain.model import Event, Reservation, Seat, Status
from reservation.flights import Flights
from reservation.ports import Clock, DuePage, Inventory, Recorded, ReservationStore, StaleFacts, Superseded

CREATE, CONFIRM, CANCEL = "CreateReservation", "ConfirmReservation", "CancelReservation"


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator decides. Times in milliseconds; `max_hold_total` counts from the reservation's creation."""

    hold: int
    max_clock_skew: int
    max_seats: int = 10
    max_holds_per_user: int | None = None
    max_extensions: int = 3
    max_hold_total: int = 300_000


@dataclass(frozen=True, slots=True)
class Making:
    """A hold that is about to be made, and what all tries to make it have in common. In milliseconds: `now`, when it
    was asked for; `ends_at`, when it is to end (None: as the event or the policy says)."""

    command: Create
    key: Key | None
    reservation_id: str
    op_id: str
    now: int
    ends_at: int | None = None


class Reservations:
    """Every method takes `until` in time.monotonic() seconds and raises ServiceUnavailable (nothing happened) or, if it
    changes anything, UpstreamTimeout (it is not known what happened).

    While the clock is not trusted every command is refused: what it says of holds and keys would be wrong.
    """

    def __init__(
        self,
        store: ReservationStore,
        inventory: Inventory,
        policy: Policy,
        clock: Clock,
        shard_for: Callable[[str], str],
    ) -> None:
        """`shard_for` chooses the shard of a new reservation by its id."""
        self._store = store
        self._inventory = inventory
        self._policy = policy
        self._clock = clock
        self._shard_for = shard_for
        self._flights = Flights()

    async def create(self, command: Create, until: float) -> Recorded:
        """Raises EventNotFound, InvalidRequest (unknown seats), SeatUnavailable, IdempotencyConflict,
        IdempotencyInProgress."""
        self.require_trusted_clock()
        key = _create_key(command)
        # Read before the flight begins: a caller that leaves now leaves nothing behind.
        try:
            await self._inventory.facts(command.event_id, command.seat_ids, until)
        except (EventNotFound, InvalidRequest):
            if (earlier := await self._recall(key, until)) is not None:
                return earlier  # what the key's record says wins over what is on sale by now
            raise
        flight = await self._flights.run(key, lambda: self._create(command, key, until), until)
        return _shared(flight.result, joined=flight.joined)

    async def _create(self, command: Create, key: Key | None, until: float) -> Recorded:
        now = self._clock.now()
        return await self.make(Making(command, key, new_reservation_id(now), new_op_id(), now), until)

    async def make(self, made: Making, until: float) -> Recorded:
        """Raises like create(), and like ports.ReservationStore.hold."""
        while True:
            event, seats = await self._inventory.facts(made.command.event_id, made.command.seat_ids, until)
            draft = self._draft(made, event, seats)
            try:
                return await self._store.hold(draft, made.key, made.command.traceparent, until)
            except StaleFacts:
                continue

    def _draft(self, made: Making, event: Event, seats: tuple[Seat, ...]) -> Reservation:
        command, now = made.command, made.now
        hold = event.hold_seconds * 1000 if event.hold_seconds else self._policy.hold
        return Reservation(
            id=made.reservation_id,
            event_id=event.id,
            user_id=command.user_id,
            status=Status.HOLD,
            seats=seats,
            created_at=now,
            updated_at=now,
            hold_expires_at=now + hold if made.ends_at is None else made.ends_at,
            version=1,
            op_id=made.op_id,
            shard=self._shard_for(made.reservation_id),
            reservation_token=command.reservation_token,
            metadata=command.metadata,
        )

    async def get(self, reservation_id: str, owner: str | None, until: float) -> Reservation:
        """`owner`: whose it must be; None: the caller acts for everybody. Raises ReservationNotFound."""
        stored = await self._find(reservation_id, owner, until)
        if not self._clock.trusted():
            return stored
        return model.as_seen(stored, now=self._clock.now(), max_clock_skew=self._policy.max_clock_skew)

    async def confirm(self, command: Confirm, until: float) -> Recorded:
        """Raises ReservationNotFound, ReservationExpired, ReservationAlreadyConfirmed, ReservationAlreadyCancelled,
        IdempotencyConflict, IdempotencyInProgress."""
        op_id = new_op_id()
        return await self._advance(
            CONFIRM,
            command,
            lambda held: model.confirm(
                held, payment_intent_id=command.payment_intent_id, now=self._clock.now(), op_id=op_id
            ),
            until,
        )

    async def cancel(self, command: Cancel, until: float) -> Recorded:
        """Raises like confirm()."""
        op_id = new_op_id()
        return await self._advance(
            CANCEL,
            command,
            lambda held: model.cancel(held, reason=command.reason, now=self._clock.now(), op_id=op_id),
            until,
        )

    async def due(self, shard: str, before: int, page: object | None, until: float) -> DuePage:
        """Holds of a shard that end before a time, see ports.ReservationStore.due."""
        return await self._store.due(shard, before, page, until)

    async def expire(self, held: Reservation, until: float) -> Reservation:
        """Settles a hold that is past its time and returns what has become of it: EXPIRED, or what another command made
        of it before."""
        self.require_trusted_clock()
        after = model.expire(held, now=self._clock.now(), op_id=new_op_id())
        if after is None:
            return held
        try:
            await self._flights.run(None, lambda: self._store.settle(held, after, until), until)
        except Superseded as moved:
            return moved.current
        return after

    async def drain(self) -> None:
        """Waits for the commands that were begun, with or without their callers."""
        await self._flights.drain()

    def require_trusted_clock(self) -> None:
        """Raises ServiceUnavailable."""
        if not self._clock.trusted():
            raise ServiceUnavailable

    async def _find(self, reservation_id: str, owner: str | None, until: float) -> Reservation:
        reservation = await self._store.find(reservation_id, until)
        if reservation is None or owner not in (None, reservation.owner):
            raise ReservationNotFound
        return reservation

    async def _advance(
        self, rpc: str, command: Confirm | Cancel, decide: Callable[[Reservation], Reservation | None], until: float
    ) -> Recorded:
        self.require_trusted_clock()
        # Equal for certain only under a key, and only for the same caller: another one may not see the reservation.
        equal = (rpc, command.owner, command.idempotency_key, command.content) if command.idempotency_key else None
        flight = await self._flights.run(equal, lambda: self._decide_and_write(rpc, command, decide, until), until)
        return _shared(flight.result, joined=flight.joined)

    async def _decide_and_write(
        self, rpc: str, command: Confirm | Cancel, decide: Callable[[Reservation], Reservation | None], until: float
    ) -> Recorded:
        current = await self._find(command.reservation_id, command.owner, until)
        key = _command_key(rpc, command, current.user_id)
        while True:
            try:
                after = decide(current)
            except ReservationError as refusal:
                # What the key's record says wins over what has become of the reservation since.
                if (earlier := await self._recall(key, until)) is not None:
                    return earlier
                if not isinstance(refusal, ReservationExpired) or current.status is not Status.HOLD:
                    raise
                # The refusal makes somebody refund a payment, so it must be final: it is recorded first. If an equal
                # command that was in time landed just now, its version wins instead.
                current = await self.expire(current, until)
                continue
            if after is None:
                return await self._recall(key, until) or Recorded(current)
            try:
                return await self._store.advance(current, after, key, command.traceparent, until)
            except Superseded as moved:
                current = moved.current

    async def _recall(self, key: Key | None, until: float) -> Recorded | None:
        record = await self._store.recall(key, until) if key is not None else None
        return Recorded(record.replay(key), replayed=True) if record and key else None


def _create_key(command: Create) -> Key | None:
    if command.idempotency_key:
        return scoped_key(user_id=command.user_id, rpc=CREATE, key=command.idempotency_key, content=command.content)
    if command.reservation_token:
        return token_key(user_id=command.user_id, rpc=CREATE, token=command.reservation_token, content=command.content)
    return None


def _command_key(rpc: str, command: Confirm | Cancel, user_id: str) -> Key | None:
    """In the scope of the reservation's own user, so that a key means the same whoever acts for that user."""
    if not command.idempotency_key:
        return None
    return scoped_key(user_id=user_id, rpc=rpc, key=command.idempotency_key, content=command.content)


def _shared(recorded: Recorded, *, joined: bool) -> Recorded:
    return Recorded(recorded.reservation, replayed=True) if joined else recorded


def new_op_id() -> str:
    return os.urandom(8).hex()


def new_reservation_id(now: int) -> str:
    """Sorts by time, which is what lists of a user's reservations are ordered by."""
    return f"rsv_{now:012x}{os.urandom(10).hex()}"
