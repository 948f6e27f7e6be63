"""What a history, the final tables and the delivered events tell, by command, by reservation and by seat."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reservation.domain.model import Reservation
from reservation.dynamodb.items import SeatState, reservation_from_item, seat_state_from_item
from tests.chaos.history import Attempt, Delivery, Door, Kind
from tests.support.invariants import Rows

REFUSALS = frozenset(
    {
        "EVENT_NOT_FOUND",
        "FORBIDDEN",
        "HOLD_EXTENSION_DENIED",
        "HOLD_LIMIT_REACHED",
        "IDEMPOTENCY_CONFLICT",
        "INVALID_REQUEST",
        "MISSING_IDEMPOTENCY_KEY",
        "RESERVATION_ALREADY_CANCELLED",
        "RESERVATION_ALREADY_CONFIRMED",
        "RESERVATION_EXPIRED",
        "RESERVATION_NOT_FOUND",
        "SALE_NOT_OPEN",
        "SEAT_UNAVAILABLE",
        "UNAUTHENTICATED",
    }
)
"""Definite: the command was looked at, and this attempt changed nothing."""

_NOT_TAKEN_IN = frozenset({"RATE_LIMIT_EXCEEDED"})


@dataclass(frozen=True, slots=True)
class Bounds:
    """In milliseconds. `skew`: what any process's clock may differ from this machine's, either way. `read_skew`:
    MAX_CLOCK_SKEW_SECONDS of the processes. `hold`: how long a hold is made for. `stale`: how old a refusal may be.
    `distrust`: how long a process that was frozen may not believe its clock, and so tell of a HOLD beyond its time.
    `grace`: how long after its time, or after the faults stopped at `calm_at`, a hold or an event may be unsettled.
    `read_at`: when the tables were read. `capacity`: the seats of each event."""

    skew: int
    read_skew: int
    hold: int
    grace: int
    calm_at: int
    read_at: int
    capacity: Mapping[str, int]
    key_window: int = 300_000
    stale: int = 250
    distrust: int = 0


def may_have_effect(attempt: Attempt) -> bool:
    """Whether this very attempt may have changed something, or may still. Envoy says SERVICE_UNAVAILABLE, too, when a
    process dies with a request; from a process itself it means that nothing happened."""
    if attempt.status in REFUSALS or attempt.status in _NOT_TAKEN_IN:
        return False
    return not (attempt.status == "SERVICE_UNAVAILABLE" and attempt.door is Door.PROCESS)


@dataclass(slots=True)
class Command:
    """All attempts under one key; without a key each is a command of its own. In the order of their calls."""

    attempts: list[Attempt]

    @property
    def first(self) -> Attempt:
        return self.attempts[0]

    @property
    def oks(self) -> list[Attempt]:
        return [each for each in self.attempts if each.ok]

    @property
    def originals(self) -> list[Attempt]:
        """Those whose answer says that they did it themselves."""
        return [each for each in self.attempts if each.ok and not each.replayed]

    @property
    def may_have_effect(self) -> bool:
        return any(map(may_have_effect, self.attempts))

    @property
    def start(self) -> int:
        """No effect comes before it."""
        own = self.originals or [each for each in self.attempts if may_have_effect(each)] or self.attempts
        return min(each.called for each in own)

    @property
    def end(self) -> int | None:
        """The effect comes no later; None: it may come any time, or never."""
        return min((each.answered for each in self.oks if each.answered is not None), default=None)


@dataclass(slots=True)
class Story:
    """All that is known of one reservation. `stored`: how it ended (None: it is not in the tables). `create`: None if
    nobody asked for it. `events`: the first delivery of each version."""

    id: str
    stored: Reservation | None = None
    create: Command | None = None
    commands: list[Command] = field(default_factory=list)
    gets: list[Attempt] = field(default_factory=list)
    events: dict[int, Delivery] = field(default_factory=dict)

    def of(self, kind: Kind) -> list[Command]:
        """The commands of this kind that may have had an effect."""
        return [each for each in self.commands if each.first.kind is kind and each.may_have_effect]

    def told_of(self, type_: str) -> list[Delivery]:
        """Its events of a type, as reservation.TYPE."""
        return [each for _, each in sorted(self.events.items()) if each.detail["type"] == f"reservation.{type_}"]

    def first_end(self, hold: int) -> int:
        """Until when the hold was made at first."""
        if self.create is not None:
            for each in self.create.oks:
                if each.answer is not None and each.answer.hold_expires_at is not None:
                    return each.answer.hold_expires_at
        assert self.stored is not None
        return self.stored.created_at + hold

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        commands = [*([self.create] if self.create else []), *self.commands]
        found = [each for command in commands for each in command.attempts] + self.gets
        return tuple(sorted(found, key=lambda each: each.number))


@dataclass(slots=True)
class Told:
    """`stories` by reservation id. `tokens`: the ids of the reservations that each create has made, by its name."""

    bounds: Bounds
    commands: list[Command]
    stories: dict[str, Story]
    tokens: Mapping[str, Sequence[str]]
    seats: Mapping[str, SeatState]
    orders: Mapping[str, str]
    checks: Sequence[Attempt]


def told(history: Iterable[Attempt], rows: Rows, deliveries: Iterable[Delivery], bounds: Bounds) -> Told:
    stories: dict[str, Story] = {}
    tokens: dict[str, list[str]] = defaultdict(list)
    for stored in map(reservation_from_item, rows.reservations):
        stories[stored.id] = Story(stored.id, stored)
        tokens[stored.reservation_token or stored.user_id].append(stored.id)
    for delivery in deliveries:
        story = _story(stories, delivery.detail["reservation"]["reservationId"])
        story.events.setdefault(delivery.detail["version"], delivery)
    commands, checks = _commands(history, stories)
    for command in commands:
        _attach(command, stories, tokens)
    return Told(
        bounds,
        commands,
        stories,
        tokens,
        {pk: seat_state_from_item(item) for pk, item in rows.seats.items()},
        {order["reservationId"]["S"]: order["orderId"]["S"] for order in rows.orders},
        checks,
    )


def _story(stories: dict[str, Story], reservation_id: str) -> Story:
    return stories.setdefault(reservation_id, Story(reservation_id))


def _commands(history: Iterable[Attempt], stories: dict[str, Story]) -> tuple[list[Command], list[Attempt]]:
    keyed: dict[Any, Command] = {}
    checks: list[Attempt] = []
    for attempt in sorted(history, key=lambda each: each.number):
        match attempt.kind:
            case Kind.GET:
                _story(stories, attempt.reservation_id).gets.append(attempt)
            case Kind.CHECK:
                checks.append(attempt)
            case _:
                name = (attempt.user, attempt.kind, attempt.key) if attempt.key else attempt.number
                keyed.setdefault(name, Command([])).attempts.append(attempt)
    return list(keyed.values()), checks


def _attach(command: Command, stories: dict[str, Story], tokens: Mapping[str, Sequence[str]]) -> None:
    if command.first.kind is not Kind.CREATE:
        _story(stories, command.first.reservation_id).commands.append(command)
        return
    ids = {each.answer.reservation_id for each in command.oks if each.answer is not None}
    for reservation_id in ids.union(tokens.get(command.first.name, ())):
        _story(stories, reservation_id).create = command
