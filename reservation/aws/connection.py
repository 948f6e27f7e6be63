"""A pool of HTTP/1.1 connections to one host, one request at a time on each."""

import asyncio
import ssl
from collections import deque
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from reservation.aws.errors import READ_TIMEOUT, ConnectFailed, TransportError


class Reply(NamedTuple):
    """A whole HTTP answer; header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Connection(asyncio.Protocol):
    """One connection. It fails its request rather than guess, and is then never used again.

    Also the callback object of httptools, which calls the on_... methods while `data_received` feeds it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._keep_alive = True
        self.idle_since = 0.0
        self.lost = loop.create_future()

    @property
    def reusable(self) -> bool:
        """True if another request may be sent on this connection."""
        return self._keep_alive and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, timeout: float) -> Reply:
        """Send one complete request and await its reply.

        Raises ConnectFailed if the connection is already closed, TransportError if it breaks or if the reply is not
        complete after `timeout` seconds. Cancelled or failed, the connection is aborted: a reply still under way must
        not meet the next request.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectFailed("ConnectionLost", "closed before the request was sent")
        reply: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting = reply
        timer = self._loop.call_later(timeout, self._fail, READ_TIMEOUT, "no complete reply in time")
        try:
            self._transport.write(request)
            return await reply
        except BaseException:
            self.abort()
            raise
        finally:
            timer.cancel()

    def abort(self) -> None:
        """Close at once; the loop reports it to `connection_lost`."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("ConnectionLost", str(exc) if exc else "closed by the peer before the reply was complete")
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            self.abort()
            return
        # httptools does not tell where a reply ended. It must end on the last byte received: if it is complete before
        # that byte, the peer has sent more than was asked for.
        view = memoryview(data)
        try:
            self._parser.feed_data(view[:-1])
            if self._waiting is None:
                self._keep_alive = False
            else:
                self._parser.feed_data(view[-1:])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep_alive = False
            self._fail("BadResponse", str(error))

    def on_message_begin(self) -> None:
        self._headers = {}
        self._body = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, chunk: bytes) -> None:
        self._body.append(chunk)

    def on_message_complete(self) -> None:
        reply, self._waiting = self._waiting, None
        if not self._parser.should_keep_alive():
            self._keep_alive = False
        if reply is None or reply.done():
            return
        status = self._parser.get_status_code()
        if status >= 200:
            reply.set_result(Reply(status, self._headers, b"".join(self._body)))
        else:
            reply.set_exception(TransportError("BadResponse", f"interim answer {status}"))

    def _fail(self, code: str, message: str) -> None:
        reply, self._waiting = self._waiting, None
        if reply is not None and not reply.done():
            reply.set_exception(TransportError(code, message))


class ConnectionPool:
    """At most `size` connections to the host of `url`, the one used last first."""

    def __init__(
        self,
        url: str,
        *,
        size: int = 64,
        tls: ssl.SSLContext | None = None,
        connect_timeout: float = 3.0,
        idle_seconds: float = 50.0,
    ) -> None:
        """tls: for https, the system's trust store by default. Opens nothing; needs a running loop only to post.

        connect_timeout: seconds for TCP and TLS together. idle_seconds: a connection unused for longer is closed.
        """
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        self._tls = (tls or ssl.create_default_context()) if secure else None
        self._connect_timeout = connect_timeout
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(size)
        # A burst of SYNs overflows a listener's backlog, and a dropped SYN costs a whole second.
        self._connecting = asyncio.Semaphore(8)
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._closed = False

    async def post(self, request: bytes, timeout: float) -> Reply:
        """Send one complete request and await its reply, `timeout` seconds in all.

        Raises ConnectFailed if the request was not sent, TransportError if it was and has no sound reply.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if self._slots.locked():
            await self._await_slot(timeout)
        else:
            await self._slots.acquire()
        try:
            connection = self._take_idle() or await self._connect(deadline - loop.time())
            reply = await connection.exchange(request, deadline - loop.time())
            self._give_back(connection)
            return reply
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Abort every connection, also those with a reply outstanding, and await their end."""
        self._closed = True
        ending = list(self._open)
        for connection in ending:
            connection.abort()
        for connection in ending:
            await connection.lost

    async def _await_slot(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
        except TimeoutError as error:
            raise ConnectFailed("PoolTimeout", f"no free connection within {timeout} s") from error

    def _take_idle(self) -> Connection | None:
        oldest_allowed = asyncio.get_running_loop().time() - self._idle_seconds
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_since >= oldest_allowed:
                return connection
            connection.abort()
        return None

    def _give_back(self, connection: Connection) -> None:
        if not connection.reusable or self._closed:
            connection.abort()
            return
        now = asyncio.get_running_loop().time()
        connection.idle_since = now
        self._idle.append(connection)
        while now - self._idle[0].idle_since > self._idle_seconds:
            self._idle.popleft().abort()

    async def _connect(self, timeout: float) -> Connection:
        if self._closed:
            raise ConnectFailed("PoolClosed", "the client is closed")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout), self._connecting, asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError as error:
            raise ConnectFailed("ConnectTimeout", f"no connection to {self._host}:{self._port} in time") from error
        except OSError as error:
            raise ConnectFailed("ConnectFailed", str(error)) from error
        self._open.add(connection)
        connection.lost.add_done_callback(lambda _: self._open.discard(connection))
        if self._closed:
            connection.abort()
        return connection
