"""Customers who buy through gRPC as good clients do, and keep every answer, so that it can be held against the tables.

A call that may have had an effect is repeated with the same key, on any process, until there is a definite answer.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random

import betterproto2
import grpc

from reservation.audit.promises import Snapshot
from reservation.domain.model import Reservation, SeatStatus, Status
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.system import EVENT_ID, Answer, Refusal, call, create_request, refusal_of

_UNDECIDED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
}
_CALL_SECONDS, _PATIENCE_SECONDS = 4.0, 60.0
_REFUSALS = {"SEAT_UNAVAILABLE", "RESERVATION_EXPIRED"}


@dataclass(slots=True)
class Visit:
    """What one customer wanted and was told. `told` is the last definite answer: a status, SEAT_UNAVAILABLE, or
    RESERVATION_EXPIRED; empty before the first. `undecided`: calls that may or may not have had an effect."""

    user: str
    seat_ids: tuple[str, ...]
    told: str = ""
    reservation_id: str = ""
    order_id: str = ""
    undecided: int = 0


@dataclass(slots=True)
class Crowd:
    """`channels` gives those that can be reached. Of what customers get, they pay for `paid`, give back `given_back`
    and forget the rest; both are probabilities."""

    channels: Callable[[], Sequence[grpc.aio.Channel]]
    seat_ids: Sequence[str]
    paid: float = 0.15
    given_back: float = 0.35
    visits: list[Visit] = field(default_factory=list)
    _over: bool = False

    def told(self) -> Counter[str]:
        """How many customers have heard each last answer so far."""
        return Counter(visit.told for visit in self.visits)

    async def until_told(self, more: int) -> None:
        """Waits until so many customers more have got seats."""
        wanted = self._held() + more
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while self._held() < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def _held(self) -> int:
        return sum(visit.reservation_id != "" for visit in self.visits)

    @asynccontextmanager
    async def buying(self, customers: int = 8) -> AsyncIterator[None]:
        """So many at a time, inside the block; at its end each goes on until it has its definite answers."""
        self._over = False
        async with asyncio.TaskGroup() as group:
            for number in range(customers):
                group.create_task(self._customer(f"{len(self.visits)}/{number}"))
            yield
            self._over = True

    async def _customer(self, name: str) -> None:
        rng = Random(name)
        for turn in count():
            if self._over:
                return
            first = rng.randrange(len(self.seat_ids) - 1)
            visit = Visit(f"{name}/{turn}", tuple(self.seat_ids[first : first + rng.choice((1, 2))]))
            self.visits.append(visit)
            await self._play(visit, rng)
            await asyncio.sleep(rng.uniform(0, 0.3))  # customers think

    async def _play(self, visit: Visit, rng: Random) -> None:
        create = create_request(visit.seat_ids, user_id=visit.user, idempotency_key="create")
        held = await self._insist(visit, rng, create)
        if held is None:
            return
        visit.reservation_id = held.message.reservation_id
        about = {"reservation_id": visit.reservation_id, "user_id": visit.user}
        if (chance := rng.random()) < self.paid:
            confirm = messages.ConfirmReservationRequest(
                **about, payment_intent_id=f"pay {visit.user}", idempotency_key="pay"
            )
            if (sold := await self._insist(visit, rng, confirm)) is not None:
                visit.order_id = sold.message.order_id
        elif chance < self.paid + self.given_back:
            await self._insist(visit, rng, messages.CancelReservationRequest(**about, idempotency_key="return"))

    async def _insist(self, visit: Visit, rng: Random, request: betterproto2.Message) -> Answer | None:
        """The answer; None for a refusal. Both are noted."""
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < give_up:
            try:
                answer = await call(rng.choice(self.channels()), request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if (refusal := _definite(error)) is not None:
                    assert refusal.reason in _REFUSALS, (visit, refusal)
                    visit.told = refusal.reason
                    return None
            else:
                visit.told = answer.message.status.name
                return answer
            visit.undecided += 1
            await asyncio.sleep(rng.uniform(0.02, 0.1))
        raise AssertionError(f"no definite answer within {_PATIENCE_SECONDS:g} s: {visit}")


def _definite(error: grpc.aio.AioRpcError) -> Refusal | None:
    return None if error.code() in _UNDECIDED else refusal_of(error)


def lies(visits: Iterable[Visit], snapshot: Snapshot) -> Iterator[str]:
    """The answers that are not true of the tables after every hold has ended, in words."""
    made: dict[str, list[Reservation]] = defaultdict(list)
    for reservation in snapshot.reservations.values():
        made[reservation.user_id].append(reservation)
    for visit in visits:
        found = made[visit.user]
        if len(found) > 1:
            yield f"{visit} made {len(found)} reservations under one key"
        elif visit.reservation_id:
            yield from _lies_about(visit, found[0] if found else None, snapshot)
        elif visit.told != "SEAT_UNAVAILABLE" or (found and not visit.undecided):
            yield f"{visit} made {found}"
        elif found and found[0].status is not Status.EXPIRED:
            # A try before the refusal came through after all: nobody knows of that hold, so it can only have run out.
            yield f"{visit} was refused and is {found[0].status}"


_ENDS_AS = {
    "HOLD": Status.EXPIRED,
    "RESERVATION_EXPIRED": Status.EXPIRED,
    "CONFIRMED": Status.CONFIRMED,
    "CANCELLED": Status.CANCELLED,
}


def _lies_about(visit: Visit, found: Reservation | None, snapshot: Snapshot) -> Iterator[str]:
    if found is None or (found.id, found.seat_ids) != (visit.reservation_id, visit.seat_ids):
        yield f"{visit} is {found} in the tables"
    elif found.status is not _ENDS_AS[visit.told]:
        yield f"{visit} ended as {found.status}"
    elif visit.told == "CONFIRMED":
        if (visit.order_id, visit.reservation_id) not in snapshot.orders or found.order_id != visit.order_id:
            yield f"{visit} has no such order"
        for seat_id in visit.seat_ids:
            seat = snapshot.seats[f"{EVENT_ID}#{seat_id}"]
            if (seat.status, seat.holder) != (SeatStatus.SOLD, visit.reservation_id):
                yield f"{visit} was sold {seat_id}, which is {seat}"
