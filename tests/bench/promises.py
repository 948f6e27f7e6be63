"""Counts broken promises after a sale: what customers were told against what the tables hold and what a queue received.

It counts on its own, beside the audit, which has not heard the customers.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reservation.audit.promises import Snapshot
from reservation.domain.model import Reservation, Status

Received = Mapping[str, set[int]]
"""Versions by reservation id."""


@dataclass(frozen=True, slots=True)
class Held:
    """A hold that a customer was told of: sure of these seats since the answer came and until the deadline, in seconds
    since the epoch."""

    seats: tuple[str, ...]
    since: float
    until: float


@dataclass(slots=True)
class Told:
    """What customers were told, by reservation id, and how many answers of which kind there were."""

    held: dict[str, Held] = field(default_factory=dict)
    sold: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)


def doubly_held(told: Told, snapshot: Snapshot) -> list[str]:
    """Seats of which two customers were sure at one moment. Who has bought is sure for ever."""
    claims: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for held in _claims(told, snapshot):
        for seat in held.seats:
            claims[seat].append((held.since, held.until))
    return [seat for seat, each in claims.items() if _overlap(each)]


def _claims(told: Told, snapshot: Snapshot) -> Iterator[Held]:
    bought = told.sold | {each.id for each in snapshot.reservations.values() if each.status is Status.CONFIRMED}
    for reservation_id in told.held.keys() | bought:
        held = told.held.get(reservation_id) or _untold(snapshot.reservations[reservation_id])
        until = math.inf if reservation_id in bought else held.until
        yield Held(held.seats, held.since, until)


def _untold(sold: Reservation) -> Held:
    """Of a customer whose answers got lost."""
    return Held(sold.seat_ids, sold.updated_at / 1000, math.inf)


def _overlap(claims: list[tuple[float, float]]) -> bool:
    latest = -math.inf
    for since, until in sorted(claims):
        if since >= until:
            continue  # the answer came after the hold's end: its customer was never sure
        if since < latest:
            return True
        latest = until
    return False


def unkept(told: Told, snapshot: Snapshot) -> list[str]:
    """Reservations that customers were told of and that are not stored so."""
    return [reservation_id for reservation_id in told.held if not _kept(reservation_id, told, snapshot)]


def _kept(reservation_id: str, told: Told, snapshot: Snapshot) -> bool:
    stored = snapshot.reservations.get(reservation_id)
    return stored is not None and (reservation_id not in told.sold or stored.status is Status.CONFIRMED)


def lost_events(told: Told, snapshot: Snapshot, received: Received) -> set[tuple[str, int]]:
    """Versions of reservations, stored or told, that the queue never received."""
    owed = {(each.id, version) for each in snapshot.reservations.values() for version in range(1, each.version + 1)}
    owed |= {(reservation_id, 1) for reservation_id in told.held} | {
        (reservation_id, 2) for reservation_id in told.sold
    }
    return owed - {(reservation_id, version) for reservation_id, seen in received.items() for version in seen}


def stuck(snapshot: Snapshot, now: int) -> list[str]:
    """Holds past their end, at `now` in milliseconds since the epoch."""
    holds = (each for each in snapshot.reservations.values() if each.status is Status.HOLD)
    return [held.id for held in holds if held.hold_expires_at < now]
