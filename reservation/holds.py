"""The use cases of an inventory that other services sell from: reserve, commit, release.

A hold is a reservation under an id made of the caller's: its seats are taken, sold and freed, and it ends on time, as
those of any other. Its order and its events are the caller's own affair.
"""

from reservation.domain import model
from reservation.domain.commands import Cancel, Commit, Confirm, Create, Release, Reserve, is_about
from reservation.domain.errors import (
    FieldViolation,
    IdempotencyConflict,
    InvalidRequest,
    ReservationExpired,
    ReservationNotFound,
    SeatUnavailable,
)
from reservation.domain.model import Reservation, Status, hold_id_of
from reservation.flights import Flights
from reservation.ports import Clock, ReservationStore, Superseded
from reservation.service import Making, Policy, Reservations, new_op_id


class Holds:
    """Every command takes effect once for each reservation id, and answers the hold as it is after that. Raises like
    Reservations; `until` in time.monotonic() seconds."""

    def __init__(self, reservations: Reservations, store: ReservationStore, policy: Policy, clock: Clock) -> None:
        self._reservations = reservations
        self._store = store
        self._policy = policy
        self._clock = clock
        self._flights = Flights()

    async def reserve(self, command: Reserve, until: float) -> Reservation:
        """The hold lasts at least until the time that was asked for, if not longer by an earlier command.

        Raises EventNotFound, InvalidRequest, SaleNotOpen, SeatUnavailable, HoldLimitReached, IdempotencyConflict (the
        hold has other seats), ReservationExpired, ReservationAlreadyConfirmed, ReservationAlreadyCancelled.
        """
        self._reservations.require_trusted_clock()
        return (await self._flights.run(None, lambda: self._reserve(command, until), until)).result

    async def _reserve(self, command: Reserve, until: float) -> Reservation:
        self._require_sensible_end(command)
        held = await self._find(command.reservation_id, until)
        while True:
            try:
                if held is None:
                    return await self._take(command, until)
                return await self._prolong(held, command, until)
            except Superseded as moved:
                held = moved.current
            except SeatUnavailable:
                # By the same command, perhaps, that came before and was still under way.
                if held is not None or (held := await self._find(command.reservation_id, until)) is None:
                    raise

    async def _take(self, command: Reserve, until: float) -> Reservation:
        create = Create(command.event_id, command.seat_ids, command.user_id, wish=command.wish)
        await self._reservations.require_on_sale(create, until)
        now, ends_at = self._clock.now(), command.hold_expires_at
        made = Making(create, None, hold_id_of(command.reservation_id), new_op_id(), now, ends_at)
        return (await self._reservations.make(made, until)).reservation

    async def _prolong(self, held: Reservation, command: Reserve, until: float) -> Reservation:
        if not command.asks_for(held):
            raise IdempotencyConflict
        ends_at = held.hold_expires_at if command.hold_expires_at is None else command.hold_expires_at
        after = model.prolong(held, hold_expires_at=ends_at, now=self._clock.now(), op_id=new_op_id())
        return (await self._store.advance(held, after, None, "", until)).reservation if after else held

    def _require_sensible_end(self, command: Reserve) -> None:
        if command.hold_expires_at is None:
            return
        left = command.hold_expires_at - self._clock.now()
        if left <= 0:
            raise ReservationExpired
        if left > self._policy.max_hold_total:
            seconds = self._policy.max_hold_total // 1000
            raise InvalidRequest([FieldViolation("hold_expires_at", f"is more than {seconds} s from now")])

    async def commit(self, command: Commit, until: float) -> Reservation:
        """Raises ReservationNotFound, IdempotencyConflict (that is not the hold), ReservationExpired (for ever: the
        seats cannot be sold to this reservation any more), ReservationAlreadyConfirmed (by another payment),
        ReservationAlreadyCancelled."""
        held = await self._find(command.reservation_id, until)
        if held is None:
            raise ReservationNotFound
        if not is_about(command, held):
            raise IdempotencyConflict
        confirm = Confirm(held.id, command.payment_intent_id, owner=None)
        return (await self._reservations.confirm(confirm, until)).reservation

    async def release(self, command: Release, until: float) -> Reservation:
        """CANCELLED, or EXPIRED if the hold ended by itself before.

        A hold that is not there is recorded as CANCELLED: a caller releases it because it has not heard of its reserve,
        which may still be on its way and must find nothing left to do.

        Raises IdempotencyConflict (that is not the hold), ReservationAlreadyConfirmed.
        """
        held = await self._find(command.reservation_id, until)
        if held is None:
            return (await self._flights.run(None, lambda: self._forestall(command, until), until)).result
        return await self._give_back(held, command, until)

    async def _forestall(self, command: Release, until: float) -> Reservation:
        now = self._clock.now()
        never = Reservation(
            id=hold_id_of(command.reservation_id),
            event_id=command.event_id,
            user_id="",
            status=Status.CANCELLED,
            seats=(),
            created_at=now,
            updated_at=now,
            hold_expires_at=now,
            version=1,
            op_id=new_op_id(),
            shard="",
            reason=command.reason,
        )
        try:
            return (await self._store.hold(never, None, "", until)).reservation
        except Superseded as moved:
            return await self._give_back(moved.current, command, until)

    async def _give_back(self, held: Reservation, command: Release, until: float) -> Reservation:
        if not is_about(command, held):
            raise IdempotencyConflict
        try:
            return (await self._reservations.cancel(Cancel(held.id, command.reason, owner=None), until)).reservation
        except ReservationExpired:
            settled = await self._find(command.reservation_id, until)
            if settled is None or settled.status is not Status.EXPIRED:
                raise
            return settled

    async def _find(self, reservation_id: str, until: float) -> Reservation | None:
        return await self._store.find(hold_id_of(reservation_id), until)

    async def drain(self) -> None:
        """Waits for the commands that were begun, with or without their callers."""
        await self._flights.drain()
