"""As much HTTP/1.1 as a proxy before a DynamoDB endpoint needs: bodies with a Content-Length, and keep-alive."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from tests.support import faults
from tests.support.faults import Fault


@dataclass(slots=True)
class Message:
    """A request or a reply. `headers` have lower-case names and lack Content-Length and Connection."""

    start: bytes
    body: bytes
    headers: dict[bytes, bytes] = field(default_factory=dict)
    closes: bool = False

    def encode(self) -> bytes:
        lines = [self.start, *(b"%b: %b" % header for header in self.headers.items())]
        lines.append(b"content-length: %d\r\n\r\n" % len(self.body))
        return b"\r\n".join(lines) + self.body


async def read_message(reader: asyncio.StreamReader) -> Message:
    """The next request or reply; raises asyncio.IncompleteReadError when the other side has hung up."""
    head = await reader.readuntil(b"\r\n\r\n")
    start, *lines = head[:-4].split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    length = int(headers.pop(b"content-length", 0))
    closes = headers.pop(b"connection", b"").lower() == b"close"
    return Message(start, await reader.readexactly(length), headers, closes)


def caller_of(message: Message) -> str:
    """The access key id of an AWS request's signature
    (https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html), "" where it has none."""
    return message.headers.get(b"authorization", b"").decode().partition("Credential=")[2].partition("/")[0]


async def deliver(writer: asyncio.StreamWriter, reply: Message | None, fault: Fault | None) -> bool:
    """Whether the connection goes on: without a reply it does not, nor after some faults, which befall the reply on its
    way."""
    if isinstance(fault, faults.Reset):
        writer.transport.abort()
    if reply is None:
        return False
    if isinstance(fault, faults.SpoilChecksum):
        checksum = int(reply.headers.get(b"x-amz-crc32", b"0"))
        reply = replace(reply, headers=reply.headers | {b"x-amz-crc32": b"%d" % (checksum ^ 1)})
    whole = reply.encode()
    cut = len(reply.body) // 2 + 1 if isinstance(fault, faults.CutReply) else 0
    writer.write(whole[: len(whole) - cut])
    await writer.drain()
    return not cut


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


class Upstream:
    """A server behind the proxy, over kept connections, at most 32 at once.

    DynamoDB Local's listen queue holds 50: more connects at once wait a second for their second SYN.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._address = (address.hostname, address.port)
        self._slots = asyncio.Semaphore(32)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def exchange(self, request: Message) -> Message:
        """The reply; raises OSError or asyncio.IncompleteReadError when the server hangs up, and never tries again."""
        async with self._slots:
            reader, writer = await self._connection()
            try:
                writer.write(request.encode())
                reply = await read_message(reader)
            except BaseException:
                writer.close()
                raise
            if reply.closes:
                writer.close()
            else:
                self._idle.append((reader, writer))
            return reply

    async def close(self) -> None:
        while self._idle:
            await hang_up(self._idle.pop()[1])

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)
