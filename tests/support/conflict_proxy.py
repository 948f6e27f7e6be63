"""A DynamoDB endpoint before an emulator, adding what emulators lack: conflicts, throttling and lost replies.

It models what AWS documents
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html#transaction-conflict-handling):

- a TransactWriteItems holds its items while it is prepared; one that overlaps it is cancelled with TransactionConflict
  on the items of both. The conditions of its other items are evaluated, so that reasons mix;
- PutItem, UpdateItem or DeleteItem of such an item is refused with TransactionConflictException;
- a TransactGetItems is cancelled when it overlaps any ongoing write; no write is ever refused because of it;
- the same ClientRequestToken while its transaction is ongoing is refused with TransactionInProgressException;
- GetItem, BatchGetItem, Query and Scan read what is committed. BatchWriteItem passes.

`python -m tests.support.conflict_proxy UPSTREAM_URL PORT HOLD_MS THROTTLE LOSE_REPLY` serves in a process of its own,
prints its port as the first line, and its counts at SIGTERM.
"""

import asyncio
import random
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Self

import orjson
import uvloop

from tests.support import faults
from tests.support.faults import FOR_EVER, Fault, Request, cancellation_body, error_body
from tests.support.http_exchange import Message, Upstream, caller_of, deliver, hang_up, read_message
from tests.support.ongoing_writes import SINGLE_WRITES, Key, OngoingWrites, item_keys, key_attributes_of

_WRITES = SINGLE_WRITES | {"TransactWriteItems", "BatchWriteItem"}
_DATA_PLANE = _WRITES | {"GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"}

_CONFLICT = {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}
_NO_REASON = {"Code": "None"}


@dataclass(slots=True)
class _Script:
    matcher: Callable[[Request], bool]
    fault: Fault
    times: int


