"""A DynamoDB that answers at once and keeps nothing: what a client costs when the service behind it costs nothing.

Writes succeed, no item exists but the facts of any event and seat, and every Query for a reservation finds one held.
`python -m tests.bench.sink PORT [MS]` listens on 127.0.0.1 and prints the port it bound; PORT 0 picks a free one. With
MS it answers only after so many milliseconds.
"""

import asyncio
import sys
import time
import zlib
from email.utils import formatdate
from typing import Any, cast

import orjson
import uvloop

from reservation.domain.model import Event, Money, Reservation, Seat, Status
from reservation.dynamodb.items import event_to_item, new_seat_to_item, reservation_to_item

USER = "user-2f6c9b51"
SEATS = tuple(Seat(f"A-{number}", "Floor", "A", str(number), Money(120_000, "KRW")) for number in (12, 13))
HELD = Reservation(
    id="rsv_01a206e950b1a9a18c3c73dea5285968",
    event_id="evt_2025_1001",
    user_id=USER,
    status=Status.HOLD,
    seats=SEATS,
    created_at=1_900_000_000_000,
    updated_at=1_900_000_000_000,
    hold_expires_at=4_000_000_000_000,
    version=1,
    op_id="0123456789abcdef",
    shard="0007",
)

_NOTHING = b'{"Items":[],"Count":0,"ScannedCount":0}'
_ANSWERS = {
    b"scan": _NOTHING,
    # A worker's heartbeat.
    b"updateitem": b'{"Attributes":{"leaseKey":{"S":"worker#1"},"counter":{"N":"1"},"startedAt":{"N":"1"}}}',
}
_QUERY = orjson.dumps({"Items": [reservation_to_item(HELD)], "Count": 1, "ScannedCount": 1})


class Sink(asyncio.Protocol):
    """Reads requests framed by Content-Length."""

    def __init__(self, delay: float = 0.0) -> None:
        """`delay` in seconds."""
        self._delay = delay
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (request := self._take_request()) is not None and self._transport is not None:
            reply = _reply(_answer(*request))
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._transport.write, reply)
            else:
                self._transport.write(reply)

    def _take_request(self) -> tuple[bytes, bytes] | None:
        """Head (in lower case) and body of the first request, None while it is incomplete."""
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        head = bytes(self._received[:head_end]).lower()
        end = head_end + 4 + int(_header(head, b"content-length") or 0)
        if len(self._received) < end:
            return None
        body = bytes(self._received[head_end + 4 : end])
        del self._received[:end]
        return head, body


def _header(head: bytes, name: bytes) -> bytes:
    _, _, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip()


def _answer(head: bytes, body: bytes) -> bytes:
    operation = _header(head, b"x-amz-target").rpartition(b".")[2]
    if operation == b"query":
        return _QUERY if b'":id"' in body else _NOTHING
    if operation == b"batchgetitem":
        return _facts(body)
    return _ANSWERS.get(operation, b"{}")


def _facts(body: bytes) -> bytes:
    requests: dict[str, Any] = orjson.loads(body)["RequestItems"]
    return orjson.dumps(
        {"Responses": {table: [_fact(key["pk"]["S"]) for key in wanted["Keys"]] for table, wanted in requests.items()}}
    )


def _fact(pk: str) -> dict[str, Any]:
    event_id, _, seat_id = pk.partition("#")
    if not seat_id:
        return event_to_item(Event(event_id))
    row, _, number = seat_id.partition("-")
    return new_seat_to_item(event_id, Seat(seat_id, "Floor", row, number, Money(120_000, "KRW")))


def _reply(body: bytes) -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\n"
        "Server: Server\r\n"
        f"Date: {formatdate(time.time(), usegmt=True)}\r\n"
        "Content-Type: application/x-amz-json-1.0\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: keep-alive\r\n"
        "x-amzn-RequestId: 0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEF\r\n"
        f"x-amz-crc32: {zlib.crc32(body)}\r\n\r\n"
    )
    return head.encode() + body


async def serve(port: int, delay: float) -> None:
    """Serve on 127.0.0.1 until cancelled."""
    server = await asyncio.get_running_loop().create_server(lambda: Sink(delay), "127.0.0.1", port, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0))
