"""Chaos in a few seconds: many customers at once want the same seats of a small stage, try again, pay, think again and
forget. A seed gives the same customers again.

`python -m tests.chaos.play [--plays N] [--rounds N] [--seed N]` exits 1 if a promise was broken, and tells which.
"""

import argparse
import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field

import structlog
import uvloop

from reservation import ministack
from reservation.domain.model import Seat
from tests.bench.processes import forget_real_credentials
from tests.chaos.check import check
from tests.chaos.doors import Command, Reply, attempt_of
from tests.chaos.history import OK, UNKNOWN, Attempt, Door, Kind
from tests.chaos.small_stage import HALL, OFFSETS, SmallStage, send, small_stage
from tests.chaos.told import Bounds
from tests.chaos.violation import Violation
from tests.support.faults import LoseReply
from tests.support.store import EVENT, HOLD_MS, SKEW_MS, WINDOW_MS
from tests.support.verdicts import EVERYTHING_CONFLICTS, script_verdict, transaction

_GRACE_MS = 5_000
_MARGIN_MS = 10_000
"""Nobody tries again with a key that any process may have forgotten by then."""
_AT_ONCE = 6
_PATIENCE_SECONDS = (5.0, 5.0, 5.0, 0.02)
"""Customers with the last one never hear what became of most of their requests."""

_KINDS = (Kind.CONFIRM, Kind.CANCEL, Kind.CANCEL, Kind.EXTEND, Kind.EXTEND, Kind.GET, Kind.CHECK)


