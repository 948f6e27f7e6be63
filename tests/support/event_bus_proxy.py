"""An EventBridge endpoint that fails as a test tells it to, and remembers in which order it accepted what.

With an upstream, what it accepts goes on to the EventBridge there; without, it answers alone.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Self

import orjson

from tests.support import faults
from tests.support.faults import FOR_EVER, Fault, Hold, RejectBefore, error_body
from tests.support.http_exchange import Message, Upstream, caller_of, deliver, hang_up, read_message

Entry = dict[str, Any]
"""An entry of PutEvents as it was sent."""

_PASSING_CODES = ("InternalFailure", "ThrottlingException")
_PASSING_FAULTS = (
    faults.Throttle,
    lambda: faults.RejectBefore("ServiceUnavailable", 503),
    faults.LoseRequest,
    faults.LoseReply,
)


@dataclass(slots=True)
class _CallScript:
    matcher: Callable[[list[Entry], str], bool]
    fault: Fault
    times: int


@dataclass(slots=True)
class _EntryScript:
    matcher: Callable[[Entry], bool]
    code: str
    message: str
    times: int


class EventBusProxy:
    """The endpoint on `url`, inside `async with`.

    `entry_failures` is the probability that an entry is not accepted for a passing reason, `call_failures` the one that
    a call fails as a whole: throttled, answered 503, or lost on its way or on its way back. `befalls` says what befalls
    a call of this caller, its access key id, unless a script does. While `down`, every
    connection ends without a reply. Alone it has the buses in `buses`.

    Leaving the block raises what a connection died of, and an AssertionError for a script that did not happen as many
    times as it should.
    """

    def __init__(
        self,
        upstream_url: str = "",
        *,
        entry_failures: float = 0.0,
        call_failures: float = 0.0,
        befalls: Callable[[str], Fault | None] = lambda _: None,
        rng: random.Random | None = None,
    ) -> None:
        self.url = ""
        self.down = False
        self.buses = {"bus"}
        self.accepted: list[Entry] = []
        """In the order in which they were accepted."""
        self.accepted_from: list[str] = []
        """Who sent each of `accepted`: the access key id of the caller's signature."""
        self.accepted_at: list[float] = []
        """When each of them was, in time.monotonic() seconds."""
        self.calls: list[list[Entry]] = []
        """The entries of every PutEvents that arrived, whatever became of it."""
        self.called_by: list[str] = []
        """Who made each of `calls`."""
        self.called_at: list[float] = []
        """When each of `calls` arrived, in seconds since the epoch."""
        self.checks = 0
        """Questions whether a bus is there."""
        self._upstream = Upstream(upstream_url) if upstream_url else None
        self._entry_failures = entry_failures
        self._call_failures = call_failures
        self._befalls = befalls
        self._rng = rng or random.Random(0)
        self._call_scripts: list[_CallScript] = []
        self._entry_scripts: list[_EntryScript] = []
        self._check_scripts: list[RejectBefore | Hold] = []
        self._connections: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    def fail_calls(
        self, fault: Fault, *, times: int = 1, having: Callable[[Entry], bool] = lambda entry: True, by: str = ""
    ) -> None:
        """`fault` befalls the next calls with such an entry (`by`: only those of this caller); earlier scripts come
        first."""

        def matches(entries: list[Entry], caller: str) -> bool:
            return by in ("", caller) and any(map(having, entries))

        self._call_scripts.append(_CallScript(matches, fault, times))

    def fail_entries(
        self, code: str, message: str = "", *, times: int = 1, having: Callable[[Entry], bool] = lambda entry: True
    ) -> None:
        """The next such entries are not accepted; the others of their calls are."""
        self._entry_scripts.append(_EntryScript(having, code, message, times))

    def fail_checks(self, *faults: RejectBefore | Hold) -> None:
        """They befall the next questions whether a bus is there, one each."""
        self._check_scripts += faults

    async def until_accepted(self, count: int) -> None:
        """Waits until so many entries were accepted in all."""
        while len(self.accepted) < count:
            self._news.clear()
            await self._news.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, _type: object, raised: BaseException | None, _traceback: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        ends = await asyncio.gather(*self._connections, return_exceptions=True)
        if self._upstream is not None:
            await self._upstream.close()
        failures = [end for end in ends if isinstance(end, Exception)]
        if raised is None and failures:
            raise failures[0]
        scripts: list[_CallScript | _EntryScript] = [*self._call_scripts, *self._entry_scripts]
        unfired = [*self._check_scripts, *(script for script in scripts if 0 < script.times < FOR_EVER / 2)]
        assert raised or not unfired, f"did not happen: {unfired}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.append(asyncio.get_running_loop().create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(await read_message(reader), writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the caller has gone
        finally:
            await hang_up(writer)

    async def _exchange(self, message: Message, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        operation = message.headers[b"x-amz-target"].decode().rpartition(".")[2]
        params, caller = orjson.loads(message.body), caller_of(message)
        if operation != "PutEvents":
            return await deliver(writer, await self._other(operation, params, message), None)
        entries: list[Entry] = params["Entries"]
        self.calls.append(entries)
        self.called_by.append(caller)
        self.called_at.append(time.time())
        if self.down:
            return False
        fault = self._fault_of(entries, caller)
        return await deliver(writer, await self._reply(entries, message, fault), fault)

    async def _reply(self, entries: list[Entry], message: Message, fault: Fault | None) -> Message | None:
        """None: the connection ends without a reply."""
        match fault:
            case faults.Answer():
                return _answer(fault.status, fault.body)
            case faults.RejectBefore():
                return _answer(fault.status, error_body(fault.code, fault.message))
            case faults.LoseRequest() | faults.Reset():
                return None
            case faults.Swallow():
                await fault.wait()
                return None
            case faults.Hold() | faults.Delay():
                await fault.wait()
        refused = fault.code if isinstance(fault, faults.FailEntries) else ""
        reply = await self._put(entries, message, refused)
        if isinstance(fault, faults.HoldReply):
            await fault.wait()
        return None if isinstance(fault, faults.LoseReply) else reply

    def _fault_of(self, entries: list[Entry], caller: str) -> Fault | None:
        for script in self._call_scripts:
            if script.times and script.matcher(entries, caller):
                script.times -= 1
                return script.fault
        if (fault := self._befalls(caller)) is not None:
            return fault
        return self._rng.choice(_PASSING_FAULTS)() if self._rng.random() < self._call_failures else None

    async def _put(self, entries: list[Entry], message: Message, refused: str) -> Message:
        """`refused`: the code with which every other entry is not accepted, if any."""
        errors = [
            _passing(refused) if refused and number % 2 == 0 else self._error_of(entry)
            for number, entry in enumerate(entries)
        ]
        good = [entry for entry, error in zip(entries, errors, strict=True) if error is None]
        results = iter(await self._publish(good, message))
        answers = [error or next(results) for error in errors]
        failed = sum(error is not None for error in errors)
        return _answer(200, orjson.dumps({"FailedEntryCount": failed, "Entries": answers}))

    def _error_of(self, entry: Entry) -> dict[str, str] | None:
        for script in self._entry_scripts:
            if script.times and script.matcher(entry):
                script.times -= 1
                return {"ErrorCode": script.code, "ErrorMessage": script.message}
        if self._rng.random() < self._entry_failures:
            return _passing(self._rng.choice(_PASSING_CODES))
        return None

    async def _publish(self, entries: list[Entry], message: Message) -> list[dict[str, str]]:
        self.accepted += entries
        self.accepted_from += [caller_of(message)] * len(entries)
        self.accepted_at += [time.monotonic()] * len(entries)
        self._news.set()
        if self._upstream is None or not entries:
            return [{"EventId": f"event-{number}"} for number, _ in enumerate(entries)]
        reply = await self._upstream.exchange(replace(message, body=orjson.dumps({"Entries": entries})))
        answer: dict[str, Any] = orjson.loads(reply.body)
        assert answer["FailedEntryCount"] == 0, answer
        return list(answer["Entries"])

    async def _other(self, operation: str, params: dict[str, Any], message: Message) -> Message | None:
        if self.down:
            return None
        if operation == "DescribeEventBus":
            self.checks += 1
            match self._check_scripts.pop(0) if self._check_scripts else None:
                case RejectBefore() as refusal:
                    return _answer(refusal.status, error_body(refusal.code, refusal.message))
                case Hold() as silence:
                    await silence.wait()
        if self._upstream is not None:
            return await self._upstream.exchange(message)
        assert operation == "DescribeEventBus", operation
        if params["Name"] not in self.buses:
            return _answer(400, error_body("ResourceNotFoundException", f"Event bus {params['Name']} does not exist."))
        return _answer(200, orjson.dumps({"Name": params["Name"]}))


def message_id(entry: Entry) -> str:
    return str(orjson.loads(entry["Detail"])["messageId"])


def first_deliveries(message_ids: Iterable[str]) -> dict[str, list[int]]:
    """The versions of each reservation in the order in which they were accepted first."""
    versions: dict[str, list[int]] = defaultdict(list)
    for each in dict.fromkeys(message_ids):
        reservation, _, version = each.partition("#")
        versions[reservation].append(int(version))
    return versions


def _passing(code: str) -> dict[str, str]:
    return {"ErrorCode": code, "ErrorMessage": "try again"}


def _answer(status: int, body: bytes) -> Message:
    start = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()
    return Message(start, body, {b"content-type": b"application/x-amz-json-1.1", b"x-amzn-requestid": b"EVENTBUSPROXY"})
