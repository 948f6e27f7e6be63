"""What must have become of one small hall after each command, and what a command may be answered: a model of the
service that knows nothing of transactions, keys in tables, caches or hints.

Commands come one after the other. `now` is the clock of the process that is asked, in milliseconds.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from reservation.domain.commands import Cancel, Confirm, Create, Extend
from reservation.domain.errors import (
    HoldExtensionDenied,
    HoldLimitReached,
    InvalidRequest,
    ReservationAlreadyCancelled,
    ReservationAlreadyConfirmed,
    ReservationError,
    ReservationExpired,
    SaleNotOpen,
    SeatUnavailable,
)
from reservation.domain.model import Event, Reservation, Seat, SeatStatus, Status, Wish

Change = Confirm | Cancel | Extend
Command = Create | Change
Refusal = type[ReservationError]

MAX_EXTENSIONS, MAX_HOLD_MS = 3, 300_000
_REFUSAL_MS, _BLOCK_REMEMBERED_MS = 250, 1_250
_LONG_AGO = -1


@dataclass(slots=True)
class Hold:
    """A reservation."""

    id: str
    user: str
    seat_ids: tuple[str, ...]
    created_at: int
    ends_at: int
    slot: int
    status: Status = Status.HOLD
    version: int = 1
    extensions: int = 0
    payment: str = ""


@dataclass(slots=True)
class Taken:
    """A seat. `freed_at`: when it came free before its time, by each process's clock; `remembered`: for how long a
    process that has not freed it itself may still say that it is taken, when it chooses."""

    status: SeatStatus = SeatStatus.AVAILABLE
    holder: str = ""
    until: int = 0
    freed_at: tuple[int, ...] = ()
    remembered: int = 0

    def free(self, now: int) -> bool:
        return self.status is SeatStatus.AVAILABLE or (self.status is SeatStatus.HELD and self.until <= now)


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of an idempotency key; `until` in milliseconds."""

    command: Command
    answer: Reservation
    until: int