@dataclass(slots=True)
class Play:
    """`commands` were given so far, the newest last, with the time of each in milliseconds. `held` are the reservations
    that customers know of, each with its user. `untouched` seats nobody else wants."""

    stage: SmallStage
    rng: random.Random
    history: list[Attempt] = field(default_factory=list)
    commands: list[tuple[int, Command]] = field(default_factory=list)
    held: list[tuple[str, str]] = field(default_factory=list)
    untouched: Iterator[Seat] = field(default_factory=lambda: reversed(HALL))
    _numbers: int = 0
    _first_seat: float = 0.0

    async def round(self) -> None:
        """Several customers at once, and what goes on beside them; then time passes."""
        self._first_seat += 0.5
        if self.rng.random() < 0.3:
            await self._rush()
        elif self.rng.random() < 0.1:
            await self._lose_and_conflict()
        elif self.rng.random() < 0.2:
            await self._watch_the_end()
        what: list[Awaitable[object]] = [self._attempt(each) for each in self._wanted()]
        if self.rng.random() < 0.3:
            what.append(self.stage.expire(self.rng.choice(self.stage.parties)))
        if self.rng.random() < 0.3:
            what.append(self.stage.publish())
        if self.rng.random() < 0.3:
            what.append(self._let_pass(self.rng.randrange(2_000)))
        await asyncio.gather(*what)
        await self._let_pass(self.rng.choice((5, 100, 300, 1_000, HOLD_MS // 2, HOLD_MS - 300)))

    async def end(self) -> list[Violation]:
        """What is wrong with it all, when everything has settled."""
        await self.stage.venue.drain()
        calm_at = self.stage.now()
        self.stage.let_pass(5 * HOLD_MS)
        for _ in range(10):
            await self.stage.expire(self.stage.parties[1])
            await self.stage.publish()
            self.stage.let_pass(_GRACE_MS)
        bounds = Bounds(
            skew=max(OFFSETS),
            read_skew=SKEW_MS,
            hold=HOLD_MS,
            grace=_GRACE_MS,
            calm_at=calm_at,
            read_at=self.stage.now(),
            capacity={EVENT.id: len(HALL)},
        )
        return list(check(self.history, await self.stage.venue.rows(), self.stage.deliveries, bounds))

    async def _let_pass(self, milliseconds: int) -> None:
        await asyncio.sleep(self.rng.uniform(0, 0.01))
        self.stage.let_pass(milliseconds)

    # What customers do together

    async def _rush(self) -> None:
        """All want the same seats at once, and again after they were given back."""
        first = self._new_create()
        reply = await self._attempt(first)
        again = [first] * 2 if first.key else []
        rivals = [self._new_create(first.seat_ids) for _ in range(self.rng.randint(1, 3))]
        await asyncio.gather(*map(self._attempt, [*rivals, *again]))
        if reply.status == OK and reply.answer is not None:
            held = reply.answer.reservation_id
            await self._attempt(Command(Kind.CANCEL, first.user, f"return {first.user}", reservation_id=held))
            await self._let_pass(self.rng.choice((5, 300, 1_000)))
            await self._attempt(self._new_create(first.seat_ids))
        rivals = [self._new_create(first.seat_ids) for _ in range(_AT_ONCE)]
        await asyncio.gather(*map(self._attempt, rivals))

    async def _lose_and_conflict(self) -> None:
        """A customer without a key, whose create takes effect and is not answered. When it is tried again, somebody has
        its items in his hands; then it meets itself."""
        self.stage.store.script(transaction, LoseReply())
        script_verdict(self.stage.store, EVERYTHING_CONFLICTS)
        create = Command(Kind.CREATE, f"user-{self._next()}", event_id=EVENT.id, seat_ids=(next(self.untouched).id,))
        await self._attempt(create, patience=60.0)

    async def _watch_the_end(self) -> None:
        """A hold that nobody touches runs out, and is looked at about its end by whatever process."""
        create = self._new_create((next(self.untouched).id,))
        reply = await self._attempt(create, patience=60.0)
        if reply.answer is not None and reply.answer.hold_expires_at is not None:
            held = Command(Kind.GET, create.user, reservation_id=reply.answer.reservation_id)
            await self._let_pass(reply.answer.hold_expires_at - self.stage.now() - 500)
            for _ in range(6):
                await self._attempt(held)
                await self._let_pass(300)

    def _wanted(self) -> list[Command]:
        wanted = [self._command() for _ in range(self.rng.randint(1, _AT_ONCE))]
        if wanted[0].key and self.rng.random() < 0.3:
            wanted += [wanted[0]] * self.rng.randint(1, 2)
        return wanted

    # What one of them does

    def _command(self) -> Command:
        remembered = self.stage.now() - WINDOW_MS + _MARGIN_MS
        again = [each for given_at, each in self.commands[-12:] if each.key and given_at > remembered]
        if again and self.rng.random() < 0.25:
            return self.rng.choice(again)
        command = self._new_create() if not self.held or self.rng.random() < 0.35 else self._about_a_hold()
        self.commands.append((self.stage.now(), command))
        return command

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _new_create(self, seat_ids: tuple[str, ...] = ()) -> Command:
        """Of these seats, or of some others: what is sold is gone, so others are wanted as time goes by."""
        number, first = self._next(), int(self._first_seat) + self.rng.randrange(4)
        seats = seat_ids or tuple(seat.id for seat in HALL[first : first + self.rng.choice((1, 1, 2))])
        key = self.rng.choice(("", f"key-{number}"))
        return Command(Kind.CREATE, f"user-{number}", key, EVENT.id, seats)

    def _about_a_hold(self) -> Command:
        held, user = self.rng.choice(self.held[-4:])
        kind, key = self.rng.choice(_KINDS), f"key-{self._next()}"
        match kind:
            case Kind.CHECK:
                return Command(kind, "looker", event_id=EVENT.id, seat_ids=self._new_create().seat_ids)
            case Kind.GET:
                return Command(kind, user, reservation_id=held)
            case Kind.CONFIRM:
                return Command(kind, user, key, reservation_id=held, payment_id=self.rng.choice(("pay-1", "pay-2")))
            case Kind.EXTEND:
                return Command(kind, user, key, reservation_id=held, seconds=self.rng.randint(1, 40))
        return Command(kind, user, key, reservation_id=held)

    async def _attempt(self, command: Command, patience: float = 0.0) -> Reply:
        """`patience` in seconds: some, if it is not told."""
        party = self.rng.choice(self.stage.parties)
        self.stage.let_pass(1)
        called, number = self.stage.now(), len(self.history)
        self.history.append(attempt_of(command, Reply(UNKNOWN), number, Door.PROCESS, called, None))
        reply = await send(party, command, patience or self.rng.choice(_PATIENCE_SECONDS))
        self.stage.let_pass(1)
        self.history[number] = attempt_of(command, reply, number, Door.PROCESS, called, self.stage.now())
        if command.kind is Kind.CREATE and reply.status == OK and reply.answer is not None:
            self.held.append((reply.answer.reservation_id, command.user))
        return reply


async def _plays(plays: int, rounds: int, seed: int) -> list[Violation]:
    """One after the other, until one of them breaks a promise."""
    async with ministack.running() as emulator:
        for number in range(seed, seed + plays):
            rng = random.Random(number)
            async with small_stage(emulator.url, rng) as stage:
                play = Play(stage, rng)
                for _ in range(rounds):
                    await play.round()
                found = await play.end()
            told = Counter(f"{each.kind} {each.status}" for each in play.history)
            print(f"play {number}:", ", ".join(f"{what} {count}" for what, count in sorted(told.items())))
            if found:
                return found
    return []


def main() -> None:
    parser = argparse.ArgumentParser(prog="play", description=__doc__)
    parser.add_argument("--plays", type=int, default=4, help="with one seed after the other")
    parser.add_argument("--rounds", type=int, default=60, help="of each play")
    parser.add_argument("--seed", type=int, default=1, help="of the first play")
    arguments = parser.parse_args()
    forget_real_credentials()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found = uvloop.run(_plays(arguments.plays, arguments.rounds, arguments.seed))
    for violation in found:
        print("\n".join(violation.lines()))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
