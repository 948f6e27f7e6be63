"""Sales from a remote inventory: no transaction spans both sides, so each command is a saga of steps.

The own record always says first what is about to be asked of the other side, and every request to it can be repeated:
it is known there by the reservation's id. So whoever finds a saga that nobody works on can bring it to its end.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import replace

import structlog

from reservation.domain import model
from reservation.domain.commands import Listing
from reservation.domain.errors import (
    EventNotFound,
    HoldLimitReached,
    IdempotencyInProgress,
    InvalidRequest,
    InventoryServiceError,
    ReservationError,
    ReservationExpired,
    SaleNotOpen,
    SeatUnavailable,
    ServiceUnavailable,
    UpstreamTimeout,
)
from reservation.domain.idempotency import Key, Record, Running
from reservation.domain.model import Reservation, Saga, Status
from reservation.inventory.breaker import CircuitOpen
from reservation.inventory.remote import RemoteInventory
from reservation.ports import DuePage, Known, Mark, Page, Recorded, SagaRecords, Step, Superseded

log = structlog.get_logger()

LEASE_MS = 2_000
"""How long a saga is its own process's, from its last step that says so."""

_WAIT_SECONDS, _LOOK_SECONDS = 1.0, 0.02
_CLEANING_SECONDS = 1.0
_AGAIN_SECONDS = 0.05

_FOR_CUSTOMERS = (SeatUnavailable, InvalidRequest, EventNotFound, SaleNotOpen, HoldLimitReached)
"""Refusals of ReserveSeat that say: nothing is held, and why. Any other one is a misunderstanding of the two sides."""