@dataclass(slots=True)
class ExpectedSales:
    """Of `seats`, by processes that are known by their number. `key_window` and all times in milliseconds."""

    event: Event
    seats: Sequence[Seat]
    key_window: int
    holds: dict[str, Hold] = field(default_factory=dict)
    taken: dict[str, Taken] = field(default_factory=dict)
    slots: dict[tuple[str, int], Hold] = field(default_factory=dict)
    keys: dict[tuple[object, ...], Known] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken = {seat.id: Taken() for seat in self.seats}

    # What is there

    def state(self) -> dict[str, object]:
        """To be compared with the tables, and with what was before."""
        return {
            "reservations": {
                each.id: (each.status, each.user, each.seat_ids, each.version, each.ends_at, each.extensions)
                for each in self.holds.values()
            },
            "payments": {each.id: each.payment for each in self.holds.values()},
            "seats": {seat_id: (each.status, each.holder, each.until) for seat_id, each in self.taken.items()},
            "slots": {slot: (hold.id, hold.ends_at) for slot, hold in self.slots.items()},
            "keys": len(self.keys),
        }

    def free(self, now: int) -> set[str]:
        return {seat_id for seat_id, each in self.taken.items() if each.free(now)}

    def seen(self, hold: Hold, now: int, skew: int) -> Status:
        """What a reader is told."""
        past = hold.status is Status.HOLD and now > hold.ends_at + skew
        return Status.EXPIRED if past else hold.status

    # Create

    def refusals(self, command: Create, process: int, now: int) -> tuple[set[Refusal], bool]:
        """With which errors a new request may be refused, and whether it may succeed."""
        if command.seat_ids and not set(command.seat_ids) <= self.taken.keys():
            return {InvalidRequest}, False
        if not self.event.on_sale(now):
            return {SaleNotOpen}, False
        if command.wish is not None and not self._sections(command.wish):
            return {InvalidRequest}, False
        free, sure = self.free(now), {seat_id for seat_id in self.taken if self._surely_free(seat_id, process, now)}
        if command.wish is not None:
            free = free if self._fits(command.wish, free) else set()
            possible, certain = bool(free), self._fits(command.wish, sure)
        else:
            sure = {seat_id for seat_id in self.taken if self._surely_free(seat_id, process, now, chosen=False)}
            possible, certain = set(command.seat_ids) <= free, set(command.seat_ids) <= sure
        at_limit = len(self._live_slots(command.user_id, now)) >= (self.event.max_holds_per_user or 0)
        may_be = {SeatUnavailable: not certain, HoldLimitReached: at_limit}
        return {refusal for refusal, true in may_be.items() if true}, possible and not at_limit

    def create(self, command: Create, made: Reservation, now: int) -> None:
        """It has succeeded. Raises AssertionError if it must not have been with these seats."""
        assert made.id not in self.holds
        assert set(made.seat_ids) <= self.free(now), "a seat that is not free was given away"
        if command.wish is None:
            assert made.seat_ids == command.seat_ids
        else:
            assert self._suits(command.wish, made.seat_ids), f"{made.seat_ids} for {command.wish}"
        assert made.slot is not None
        assert made.slot not in self._live_slots(command.user_id, now)
        ends_at = now + 1000 * (self.event.hold_seconds or 0)
        hold = Hold(made.id, command.user_id, made.seat_ids, now, ends_at, made.slot)
        self.holds[hold.id] = self.slots[hold.user, hold.slot] = hold
        for seat_id in hold.seat_ids:
            self.taken[seat_id] = Taken(SeatStatus.HELD, hold.id, ends_at)
        self.remember(command, made, now)

    def _live_slots(self, user: str, now: int) -> set[int]:
        return {number for (who, number), hold in self.slots.items() if who == user and hold.ends_at > now}

    def _surely_free(self, seat_id: str, process: int, now: int, *, chosen: bool = True) -> bool:
        """For so long that no process may refuse it any more."""
        seat = self.taken[seat_id]
        freed_at = seat.freed_at[process] if seat.freed_at else _LONG_AGO
        return seat.free(now) and now - freed_at > (seat.remembered if chosen else _REFUSAL_MS)

    def _sections(self, wish: Wish) -> list[list[Seat]]:
        sections = [list(seats) for _, seats in groupby(self.seats, lambda seat: seat.section)]
        return [seats for seats in sections if wish.section in ("", seats[0].section)]

    def _fits(self, wish: Wish, free: Collection[str]) -> bool:
        """Whether some of the free seats are what is wished for."""
        return any(self._fits_in(wish, seats, free) for seats in self._sections(wish))

    def _fits_in(self, wish: Wish, section: list[Seat], free: Collection[str]) -> bool:
        if not section[0].row:
            return sum(seat.id in free and seat.accessible >= wish.accessible for seat in section) >= wish.quantity
        if not wish.allow_split:
            return any(all(seat_id in free for seat_id in window) for window in self._windows(wish, section))
        open_seats = [seat for seat in section if seat.id in free and seat.accessible <= wish.accessible]
        enough = len(open_seats) >= wish.quantity
        return enough and (not wish.accessible or any(seat.accessible for seat in open_seats))

    def _windows(self, wish: Wish, section: list[Seat]) -> Iterator[tuple[str, ...]]:
        """Adjacent seats of one row, with an accessible one just if that is wished."""
        for _, group in groupby(section, lambda seat: seat.row):
            row = list(group)
            for start in range(len(row) - wish.quantity + 1):
                window = row[start : start + wish.quantity]
                if any(seat.accessible for seat in window) is wish.accessible:
                    yield tuple(seat.id for seat in window)

    def _suits(self, wish: Wish, seat_ids: tuple[str, ...]) -> bool:
        return len(set(seat_ids)) == wish.quantity and self._fits(wish, seat_ids)

    # Keys

    def known(self, command: Command, now: int) -> Known | None:
        scope = self._scope(command)
        known = self.keys.get(scope) if scope is not None else None
        return known if known is not None and now < known.until else None

    def remember(self, command: Command, answer: Reservation, now: int) -> None:
        if (scope := self._scope(command)) is None:
            return
        until = now + self.key_window
        if isinstance(command, Create) and not command.idempotency_key:
            until = min(until, answer.hold_expires_at)
        self.keys[scope] = Known(content(command), answer, -(-until // 1000) * 1000)

    def _scope(self, command: Command) -> tuple[object, ...] | None:
        if command.idempotency_key:
            user = command.user_id if isinstance(command, Create) else self.holds[command.reservation_id].user
            return (type(command), user, command.idempotency_key)
        if isinstance(command, Create) and command.reservation_token:
            return (Create, command.user_id, content(command))
        return None

    # Changes

    def change(self, command: Change, process: int, clocks: Sequence[int]) -> Refusal | bool:
        """The error with which a new request is refused; else whether it changes anything."""
        hold, now = self.holds[command.reservation_id], clocks[process]
        if (
            isinstance(command, Confirm)
            and hold.status is Status.CONFIRMED
            and hold.payment == command.payment_intent_id
        ):
            return False
        if isinstance(command, Cancel) and hold.status is Status.CANCELLED:
            return False
        if hold.status is not Status.HOLD:
            return {
                Status.CONFIRMED: ReservationAlreadyConfirmed,
                Status.CANCELLED: ReservationAlreadyCancelled,
                Status.EXPIRED: ReservationExpired,
            }[hold.status]
        if hold.ends_at <= now:
            self.expire(hold, process, clocks)  # the refusal is final
            return ReservationExpired
        if isinstance(command, Extend):
            too_long = hold.ends_at + 1000 * command.seconds > hold.created_at + MAX_HOLD_MS
            if hold.extensions == MAX_EXTENSIONS or too_long:
                return HoldExtensionDenied
        if any(self.taken[seat_id].holder != hold.id for seat_id in hold.seat_ids):
            return ReservationExpired  # by a clock that is ahead somebody else has taken a seat
        return self._advance(command, hold, process, clocks)

    def _advance(self, command: Change, hold: Hold, process: int, clocks: Sequence[int]) -> Refusal | bool:
        has_slot = self.slots.get((hold.user, hold.slot)) is hold
        match command:
            case Extend():
                if not has_slot:
                    return HoldExtensionDenied
                hold.extensions += 1
                hold.version += 1
                hold.ends_at += 1000 * command.seconds
                for seat_id in hold.seat_ids:
                    self.taken[seat_id].until = hold.ends_at
            case Confirm():
                hold.payment = command.payment_intent_id
                self._end(hold, Status.CONFIRMED)
                for seat_id in hold.seat_ids:
                    self.taken[seat_id] = Taken(SeatStatus.SOLD, hold.id)
            case Cancel():
                self._end(hold, Status.CANCELLED)
                self._free(hold.seat_ids, process, clocks)
        return True

    def _end(self, hold: Hold, status: Status) -> None:
        hold.status = status
        hold.version += 1
        if self.slots.get((hold.user, hold.slot)) is hold:
            del self.slots[hold.user, hold.slot]

    def expire(self, hold: Hold, process: int, clocks: Sequence[int]) -> None:
        """Somebody looks whether its time is over."""
        if hold.status is Status.HOLD and hold.ends_at <= clocks[process]:
            self._end(hold, Status.EXPIRED)
            self._free([each for each in hold.seat_ids if self.taken[each].holder == hold.id], process, clocks)

    # Seats off sale

    def block(self, seat_id: str, now: int) -> bool:
        return self._move(seat_id, now, Taken(SeatStatus.BLOCKED))

    def unblock(self, seat_id: str, clocks: Sequence[int], now: int) -> bool:
        was = self.taken.get(seat_id)
        if was is None or was.status is SeatStatus.AVAILABLE:
            return was is not None
        blocked = was.status is SeatStatus.BLOCKED
        remembered = _BLOCK_REMEMBERED_MS if blocked else _REFUSAL_MS
        return self._move(seat_id, now, Taken(freed_at=_since(was, clocks), remembered=remembered))

    def _move(self, seat_id: str, now: int, after: Taken) -> bool:
        was = self.taken.get(seat_id)
        if was is None or not (was.free(now) or was.status is SeatStatus.BLOCKED):
            return False
        self.taken[seat_id] = after
        return True

    def _free(self, seat_ids: Collection[str], process: int, clocks: Sequence[int]) -> None:
        for seat_id in seat_ids:
            since = list(_since(self.taken[seat_id], clocks))
            since[process] = _LONG_AGO  # it knows at once
            self.taken[seat_id] = Taken(freed_at=tuple(since), remembered=_REFUSAL_MS)


def _since(seat: Taken, clocks: Sequence[int]) -> tuple[int, ...]:
    """Since when it is free that now comes free: to whom its hold is past it was so before."""
    return tuple(_LONG_AGO if seat.free(clock) else clock for clock in clocks)


def content(command: Command) -> Command:
    """Equal for equal requests."""
    if isinstance(command, Create):
        return replace(command, seat_ids=tuple(sorted(command.seat_ids)))
    return replace(command, owner=None)
