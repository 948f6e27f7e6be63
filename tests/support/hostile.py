"""A server that speaks just enough of AWS's JSON protocol to be answered by, and misbehaves as scripted."""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

DATE = "Tue, 15 Nov 1994 08:12:31 GMT"
DATE_EPOCH_SECONDS = 784887151.0


class HostileServer:
    """Answers each request by the next action of `plan`, with "ok" when there is none left.

    "ok" echoes: its Item is the Key of the request, so that a caller can tell its own reply from another's. The names
    of all actions are in ACTIONS. Use as an async context manager; binds a free port of 127.0.0.1.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.plan: list[str] = []
        self.url = ""
        self.requests = 0
        self.connections = 0
        self.closed = 0
        self.peers: list[int] = []
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.access_keys: Counter[str] = Counter()
        self.user_agents: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self._tls = tls
        self._changed = asyncio.Condition()
        self._handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0, ssl=self._tls, backlog=512)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening, drop every connection and hold nothing back any more; may be called twice."""
        self._server.close()
        self.gate.set()
        for writer in self._handlers.values():
            writer.transport.abort()
        await asyncio.gather(*self._handlers)

    async def saw(self, requests: int = 0, closed: int = 0) -> None:
        """Await the arrival of so many requests in all, and the end of so many connections."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.requests >= requests and self.closed >= closed)

    def release(self) -> None:
        """Let every reply go that an action "hold" keeps back."""
        self.gate.set()
        self.gate = asyncio.Event()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._handlers[task] = writer
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while not writer.is_closing():
                    exchange = await self._read(reader, writer)
                    action = self.plan.pop(0) if self.plan else "ok"
                    await ACTIONS[action](exchange)
                    await writer.drain()
        finally:
            del self._handlers[task]
            writer.close()
            async with self._changed:
                self.closed += 1
                self._changed.notify_all()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> "Exchange":
        head = await reader.readuntil(b"\r\n\r\n")
        length = _header(head, b"content-length")
        body = await reader.readexactly(int(length))
        self.peers.append(writer.get_extra_info("peername")[1])
        self.heads.append(head)
        self.bodies.append(body)
        self.access_keys[_header(head, b"authorization").partition("Credential=")[2].partition("/")[0]] += 1
        self.user_agents[_header(head, b"user-agent")] += 1
        async with self._changed:
            self.requests += 1
            self._changed.notify_all()
        return Exchange(self, reader, writer, orjson.loads(body))


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and the connection to misbehave on."""

    server: HostileServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: dict[str, Any]
    good: bytes = field(init=False)

    def __post_init__(self) -> None:
        answer = {"Item": self.request["Key"]} if "Key" in self.request else {}
        object.__setattr__(self, "good", reply(200, orjson.dumps(answer)))

    def write(self, data: bytes) -> None:
        self.writer.write(data)


Action = Callable[[Exchange], Awaitable[None]]
ACTIONS: dict[str, Action] = {}


def action(function: Action) -> Action:
    ACTIONS[function.__name__] = function
    return function


def reply(status: int, body: bytes, extra: str = "") -> bytes:
    """A whole HTTP answer with the headers that DynamoDB sends; `extra` is more header lines."""
    head = (
        f"HTTP/1.1 {status} Whatever\r\nDate: {DATE}\r\nContent-Type: application/x-amz-json-1.0\r\n"
        f"Content-Length: {len(body)}\r\nx-amzn-RequestId: REQUEST1\r\nx-amz-crc32: {zlib.crc32(body)}\r\n{extra}\r\n"
    )
    return head.encode() + body


def _header(head: bytes, name: bytes) -> str:
    found = re.search(rb"\r\n" + name + rb": *([^\r]*)", head, re.IGNORECASE)
    return found[1].decode() if found else ""


def _refuse(status: int, code: str, **details: Any) -> Action:
    async def refuse(exchange: Exchange) -> None:
        body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "because", **details}
        exchange.write(reply(status, orjson.dumps(body)))

    return refuse