class ConflictProxy:
    """The endpoint on `url`, inside `async with`.

    `hold` is the length of a transaction in seconds. `throttle` is the probability that a request is refused before
    anything happens, `lose_reply` the one that a write is applied and its connection then closed without a reply; both
    leave scripted requests alone. `mix_reasons=False` saves the request upstream that finds the reasons of the items
    without a conflict. `heard` is told of every request. `befalls` says what befalls a request of this caller, its
    access key id, unless a script does. `stats` counts the requests by operation, and "throttled",
    "conflict" and "reply lost".

    Leaving the block raises what a connection died of, and an AssertionError for a scripted fault that never fired.
    """

    def __init__(
        self,
        upstream_url: str,
        *,
        hold: float = 0.008,
        throttle: float = 0.0,
        lose_reply: float = 0.0,
        mix_reasons: bool = True,
        rng: random.Random | None = None,
        port: int = 0,
        heard: Callable[[Request], None] = lambda _: None,
        befalls: Callable[[str], Fault | None] = lambda _: None,
    ) -> None:
        self.url = ""
        self.port = port
        self.stats: Counter[str] = Counter()
        self._upstream = Upstream(upstream_url)
        self._hold = hold
        self._throttle = throttle
        self._lose_reply = lose_reply
        self._mix_reasons = mix_reasons
        self._rng = rng or random.Random()
        self._heard = heard
        self._befalls = befalls
        self._script: list[_Script] = []
        self._ongoing = OngoingWrites()
        self._connections: list[asyncio.Task[None]] = []

    def script(self, matcher: Callable[[Request], bool], fault: Fault, *, times: int = 1) -> None:
        """`fault` befalls the next requests for which `matcher` is true; earlier scripts come first."""
        self._script.append(_Script(matcher, fault, times))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, _type: object, raised: BaseException | None, _traceback: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        ends = await asyncio.gather(*self._connections, return_exceptions=True)
        await self._upstream.close()
        failures = [end for end in ends if isinstance(end, Exception)]
        if raised is None and failures:
            raise failures[0]
        unfired = [script.fault for script in self._script if 0 < script.times < FOR_EVER / 2]
        assert raised or not unfired, f"never fired: {unfired}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.append(asyncio.get_running_loop().create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                message = await read_message(reader)
                request = self._understood(message)
                fault = self._scripted(request) or self._random(request, message)
                reply = await self._reply(request, message, fault)
                stamped = _stamped(reply) if reply is not None else None
                if not await deliver(writer, stamped, fault) or message.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the caller has gone, or the emulator; in both cases there is nobody to answer
        finally:
            await hang_up(writer)

    def _understood(self, message: Message) -> Request:
        operation = message.headers.get(b"x-amz-target", b"").decode().rpartition(".")[2]
        request = Request(operation, orjson.loads(message.body) if operation else {})
        self.stats[operation] += 1
        self._heard(request)
        return request

    async def _reply(self, request: Request, message: Message, fault: Fault | None) -> Message | None:
        """None: the connection ends without a reply."""
        match fault:
            case faults.Answer():
                return _answer(fault.status, fault.body)
            case faults.RejectBefore():
                self.stats["throttled"] += isinstance(fault, faults.Throttle)
                return _answer(fault.status, error_body(fault.code, fault.message))
            case faults.LoseRequest() | faults.Reset():
                return None
            case faults.Swallow():
                await fault.wait()
                return None
            case faults.Hold() | faults.Delay():
                await fault.wait()
        reply = await self._execute(request, message, fault)
        if isinstance(fault, faults.HoldReply):
            await fault.wait()
        if isinstance(fault, faults.LoseReply):
            self.stats["reply lost"] += 1
            return None
        return reply

    def _scripted(self, request: Request) -> Fault | None:
        for script in self._script:
            if script.times and script.matcher(request):
                script.times -= 1
                return script.fault
        return None

    def _random(self, request: Request, message: Message) -> Fault | None:
        operation = request.operation
        if operation not in _DATA_PLANE:
            return None
        if (fault := self._befalls(caller_of(message))) is not None:
            return fault
        if self._rng.random() < self._throttle:
            return faults.Throttle()
        if operation in _WRITES and self._rng.random() < self._lose_reply:
            return faults.LoseReply()
        return None

    async def _execute(self, request: Request, message: Message, fault: Fault | None) -> Message:
        try:
            keys = item_keys(request.operation, request.params)
        except KeyError as missing:
            return _answer(400, error_body("ValidationException", f"the conflict proxy finds no {missing.args[0]}"))
        if request.operation == "TransactWriteItems":
            return await self._transact_write(request, message, keys, fault)
        if request.operation == "TransactGetItems":
            return await self._transact_get(message, keys)
        if request.operation in SINGLE_WRITES and keys[0] in self._ongoing.prepared:
            self.stats["conflict"] += 1
            return _answer(400, error_body("TransactionConflictException", _CONFLICT["Message"]))
        with self._ongoing.write(keys):
            if isinstance(fault, faults.HoldOngoing):
                await fault.wait()
            return await self._upstream.exchange(message)

    async def _transact_write(
        self, request: Request, message: Message, keys: list[Key], fault: Fault | None
    ) -> Message:
        """A transaction that will be cancelled prepares its other items too, and so refuses others meanwhile."""
        token = request.params.get("ClientRequestToken")
        if token in self._ongoing.tokens:
            return _answer(400, error_body("TransactionInProgressException", "The token's transaction is ongoing"))
        conflicts = [key in self._ongoing.prepared for key in keys]
        with self._ongoing.transaction(set(keys) - self._ongoing.prepared, token):
            if any(conflicts):
                await asyncio.sleep(self._hold / 2)
                return await self._cancelled(request, message, conflicts)
            if isinstance(fault, faults.HoldOngoing):
                await fault.wait()
            else:
                await asyncio.sleep(self._hold)
            return await self._upstream.exchange(message)

    async def _cancelled(self, request: Request, message: Message, conflicts: list[bool]) -> Message:
        """The reasons of the items without a conflict come from upstream, by a transaction that cannot be applied."""
        self.stats["conflict"] += 1
        items = request.params["TransactItems"]
        free = [item for item, conflict in zip(items, conflicts, strict=True) if not conflict]
        reasons: list[dict[str, Any]] = [_NO_REASON] * len(free)
        if free and self._mix_reasons:
            trial = {"TransactItems": [*free, _impossible(items[conflicts.index(True)])]}
            reply = await self._upstream.exchange(replace(message, body=orjson.dumps(trial)))
            verdict = orjson.loads(reply.body)
            if "CancellationReasons" not in verdict:
                return reply
            reasons = verdict["CancellationReasons"]
        others = iter(reasons)
        return _answer(400, cancellation_body([_CONFLICT if conflict else next(others) for conflict in conflicts]))

    async def _transact_get(self, message: Message, keys: list[Key]) -> Message:
        conflicts = [self._ongoing.touch(key) for key in keys]
        if not any(conflicts):
            return await self._upstream.exchange(message)
        self.stats["conflict"] += 1
        return _answer(400, cancellation_body([_CONFLICT if conflict else _NO_REASON for conflict in conflicts]))


def _impossible(item: dict[str, Any]) -> dict[str, Any]:
    """A check of the same item that no state of it can pass."""
    (action,) = item.values()
    key = key_attributes_of(action)
    check = {
        "TableName": action["TableName"],
        "Key": key,
        "ConditionExpression": "attribute_exists(#key) AND attribute_not_exists(#key)",
        "ExpressionAttributeNames": {"#key": next(iter(key))},
    }
    return {"ConditionCheck": check}


def _answer(status: int, body: bytes) -> Message:
    start = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()
    return Message(start, body, {b"content-type": b"application/x-amz-json-1.0", b"x-amzn-requestid": b"CONFLICTPROXY"})


def _stamped(reply: Message) -> Message:
    stamps = {b"x-amz-crc32": b"%d" % zlib.crc32(reply.body), b"date": formatdate(usegmt=True).encode()}
    return replace(reply, headers=reply.headers | stamps)


async def _serve_until_terminated(
    upstream_url: str, port: int, hold: float, throttle: float, lose_reply: float
) -> None:
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    # Reasons are not mixed: that would ask the emulator, which serves one request after the other, once a conflict.
    async with ConflictProxy(
        upstream_url, port=port, hold=hold, throttle=throttle, lose_reply=lose_reply, mix_reasons=False
    ) as proxy:
        print(proxy.port, flush=True)
        await terminated.wait()
    print(orjson.dumps(proxy.stats).decode(), flush=True)


if __name__ == "__main__":
    url, port, hold_ms, throttle, lose_reply = sys.argv[1:]
    uvloop.run(_serve_until_terminated(url, int(port), float(hold_ms) / 1e3, float(throttle), float(lose_reply)))
