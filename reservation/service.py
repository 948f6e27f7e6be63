"""The use cases: create, get, list, confirm, cancel, extend."""

import os
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from reservation.domain import model
from reservation.domain.commands import Cancel, Confirm, Create, Extend, Listing
from reservation.domain.errors import (
    EventNotFound,
    FieldViolation,
    InvalidRequest,
    ReservationError,
    ReservationExpired,
    ReservationNotFound,
    SaleNotOpen,
    SeatUnavailable,
    ServiceUnavailable,
)
from reservation.domain.idempotency import Key, scoped_key, token_key
from reservation.domain.model import Event, Reservation, Seat, Status, Wish
from reservation.flights import Flights
from reservation.ports import Clock, DuePage, Inventory, Page, Recorded, ReservationStore, StaleFacts, Superseded

CREATE, CONFIRM, CANCEL = "CreateReservation", "ConfirmReservation", "CancelReservation"
EXTEND = "ExtendHold"

Change = Confirm | Cancel | Extend
"""What makes the next version of a held reservation."""


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
        """Raises EventNotFound, InvalidRequest (unknown or too many seats), SaleNotOpen, SeatUnavailable,
        HoldLimitReached, IdempotencyConflict, IdempotencyInProgress."""
        self.require_trusted_clock()
        key = _create_key(command)
        # Read before the flight begins: a caller that leaves now leaves nothing behind.
        try:
            await self.require_on_sale(command, until)
        except (EventNotFound, InvalidRequest, SaleNotOpen):
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
        if made.command.wish is not None:
            return await self._hold_choice(made, made.command.wish, until)
        while True:
            try:
                return await self._hold(made, made.command.seat_ids, until)
            except StaleFacts:
                continue

    async def _hold_choice(self, made: Making, wish: Wish, until: float) -> Recorded:
        """Whoever finds that somebody was faster chooses again; the inventory has learnt from it."""
        event, _ = await self._inventory.facts(made.command.event_id, (), until)
        try:
            while time.monotonic() < until:
                async with self._inventory.choice(event, wish, until) as seat_ids:
                    try:
                        return await self._hold(made, seat_ids, until)
                    except (SeatUnavailable, StaleFacts, InvalidRequest):
                        if not seat_ids:
                            raise
        except SeatUnavailable:
            # Nothing is left; what the key's record says wins even over that.
            if (earlier := await self._recall(made.key, until)) is not None:
                return earlier
            raise
        raise ServiceUnavailable

    async def _hold(self, made: Making, seat_ids: Sequence[str], until: float) -> Recorded:
        event, seats = await self._inventory.facts(made.command.event_id, seat_ids, until)
        draft, limit = self._draft(made, event, seats), self._max_holds_per_user(event)
        return await self._store.hold(draft, made.key, made.command.traceparent, until, max_holds=limit)

    def _max_holds_per_user(self, event: Event) -> int | None:
        return self._policy.max_holds_per_user if event.max_holds_per_user is None else event.max_holds_per_user

    async def require_on_sale(self, command: Create, until: float) -> None:
        """Raises EventNotFound, InvalidRequest (unknown or too many seats), SaleNotOpen."""
        event, _ = await self._inventory.facts(command.event_id, command.seat_ids, until)
        if not event.on_sale(self._clock.now()):
            raise SaleNotOpen
        limit = min(event.max_seats or self._policy.max_seats, self._policy.max_seats)
        if command.wish is not None and command.wish.quantity > limit:
            raise InvalidRequest([FieldViolation("quantity", f"is more than the {limit} seats of this event")])
        if len(command.seat_ids) > limit:
            raise InvalidRequest([FieldViolation("seat_ids", f"names more than {limit} seats")])

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
            wish=command.wish if not seats else None,
            metadata=command.metadata,
        )

    async def get(self, reservation_id: str, owner: str | None, until: float) -> Reservation:
        """`owner`: whose it must be; None: the caller acts for everybody. Raises ReservationNotFound."""
        return self._as_seen(await self._find(reservation_id, owner, until))

    async def page(self, wanted: Listing, until: float) -> Page:
        """Of those that are there all the while each is on exactly one page, whatever is created meanwhile."""
        page = await self._store.page(wanted, until)
        seen = (self._as_seen(stored) for stored in page.reservations)
        return Page(tuple(each for each in seen if wanted.status in (None, each.status)), page.next)

    async def newer(self, known: Sequence[Reservation], until: float) -> Sequence[Reservation]:
        """See ports.ReservationStore.newer."""
        return await self._store.newer(known, until)

    def _as_seen(self, stored: Reservation) -> Reservation:
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

    async def extend(self, command: Extend, until: float) -> Recorded:
        """Raises HoldExtensionDenied, and like confirm()."""
        op_id = new_op_id()
        return await self._advance(
            EXTEND,
            command,
            lambda held: model.extend(
                held,
                extension_ms=command.seconds * 1000,
                reason=command.reason,
                now=self._clock.now(),
                op_id=op_id,
                max_extensions=self._policy.max_extensions,
                max_total=self._policy.max_hold_total,
            ),
            until,
        )

    async def due(
        self, shard: str, before: int, page: object | None, until: float, *, besides: Container[str] = ()
    ) -> DuePage:
        """Holds of a shard that end before a time, see ports.ReservationStore.due."""
        return await self._store.due(shard, before, page, until, besides=besides)

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
        self, rpc: str, command: Change, decide: Callable[[Reservation], Reservation | None], until: float
    ) -> Recorded:
        self.require_trusted_clock()
        # Equal for certain only under a key, and only for the same caller: another one may not see the reservation.
        equal = (rpc, command.owner, command.idempotency_key, command.content) if command.idempotency_key else None
        flight = await self._flights.run(equal, lambda: self._decide_and_write(rpc, command, decide, until), until)
        return _shared(flight.result, joined=flight.joined)

    async def _decide_and_write(
        self, rpc: str, command: Change, decide: Callable[[Reservation], Reservation | None], until: float
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


def _command_key(rpc: str, command: Change, user_id: str) -> Key | None:
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