STORED_ITEM = {"pk": {"S": "stored"}}
CANCELLATION_REASONS = [
    {"Code": "None"},
    {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed", "Item": STORED_ITEM},
    {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"},
]
ACTIONS |= {
    "unavailable": _refuse(503, "ServiceUnavailable"),
    "throttle": _refuse(400, "ThrottlingException"),
    "invalid": _refuse(400, "ValidationException"),
    "expired": _refuse(400, "ExpiredTokenException"),
    "conflict": _refuse(400, "TransactionConflictException"),
    "in_progress": _refuse(400, "TransactionInProgressException"),
    "condition": _refuse(400, "ConditionalCheckFailedException", Item=STORED_ITEM),
    "canceled": _refuse(400, "TransactionCanceledException", CancellationReasons=CANCELLATION_REASONS),
}


@action
async def ok(exchange: Exchange) -> None:
    exchange.write(exchange.good)


@action
async def close(exchange: Exchange) -> None:
    """Announces the close, leaves it to the client, and answers nothing more on this connection."""
    exchange.write(exchange.good.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    await exchange.reader.read()
    exchange.writer.close()


@action
async def close_silently(exchange: Exchange) -> None:
    """Closes after a reply that did not say so."""
    exchange.write(exchange.good)
    exchange.writer.close()


@action
async def reset(exchange: Exchange) -> None:
    """A TCP RST, which is what a socket sends that closes without lingering."""
    linger = struct.pack("ii", 1, 0)
    exchange.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    exchange.writer.transport.abort()


@action
async def hang_up(exchange: Exchange) -> None:
    """An orderly end of the connection instead of a reply."""
    exchange.writer.close()


@action
async def half(exchange: Exchange) -> None:
    """Breaks off in the middle of the reply."""
    exchange.write(exchange.good[:40])
    await exchange.writer.drain()
    exchange.writer.close()


@action
async def hold(exchange: Exchange) -> None:
    """Answers when the test calls `release`."""
    await exchange.server.gate.wait()
    exchange.write(exchange.good)


@action
async def corrupt(exchange: Exchange) -> None:
    """A body that is not the one its checksum was made of."""
    exchange.write(exchange.good.replace(b'{"Item"', b'{"iTEM"'))


@action
async def chunked(exchange: Exchange) -> None:
    head, _, body = exchange.good.partition(b"\r\n\r\n")
    head = re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", head)
    exchange.write(head + b"\r\n\r\n")
    for start in range(0, len(body), 7):
        chunk = body[start : start + 7]
        exchange.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await exchange.writer.drain()
    exchange.write(b"0\r\n\r\n")


@action
async def dribble(exchange: Exchange) -> None:
    """One byte at a time."""
    for byte in exchange.good:
        exchange.write(bytes([byte]))
        await asyncio.sleep(0)


@action
async def html(exchange: Exchange) -> None:
    """A proxy's error page."""
    exchange.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 13\r\n\r\n<html></html>")


@action
async def latin(exchange: Exchange) -> None:
    """An error page that is not UTF-8."""
    page = "<!DOCTYPE html>Passerelle défaillante".encode("latin-1")
    exchange.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))


@action
async def portal(exchange: Exchange) -> None:
    """Somebody else's page, and a success."""
    page = b"<html>Please accept our terms</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
    exchange.write(head % len(page) + page)


@action
async def interim(exchange: Exchange) -> None:
    """An interim answer, for which no request has asked."""
    exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n" + exchange.good)


@action
async def surplus(exchange: Exchange) -> None:
    """Garbage glued to the reply."""
    exchange.write(exchange.good + b"garbage")


@action
async def twice(exchange: Exchange) -> None:
    """The reply, and a well-formed reply to nothing."""
    exchange.write(exchange.good + reply(200, b'{"Item":{"pk":{"S":"of nobody"}}}'))


@action
async def chatter(exchange: Exchange) -> None:
    """A reply to nothing, when the test calls `release`."""
    exchange.write(exchange.good)
    await exchange.server.gate.wait()
    exchange.write(reply(200, b'{"Item":{"pk":{"S":"of nobody"}}}'))


@action
async def big(exchange: Exchange) -> None:
    exchange.write(reply(200, orjson.dumps({"Item": {**exchange.request["Key"], "filling": {"S": "y" * 900_000}}})))


@action
async def unframed(exchange: Exchange) -> None:
    """A body that ends where the connection ends: nobody can tell whether it is whole."""
    head, _, body = exchange.good.partition(b"\r\n\r\n")
    exchange.write(re.sub(rb"Content-Length: \d+\r\n", b"", head) + b"\r\n\r\n" + body)
    exchange.writer.close()


@action
async def not_http(exchange: Exchange) -> None:
    exchange.write(b"SSH-2.0-OpenSSH_9.6\r\n")
