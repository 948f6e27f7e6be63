"""Customers: they want seats that others want too, pay, think again, forget to pay, and try again with the same key
until they have an answer."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import count

from tests.chaos.doors import Command, Entrance, Reply, attempt_of
from tests.chaos.history import OK, UNKNOWN, Answer, Journal, Kind
from tests.chaos.system import EVENT_ID, FLOOR, HOLD_SECONDS, STANDING, Hall
from tests.chaos.told import REFUSALS

_PATIENCE_SECONDS = 15.0
_BACK_OFF_SECONDS, _BACK_OFF_CAP_SECONDS = 0.25, 2.0
_AVOIDED_SECONDS = 2.0
"""For so long no customer asks a process that has not answered: so clients do that know several."""

_NAMING_SEATS = 0.85

# Seats are wanted from two windows that move through the hall, because what is sold is gone: from a narrow one, where
# most are taken, and from a wide one, where most are free.
_NARROW, _NARROW_PER_SECOND = 60, 5.0
_WIDE, _WIDE_PER_SECOND = 900, 12.0
_WANTING_NARROW = 0.45
_STANDING_PER_SECOND = 1.5
_LONGER = 1.5
"""A run on a busy machine may last so many times as long as it should. Then the windows stand still."""

Visit = Callable[["_Visitor", Answer], Awaitable[None]]


def hall_for(seconds: float) -> Hall:
    """So large that both windows can move as long as a run of so many seconds may last."""
    seats = round(_LONGER * seconds * (_NARROW_PER_SECOND + _WIDE_PER_SECOND)) + _NARROW + _WIDE
    return Hall(seats, places=round(_LONGER * seconds * _STANDING_PER_SECOND) + _NARROW)


class Customers:
    """What all customers have in common. `entrances`: the ways in. `seconds`: how long they should come. `answers`
    counts by kind and status."""

    def __init__(self, seed: int, entrances: Sequence[Entrance], journal: Journal, seconds: float) -> None:
        self._seed = seed
        self._entrances = entrances
        self._journal = journal
        self._seconds = seconds
        self._wide_from = round(_LONGER * seconds * _NARROW_PER_SECOND) + _NARROW
        self._numbers = count(1)
        self._began = time.monotonic()
        self._visits = count(1)
        self._avoided: dict[str, float] = {}
        self.answers: Counter[tuple[Kind, str]] = Counter()

    async def come(self, at_once: int, enough: asyncio.Event) -> None:
        """So many are there, and the next comes when one has left: a system that is slow is asked less. Returns when
        there were enough and the last has left."""
        async with asyncio.TaskGroup() as there:
            for _ in range(at_once):
                there.create_task(self._come_one_by_one(enough))

    async def _come_one_by_one(self, enough: asyncio.Event) -> None:
        while not enough.is_set():
            number = next(self._visits)
            await _Visitor(self, random.Random(f"{self._seed}/{number}"), f"user-{number}").visit()

    def wanted(self, rng: random.Random) -> tuple[str, ...]:
        """A seat or a few that are beside each other."""
        elapsed = min(time.monotonic() - self._began, _LONGER * self._seconds)
        if rng.random() < _WANTING_NARROW:
            first = elapsed * _NARROW_PER_SECOND + rng.randrange(_NARROW - 3)
        else:
            first = self._wide_from + elapsed * _WIDE_PER_SECOND + rng.randrange(_WIDE - 3)
        return tuple(f"S-{int(first) + each}" for each in range(rng.choice((1, 1, 1, 2, 2, 3))))

    def entrance(self, rng: random.Random, kind: Kind) -> Entrance:
        open_ = [each for each in self._entrances if each.takes(kind)]
        now = time.monotonic()
        return rng.choice([each for each in open_ if self._avoided.get(each.process, 0.0) <= now] or open_)

    async def attempt(self, entrance: Entrance, command: Command) -> Reply:
        """One request, noted."""
        number, called = next(self._numbers), time.time_ns() // 1_000_000
        reply = await entrance.send(command)
        if entrance.process and reply.status == UNKNOWN:
            self._avoided[entrance.process] = time.monotonic() + _AVOIDED_SECONDS
        answered = -(-time.time_ns() // 1_000_000)
        attempt = attempt_of(command, reply, number, entrance.door, called, answered, entrance.process)
        self._journal.note(attempt)
        self.answers[command.kind, reply.status] += 1
        return reply


class _Visitor:
    """One customer, who comes through any entrance each time."""

    def __init__(self, customers: Customers, rng: random.Random, user: str) -> None:
        self.rng = rng
        self._customers = customers
        self._user = user
        self._keys = count(1)

    async def visit(self) -> None:
        create = self._wish()
        if self.rng.random() < 0.3:
            await self._check(create.seat_ids)
        held = await (self._twice(create) if self.rng.random() < 0.08 else self.insist(create))
        if held is None:
            await self._check(create.seat_ids)
            return
        (goes_on,) = self.rng.choices(list(_VISITS), weights=list(_VISITS.values()))
        await goes_on(self, held)
        await self.look(held)
        if self.rng.random() < 0.2:
            await self.insist(create)  # a retry that comes long after

    async def insist(self, command: Command) -> Answer | None:
        """The answer; None: it was refused, or the customer has lost patience."""
        until = time.monotonic() + _PATIENCE_SECONDS
        for back_off in (_BACK_OFF_SECONDS * 2**tries for tries in count()):
            reply = await self._customers.attempt(self._customers.entrance(self.rng, command.kind), command)
            if reply.status == OK or reply.status in REFUSALS or time.monotonic() >= until:
                return reply.answer if reply.status == OK else None  # a refusal has an answer too
            await asyncio.sleep(self.rng.uniform(0, min(_BACK_OFF_CAP_SECONDS, back_off)))
        raise AssertionError("patience has an end")

    async def command(self, kind: Kind, held: Answer, *, payment_id: str = "", seconds: int = 0) -> Answer | None:
        command = self._keyed(kind, reservation_id=held.reservation_id, payment_id=payment_id, seconds=seconds)
        answer = await self.insist(command)
        if self.rng.random() < 0.3:
            await self.insist(command)
        return answer

    async def pay(self, held: Answer) -> Answer | None:
        return await self.command(Kind.CONFIRM, held, payment_id=f"pay-{self._user}")

    async def look(self, held: Answer, times: int = 1) -> None:
        for _ in range(times):
            get = Command(Kind.GET, self._user, reservation_id=held.reservation_id)
            await self._customers.attempt(self._customers.entrance(self.rng, Kind.GET), get)

    async def wait(self, least: float, most: float, held: Answer) -> None:
        """Looks at the reservation meanwhile."""
        until = time.monotonic() + self.rng.uniform(least, most)
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self.rng.uniform(0.1, 0.5)))
            await self.look(held)

    def _wish(self) -> Command:
        """Seats that are named, or so many that the service chooses."""
        if self.rng.random() < _NAMING_SEATS:
            return self._keyed(Kind.CREATE, event_id=EVENT_ID, seat_ids=self._customers.wanted(self.rng))
        quantity, section = self.rng.randint(1, 3), self.rng.choice((FLOOR, STANDING))
        return self._keyed(Kind.CREATE, event_id=EVENT_ID, quantity=quantity, section=section)

    async def _check(self, seats: tuple[str, ...]) -> None:
        if not seats:
            return
        check = Command(Kind.CHECK, self._user, event_id=EVENT_ID, seat_ids=seats)
        await self._customers.attempt(self._customers.entrance(self.rng, Kind.CHECK), check)

    async def _twice(self, command: Command) -> Answer | None:
        """The same from two devices at once."""
        answers = await asyncio.gather(self.insist(command), self.insist(command))
        return answers[0] or answers[1]

    def _keyed(self, kind: Kind, **about: object) -> Command:
        command = Command(kind, self._user, key=f"{self._user}/{kind}/{next(self._keys)}")
        return replace(command, **about)  # type: ignore[arg-type]


# What customers do with seats that they hold.


async def _pay_soon(visitor: _Visitor, held: Answer) -> None:
    await visitor.wait(0, 2, held)
    await visitor.pay(held)
    await visitor.look(held, 2)


async def _pay_about_too_late(visitor: _Visitor, held: Answer) -> None:
    await visitor.wait(HOLD_SECONDS - 3, HOLD_SECONDS + 3, held)
    await visitor.pay(held)


async def _extend_and_pay(visitor: _Visitor, held: Answer) -> None:
    await visitor.wait(0, HOLD_SECONDS, held)
    longer = await visitor.command(Kind.EXTEND, held, seconds=visitor.rng.randint(1, 5))
    await visitor.wait(0, 3 if longer is None else HOLD_SECONDS, held)
    await visitor.pay(held)


async def _extend_and_forget(visitor: _Visitor, held: Answer) -> None:
    await visitor.wait(0, 2, held)
    await visitor.command(Kind.EXTEND, held, seconds=visitor.rng.randint(1, 3))
    await visitor.wait(0, HOLD_SECONDS + 6, held)


async def _cancel(visitor: _Visitor, held: Answer) -> None:
    await visitor.wait(0, HOLD_SECONDS, held)
    await visitor.command(Kind.CANCEL, held)
    await visitor.look(held, 2)


async def _pay_and_cancel_at_once(visitor: _Visitor, held: Answer) -> None:
    await visitor.wait(0, HOLD_SECONDS, held)
    await asyncio.gather(visitor.pay(held), visitor.command(Kind.CANCEL, held))


async def _forget(visitor: _Visitor, held: Answer) -> None:
    await visitor.wait(0, HOLD_SECONDS + 4, held)


_VISITS: dict[Visit, int] = {
    _pay_soon: 18,
    _pay_about_too_late: 14,
    _extend_and_pay: 8,
    _extend_and_forget: 8,
    _cancel: 20,
    _pay_and_cancel_at_once: 6,
    _forget: 26,
}
"""And how many in a hundred do so."""
