"""What operators look into and put right: dead letters, leases, shards, and the audit."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reservation import app
from reservation.audit.promises import Graces, Snapshot
from reservation.audit.queue import EventQueue
from reservation.audit.reading import Audit
from reservation.aws.client import AwsClient
from reservation.aws.session import connect, session
from reservation.clock import Clock
from reservation.domain.model import Event
from reservation.dynamodb.events import SeatBlocks, find_event, read_hall
from reservation.dynamodb.items import DeadLetter
from reservation.dynamodb.leases import NOBODY, LeaseTable
from reservation.dynamodb.outbox import Outbox
from reservation.dynamodb.retirement import LASTING_SHARD, NotRetirable, is_empty, retire
from reservation.settings import Settings

_MoveSeat = Callable[[SeatBlocks, str, str], Awaitable[bool]]

# "#" parts a shard's rows from its dead letters, and nothing can be written under an empty name.
_SHARD_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")


class Operators:
    """One method a command. Each prints to `out` and returns whether all is well. `clock`: this machine's."""

    def __init__(self, settings: Settings, client: AwsClient, out: Console, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._client = client
        self._out = out
        self._clock = clock or Clock(lambda: client.server_date)
        self._tables = app.tables_of(settings)
        self._outbox = Outbox(client, self._tables.outbox)
        self._leases = LeaseTable(client, self._tables.leases, lease_seconds=settings.lease_seconds)

    # Dead letters

    async def list_dead(self) -> bool:
        """Every dead letter, one a line. False if there are any."""
        table = _table("shard", "seq", "type", "error", "died")
        async for letter in self._dead():
            row = letter.row
            table.add_row(row.shard, row.seq, row.type, letter.error_code, _time(letter.died_at))
        self._out.print(table if table.row_count else "no dead letters")
        return table.row_count == 0

    async def show_dead(self, shard: str, seq: str) -> bool:
        letter = await self._outbox.show(shard, seq)
        if letter is None:
            self._out.print("no such dead letter")
            return False
        self._out.print(f"{letter.error_code}: {letter.error_message}", markup=False)
        try:
            self._out.print_json(letter.row.detail)
        except ValueError:  # for which the bus may have refused it
            self._out.print(letter.row.detail, markup=False, highlight=False, soft_wrap=True)
        return True

    async def replay_dead(self, shard: str | None, seq: str | None) -> bool:
        """One dead letter, or all: back to where they came from."""
        replayed = [letter async for letter in self._chosen(shard, seq) if await self._outbox.replay(letter.row)]
        self._out.print(f"{len(replayed)} replayed")
        return bool(replayed) or seq is None

    async def purge_dead(self, shard: str, seq: str) -> bool:
        """Its event will never be published."""
        purged = [letter async for letter in self._chosen(shard, seq)]
        for letter in purged:
            await self._outbox.purge(letter.row)
        self._out.print(f"{len(purged)} purged")
        return bool(purged)

    async def _chosen(self, shard: str | None, seq: str | None) -> AsyncIterator[DeadLetter]:
        async for letter in self._dead():
            if shard in (None, letter.row.shard) and seq in (None, letter.row.seq):
                yield letter

    async def _dead(self) -> AsyncIterator[DeadLetter]:
        names = [shard.name for shard in (await self._leases.scan()).shards]
        async for letter in self._outbox.dead(names):
            yield letter

    # Events

    async def show_event(self, event_id: str) -> bool:
        """Its settings, and the counts of each section by the newest hints."""
        event = await find_event(self._client, self._tables.inventory, event_id)
        if event is None:
            self._out.print("no such event")
            return False
        for name, value in _described(event):
            self._out.print(f"{name:<24}{value}", markup=False, soft_wrap=True)
        table = _table("section", "kind", "total", "available", "held", "sold", "blocked")
        hall = await read_hall(self._client, self._tables.inventory, event_id)
        for counts in hall.counts(self._now()):
            numbers = (counts.total, counts.available, counts.held, counts.sold, counts.blocked)
            table.add_row(escape(counts.name), counts.kind.value, *map(str, numbers))
        self._out.print(table)
        return True

    async def block_seats(self, event_id: str, seat_ids: Sequence[str]) -> bool:
        return await self._move_seats(SeatBlocks.block, event_id, seat_ids, "blocked")

    async def unblock_seats(self, event_id: str, seat_ids: Sequence[str]) -> bool:
        return await self._move_seats(SeatBlocks.unblock, event_id, seat_ids, "unblocked")

    async def _move_seats(self, move: _MoveSeat, event_id: str, seat_ids: Sequence[str], done: str) -> bool:
        # The first answer also brings DynamoDB's time, by which holds end.
        if await find_event(self._client, self._tables.inventory, event_id) is None:
            self._out.print("no such event")
            return False
        blocks = SeatBlocks(self._client, self._tables.inventory, now=self._now)
        refused = [seat_id for seat_id in seat_ids if not await move(blocks, event_id, seat_id)]
        self._out.print(f"{len(seat_ids) - len(refused)} {done}")
        if refused:
            told = f"held, sold or unknown, and left as they are: {', '.join(refused)}"
            self._out.print(told, markup=False, soft_wrap=True)
        return not refused

    # Leases and shards

    async def leases(self) -> bool:
        """Who holds what, and since when."""
        roll = await self._leases.scan()
        table = _table("shard", "owner", "token", "since", "")
        for shard in roll.shards:
            owner = "-" if shard.owner == NOBODY else shard.owner
            table.add_row(shard.name, owner, str(shard.token), _time(shard.since), "retiring" if shard.retiring else "")
        self._out.print(table)
        workers = ", ".join(f"{worker.id} since {_time(worker.started_at)}" for worker in roll.workers)
        self._out.print(f"workers: {workers or 'none'}", soft_wrap=True)
        return True

    async def add_shard(self, name: str) -> bool:
        if _SHARD_NAME.fullmatch(name) is None:
            self._out.print("a shard's name has 1 to 64 letters, digits, - and _", markup=False)
            return False
        if await self._leases.bring_back(name):
            self._out.print(f"{name} was retiring; processes use it again from their next look at the leases on")
        elif await self._leases.add_shard(name, self._now()):
            self._out.print(f"{name} is new; processes use it from their next look at the leases on")
        else:
            self._out.print(f"{name} is in use already")
        return True

    async def retire_shard(self, name: str) -> bool:
        """Waits until nobody chooses it any more, and removes it if it is empty."""
        self._out.print(f"waiting until no process can choose {name} any more ...", markup=False)
        try:
            removed = await retire(
                self._leases,
                name,
                lambda shard: is_empty(self._client, self._tables, shard),
                lease_seconds=self._settings.lease_seconds,
                sleep=asyncio.sleep,
                monotonic=time.monotonic,
            )
        except NotRetirable:
            self._out.print(f"there is no shard {name}, or it is {LASTING_SHARD}, which is never retired", markup=False)
            return False
        self._out.print(
            f"{name} is removed"
            if removed
            else f"{name} is not empty yet, or was brought back meanwhile (see shards list); run it again",
            soft_wrap=True,
        )
        return removed

    # The audit

    async def audit(self, queue_url: str | None, *, inventory: bool = False) -> bool:
        """False if any promise is broken. `inventory`: by the remote inventory too, which is asked about every seat."""
        async with AsyncExitStack() as closing:
            remote = app.remote_inventory(self._settings, closing)
            if inventory and remote is None:
                self._out.print("no remote inventory is set (GRPC_CLIENT_INVENTORY_SERVICE_ADDRESS)")
                return False
            audit = Audit(
                self._client,
                self._tables,
                now=self._now,
                graces=self._graces,
                receiver=await closing.enter_async_context(self._receiver(queue_url)),
                seats_elsewhere=remote is not None,
                for_sale=remote.for_sale if remote is not None and inventory else None,
            )
            snapshot, broken = await audit.run()
        for finding in broken:
            self._out.print(f"{finding.kind}: {finding.subject} {finding.text}", markup=False, soft_wrap=True)
        self._out.print(f"{'clean' if not broken else f'{len(broken)} broken of'}: {_read(snapshot)}", soft_wrap=True)
        return not broken

    def _now(self) -> int:
        """By DynamoDB's clock. By that of a machine some seconds ahead, holds that have not ended would be late."""
        return self._clock.now() - round(1000 * (self._clock.skew_seconds or 0.0))

    @property
    def _graces(self) -> Graces:
        """Until the shards of a process that died are another's, nothing of them is punctual."""
        take_over = int(2000 * self._settings.lease_seconds)
        longest_hold = 1000 * max(self._settings.hold_seconds, self._settings.hold_total_seconds_max)
        return Graces(expiry=5_000 + take_over, outbox=30_000 + take_over, hint=longest_hold)

    @asynccontextmanager
    async def _receiver(self, queue_url: str | None) -> AsyncIterator[EventQueue | None]:
        if queue_url is None:
            yield None
            return
        config, endpoint = app.aws_config_of(self._settings), self._settings.aws_endpoint_url
        async with session(config).create_client("sqs", endpoint_url=endpoint) as sqs:
            queue = EventQueue(sqs, queue_url)
            try:
                yield queue
            finally:
                await queue.release()


@asynccontextmanager
async def operators(settings: Settings, out: Console) -> AsyncIterator[Operators]:
    async with AsyncExitStack() as closing:
        client = await connect(app.aws_config_of(settings), "dynamodb", endpoint_url=settings.dynamodb_endpoint)
        closing.push_async_callback(client.close)
        yield Operators(settings, client, out)


def _described(event: Event) -> Iterator[tuple[str, str]]:
    default = "as the service's settings say"
    yield "event", f"{event.id} {event.name}".strip()
    yield "hold", default if event.hold_seconds is None else f"{event.hold_seconds} s"
    yield "seats a reservation", default if event.max_seats is None else str(event.max_seats)
    yield "live holds a user", default if event.max_holds_per_user is None else str(event.max_holds_per_user)
    yield "single seats left over", "avoided" if event.prevent_orphans else "allowed"
    yield "sale starts", "at once" if event.sale_starts_at is None else _time(event.sale_starts_at)
    yield "sale ends", "never" if event.sale_ends_at is None else _time(event.sale_ends_at)


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(sep=" ", timespec="seconds")


def _read(snapshot: Snapshot) -> str:
    """How much was looked at."""
    statuses = Counter(each.status.value for each in snapshot.reservations.values())
    listed = "".join(f", {count} {status}" for status, count in sorted(statuses.items()))
    return (
        f"{len(snapshot.reservations)} reservations{f' ({listed[2:]})' if listed else ''}, "
        f"{len(snapshot.seats)} seats, {len(snapshot.orders)} orders, "
        f"{len(snapshot.outbox)} events waiting, {len(snapshot.dead)} dead letters"
    )


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    return table