class RemoteSales:
    """A ports.ReservationStore and ports.Sagas. `now` gives milliseconds since the epoch; `new_op_id` an id for one
    write; `changed` is told of each reservation that was moved to a new version; `moved` of each write, with what the
    reservation was before (None: nothing).

    Besides what the port says, everything raises InventoryServiceError: the command had no effect that stays.
    """

    def __init__(
        self,
        records: SagaRecords,
        inventory: RemoteInventory,
        *,
        now: Callable[[], int],
        new_op_id: Callable[[], str],
        changed: Callable[[Reservation], None] = lambda reservation: None,
        moved: Callable[[Reservation | None, Reservation], None] = lambda before, after: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._records = records
        self._inventory = inventory
        self._now = now
        self._new_op_id = new_op_id
        self._changed = changed
        self._moved = moved
        self._sleep = sleep

    async def find(self, reservation_id: str, until: float) -> Reservation | None:
        return await self._records.find(reservation_id, until)

    async def recall(self, key: Key, until: float) -> Record | Running | None:
        return await self._records.recall(key, until)

    async def due(
        self, shard: str, before: int, page: object | None, until: float, *, besides: Container[str] = ()
    ) -> DuePage:
        return await self._records.due(shard, before, page, until, besides=besides)

    async def unfinished(self, shard: str, page: object | None, until: float) -> DuePage:
        return await self._records.unfinished(shard, page, until)

    async def page(self, wanted: Listing, until: float) -> Page:
        return await self._records.page(wanted, until)

    async def newer(self, known: Sequence[Reservation], until: float) -> Sequence[Reservation]:
        return await self._records.newer(known, until)

    async def _write(self, step: Step, until: float) -> None:
        await self._records.write(step, until)
        self._changed(step.after)
        self._moved(step.before, step.after)

    # Hold: PENDING, then the other side, then HOLD

    async def hold(
        self, draft: Reservation, key: Key | None, traceparent: str, until: float, *, max_holds: int | None = None
    ) -> Recorded:
        """`max_holds` is the other side's affair."""
        if (earlier := await self._recall_if_unreachable(key, until)) is not None:
            return earlier
        pending = replace(draft, status=Status.PENDING, version=0, saga=self._saga(key, traceparent))
        while True:
            pending = replace(pending, op_id=self._new_op_id())
            try:
                await self._write(Step(None, pending, key, Mark.OPEN), until)
            except Known as known:
                if key is None:
                    raise AssertionError("without a key no record is in the way") from None
                if (earlier := await self._join(known.record, key, until)) is not None:
                    return earlier
            else:
                return await self._reserve(pending, until)

    async def _recall_if_unreachable(self, key: Key | None, until: float) -> Recorded | None:
        """Nothing new is begun while the other side does not answer; what is known is answered all the same."""
        try:
            self._inventory.require_reachable()
        except CircuitOpen:
            record = await self._records.recall(key, until) if key is not None else None
            if key is not None and (earlier := await self._join(record, key, until)) is not None:
                return earlier
            raise
        return None

    async def _join(self, record: Record | Running | None, key: Key, until: float) -> Recorded | None:
        """What becomes of an equal request that came first; None: nothing. If nobody works on it any more this one goes
        on with it."""
        patience = min(until, time.monotonic() + _WAIT_SECONDS)
        while isinstance(record, Running):
            if record.key.fingerprint != key.fingerprint:
                record.replay(key)  # raises
            pending = await self._records.find(record.reservation_id, until)
            if pending is not None and pending.status is Status.PENDING and self._is_abandoned(pending):
                if (mine := await self._take_over(pending, until)) is not None:
                    return await self._reserve(mine, until)
            elif time.monotonic() >= patience:
                raise IdempotencyInProgress
            await self._sleep(_LOOK_SECONDS)
            record = await self._records.recall(key, until)
        return Recorded(record.replay(key), replayed=True) if record is not None else None

    async def _reserve(self, pending: Reservation, until: float) -> Recorded:
        try:
            taken = await self._inventory.reserve(pending, until)
            if taken.until <= self._now():
                raise InventoryServiceError
        except (*_FOR_CUSTOMERS, CircuitOpen):
            await self._fail(pending)
            raise
        except ReservationError as error:
            log.warning("saga.reserve_failed", reservation_id=pending.id, code=error.code)
            await self._give_up(pending)
            raise InventoryServiceError from error
        held = replace(
            pending,
            status=Status.HOLD,
            seats=taken.seats,
            wish=None,
            hold_expires_at=min(pending.hold_expires_at, taken.until),
            updated_at=max(self._now(), pending.updated_at),
            version=1,
            op_id=self._new_op_id(),
            saga=None,
        )
        try:
            await self._write(self._last_step(pending, held, Mark.CLOSE), _at_least_a_moment(until))
        except Superseded as moved:
            if moved.current.status is not Status.HOLD:
                raise InventoryServiceError from moved  # it took so long that somebody has given it up
            return Recorded(moved.current)
        return Recorded(held)

    async def _give_up(self, pending: Reservation) -> None:
        """Nobody knows what the other side has done, so it undoes it first. If it cannot, what nobody works on is found
        later."""
        if await self._release(pending) is not None:
            await self._fail(pending)

    async def _fail(self, pending: Reservation) -> None:
        failed = replace(pending, status=Status.FAILED, op_id=self._new_op_id(), saga=None)
        await self._tidy(self._last_step(pending, failed, Mark.FORGET))

    # Confirm, extend and cancel

    async def advance(
        self, before: Reservation, after: Reservation, key: Key | None, traceparent: str, until: float
    ) -> Recorded:
        if before.saga is not None:
            await self._await_end(before, until)
        try:
            match after.status:
                case Status.CONFIRMED:
                    return await self._confirm(before, after, key, traceparent, until)
                case Status.HOLD:
                    return await self._extend(before, after, key, traceparent, until)
            return await self._cancel(before, after, key, traceparent, until)
        except Known as known:
            if key is None:
                raise AssertionError("without a key no record is in the way") from None
            return Recorded(known.record.replay(key), replayed=True)

    async def _confirm(
        self, before: Reservation, after: Reservation, key: Key | None, traceparent: str, until: float
    ) -> Recorded:
        self._inventory.require_reachable()
        intent = replace(
            before,
            payment_intent_id=after.payment_intent_id,
            op_id=self._new_op_id(),
            saga=self._saga(key, traceparent),
        )
        # A try repeats the one before it. None may begin after the hold has run out.
        in_time = time.monotonic() + (before.hold_expires_at - self._now()) / 1000
        await self._write(Step(before, intent, key, Mark.OPEN), min(until, in_time))
        return await self._commit(intent, until)

    async def _commit(self, intent: Reservation, until: float) -> Recorded:
        """From the intent on there is no way back: it is sold, or it never can be. Raises UpstreamTimeout while neither
        is certain, and ReservationExpired."""
        until = min(until, time.monotonic() + LEASE_MS / 1000)
        while True:
            try:
                await self._inventory.commit(intent, until)
                break
            except InventoryServiceError as error:
                if time.monotonic() + _AGAIN_SECONDS >= until:
                    raise UpstreamTimeout from error
                await self._sleep(_AGAIN_SECONDS)
            except ReservationError as refusal:
                log.warning("saga.commit_refused", reservation_id=intent.id, code=refusal.code)
                unsold = model.give_up_sale(intent, now=self._now(), op_id=self._new_op_id())
                await self._certain(self._end(intent, unsold, until))
                raise ReservationExpired from refusal
        sold = model.sell(intent, now=self._now(), op_id=self._new_op_id())
        last = self._last_step(intent, sold, Mark.CLOSE)
        await self._certain(self._write(last, _at_least_a_moment(until)))
        return Recorded(sold)

    async def _certain(self, writing: Awaitable[None]) -> None:
        """What the other side has decided is true, and will be recorded, even if it cannot be now."""
        try:
            await writing
        except (ServiceUnavailable, IdempotencyInProgress) as error:
            raise UpstreamTimeout from error

    async def _extend(
        self, before: Reservation, after: Reservation, key: Key | None, traceparent: str, until: float
    ) -> Recorded:
        """The other side first: there the hold may well last longer than here, never the other way round."""
        try:
            taken = await self._inventory.reserve(after, until)
        except InventoryServiceError:
            raise
        except ReservationError as refusal:
            log.warning("saga.extend_refused", reservation_id=before.id, code=refusal.code)
            raise ReservationExpired from refusal
        if taken.until < after.hold_expires_at:
            raise InventoryServiceError
        await self._write(Step(before, after, key, Mark.ANSWER, traceparent), until)
        return Recorded(after)

    async def _cancel(
        self, before: Reservation, after: Reservation, key: Key | None, traceparent: str, until: float
    ) -> Recorded:
        """The own side first: what is reported as cancelled can be sold no more, however long its release takes."""
        cancelled = replace(after, saga=self._saga(None, traceparent))
        step = Step(before, cancelled, key, Mark.ANSWER, traceparent, released=after.seat_ids)
        await self._write(step, until)
        await self._release_and_close(cancelled)
        return Recorded(replace(after, saga=None))

    async def _await_end(self, selling: Reservation, until: float) -> None:
        """Until a sale is certain, or its refusal. Raises Superseded then, and IdempotencyInProgress."""
        patience = min(until, time.monotonic() + _WAIT_SECONDS)
        current: Reservation | None = selling
        while current is not None and current.saga is not None:
            if self._is_abandoned(current):
                await self._finish_quietly(current, patience)
            if time.monotonic() >= patience:
                raise IdempotencyInProgress
            await self._sleep(_LOOK_SECONDS)
            current = await self._records.find(selling.id, until)
        raise Superseded(current or selling)

    # Expiry

    async def settle(self, before: Reservation, after: Reservation, until: float) -> None:
        await self._end(before, after, until)

    async def _end(self, before: Reservation, after: Reservation, until: float) -> None:
        """An own hold is over. The other side's may last longer, because it was extended or its clock differs."""
        released = await self._release(before)
        saga = None if released is not None else self._saga(None, "")
        step = self._last_step(before, replace(after, saga=saga), Mark.FORGET)
        await self._write(replace(step, released=released or ()), _at_least_a_moment(until))

    async def _release(self, ended: Reservation) -> tuple[str, ...] | None:
        """The ids of the seats that it frees; None: it is not known what it did."""
        try:
            return await self._inventory.release(ended, time.monotonic() + _CLEANING_SECONDS)
        except ReservationError as error:
            log.warning("saga.release_failed", reservation_id=ended.id, code=error.code)
            return None

    async def _release_and_close(self, ended: Reservation) -> None:
        if await self._release(ended) is not None:
            await self._tidy(Step(ended, replace(ended, saga=None)))

    # Recovery

    async def finish(self, stuck: Reservation, until: float) -> None:
        """See ports.Sagas."""
        self._inventory.require_reachable()
        if not self._is_abandoned(stuck):
            return
        if stuck.status not in (Status.PENDING, Status.HOLD):
            await self._release_and_close(stuck)
        elif (mine := await self._take_over(stuck, until)) is None:
            return
        elif mine.status is Status.PENDING:
            await self._give_up(mine)
        else:
            await self._commit_for_nobody(mine, until)

    async def _commit_for_nobody(self, intent: Reservation, until: float) -> None:
        try:
            await self._commit(intent, until)
        except ReservationExpired:
            return  # it is recorded

    async def _finish_quietly(self, stuck: Reservation, until: float) -> None:
        try:
            await self.finish(stuck, until)
        except (InventoryServiceError, UpstreamTimeout, ServiceUnavailable, Superseded) as error:
            log.info("saga.not_finished", reservation_id=stuck.id, error=repr(error))

    def _is_abandoned(self, reservation: Reservation) -> bool:
        return reservation.saga is not None and reservation.saga.until <= self._now()

    async def _take_over(self, abandoned: Reservation, until: float) -> Reservation | None:
        """None: somebody was faster."""
        if abandoned.saga is None:
            raise AssertionError("there is nothing to take over")
        saga = replace(abandoned.saga, until=self._now() + LEASE_MS)
        mine = replace(abandoned, op_id=self._new_op_id(), saga=saga)
        try:
            await self._write(Step(abandoned, mine), until)
        except Superseded:
            return None
        return mine

    async def _tidy(self, step: Step) -> None:
        """A step that recovery makes up for if it fails."""
        try:
            await self._write(step, time.monotonic() + _CLEANING_SECONDS)
        except (Superseded, ServiceUnavailable, UpstreamTimeout, IdempotencyInProgress) as error:
            log.warning("saga.left_open", reservation_id=step.after.id, error=repr(error))

    def _saga(self, key: Key | None, traceparent: str) -> Saga:
        until = self._now() + LEASE_MS
        if key is None:
            return Saga(until, traceparent=traceparent)
        return Saga(until, key.id, key.fingerprint, key.ends_with_hold, traceparent)

    def _last_step(self, before: Reservation, after: Reservation, mark: Mark) -> Step:
        saga = before.saga
        if saga is None:
            return Step(before, after)
        key = Key(saga.key_id, saga.fingerprint, saga.key_ends_with_hold) if saga.key_id else None
        return Step(before, after, key, mark, saga.traceparent)


def _at_least_a_moment(until: float) -> float:
    """For a step that comes after what cannot be taken back, even if its caller has no more time."""
    return max(until, time.monotonic() + _CLEANING_SECONDS)
