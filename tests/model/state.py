"""What is in the tables, and what is under way."""

from typing import NamedTuple, TypeVar

FREE, HELD, SOLD = "free", "held", "sold"
HOLD, CONFIRMED, CANCELLED, EXPIRED = "hold", "confirmed", "cancelled", "expired"
CREATE, CONFIRM, CANCEL, EXTEND, SETTLE = "create", "confirm", "cancel", "extend", "settle"
KEY, RESERVATION, SEAT, SLOT, ORDER, OUTBOX = "key", "reservation", "seat", "slot", "order", "outbox"

T = TypeVar("T")

KEYED_COMMANDS = (CREATE, CONFIRM, CANCEL, EXTEND)

HOLD_TIME, EXTENSION, SKEW = 2, 1, 1
MAX_EXTENSIONS = 1
NOBODY = GONE = -1
ANY_TIME = (0, HOLD_TIME, HOLD_TIME + EXTENSION)  # before and after the end of a hold, and of one that was extended


class Seat(NamedTuple):
    """`holder`: the number of a reservation. A sold seat has no end of a hold (GONE)."""

    number: int
    status: str = FREE
    holder: int = NOBODY
    ends: int = GONE
    price: int = 0


class Slot(NamedTuple):
    """The one hold that a user may have. A free one has no item."""

    holder: int
    ends: int


class Reservation(NamedTuple):
    """`op` is the attempt that wrote this version, `extended_by` those that extended it; 0: one that has ended.

    What only claims look at: `events`, the rows written to the outbox; `told_expired`, whether anybody was told so."""

    user: int
    seats: tuple[int, ...]
    prices: tuple[int, ...]
    status: str
    version: int
    ends: int
    op: int
    extensions: int = 0
    extended_by: tuple[int, ...] = ()
    events: int = 0
    told_expired: bool = False


class Answer(NamedTuple):
    """What a caller is told of a command that took effect: the reservation as that command left it."""

    reservation: int
    status: str
    version: int
    ends: int
    prices: tuple[int, ...]


class Record(NamedTuple):
    """Of an idempotency key. `effects`, for claims: the commands that took effect while it was not forgotten."""

    op: int
    content: tuple[int, ...]
    answer: Answer
    ends: int
    effects: int = 1


class Attempt(NamedTuple):
    """A process's work on one request, from its read to its answer: what it has read, and what it found out since.

    `op` is its own name. `applied`: it took effect, and the reply was lost. `settling`: it found the hold past its time
    and records the end of it first, because the refusal must be final. `overtaken`: a try of it, with all that it
    asserts, may still be on its way."""

    command: str
    user: int
    keyed: bool
    reservation: int
    op: int
    seats: tuple[int, ...]
    prices: tuple[int, ...]
    slot: bool
    ends: int
    version: int = 0
    extensions: int = 0
    applied: bool = False
    settling: bool = False
    overtaken: bool = False

    @property
    def content(self) -> tuple[int, ...]:
        """What makes two requests under one key equal."""
        return self.seats if self.command == CREATE else (self.reservation,)


class Late(NamedTuple):
    """A try that was not answered in time and is still on its way: `sent` as its attempt was then, and at `now`.

    What only claims look at: `refused`, its caller has been told since that nothing happened; `refused_again`, its
    caller has asked again, with the same key, and was told so then."""

    sent: Attempt
    now: int
    refused: bool = False
    refused_again: bool = False


class State(NamedTuple):
    """Everything at one instant. `time`: what the slowest clock says; None if clocks say anything. In the tables are
    `seats`, `slots` (by user), `reservations`, `records` (by user and command) and `orders` (how many were written, by
    reservation). `attempts` are under way. `starts`: how many more may begin; `reprices`: prices may yet change so
    often; `delays`: so many more tries may be `late`, one at a time."""

    time: int | None
    seats: tuple[Seat, ...]
    slots: tuple[Slot | None, ...]
    reservations: tuple[Reservation | None, ...]
    records: tuple[Record | None, ...]
    orders: tuple[int, ...]
    attempts: tuple[Attempt, ...]
    starts: int
    reprices: int
    delays: int
    late: Late | None = None


def key_of(mine: Attempt) -> int:
    """Where its record is among the records."""
    return mine.user * len(KEYED_COMMANDS) + KEYED_COMMANDS.index(mine.command)


def answer_of(state: State, number: int) -> Answer:
    """What a caller is told of it as it is."""
    there = state.reservations[number]
    assert there is not None
    return Answer(number, there.status, there.version, there.ends, there.prices)


def told_expired(state: State, number: int) -> State:
    """Somebody has said of this reservation that it is expired."""
    there = state.reservations[number]
    assert there is not None
    told = there._replace(told_expired=there.status == HOLD)  # of one that is settled everybody knows
    return state._replace(reservations=put(state.reservations, number, told))


def at_work(state: State) -> tuple[Attempt, ...]:
    """Whatever may yet write something."""
    return (*state.attempts, state.late.sent) if state.late is not None else state.attempts


def moved(state: State, before: Attempt, after: Attempt) -> State:
    others = (each for each in state.attempts if each != before)
    return state._replace(attempts=tuple(sorted((*others, after))))


def ended(state: State, mine: Attempt) -> State:
    """Nobody will look for its name any more, so equal states are made equal: it is forgotten."""
    attempts = tuple(each for each in state.attempts if each != mine)
    reservations, records = state.reservations, state.records
    for number, there in enumerate(reservations):
        if there is not None and (there.op == mine.op or mine.op in there.extended_by):
            by = tuple(op for op in there.extended_by if op != mine.op)
            op = 0 if there.op == mine.op else there.op
            reservations = put(reservations, number, there._replace(op=op, extended_by=by))
    for key, record in enumerate(records):
        if record is not None and record.op == mine.op:
            records = put(records, key, record._replace(op=0))
    return state._replace(attempts=attempts, reservations=reservations, records=records)


def put(items: tuple[T, ...], number: int, item: T) -> tuple[T, ...]:
    return (*items[:number], item, *items[number + 1 :])
