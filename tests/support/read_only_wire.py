"""A wire to reservations that lie in memory: it answers the reads of one as DynamoDB does, and counts them."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from reservation.aws.client import ServerDate
from reservation.aws.errors import AwsError, ConnectFailed
from reservation.domain.model import Reservation
from reservation.dynamodb.items import Item, reservation_to_item


class ReadOnlyWire:
    """`stored` by reservation id; `replica` is what an eventually consistent read sees instead, where it differs.

    `reads` counts the calls of each operation. While `down` every call fails; before `open` is set every call waits.
    """

    server_date: ServerDate | None = None

    def __init__(self) -> None:
        self.stored: dict[str, Item] = {}
        self.replica: dict[str, Item] = {}
        self.reads: Counter[str] = Counter()
        self.down = False
        self.open = asyncio.Event()
        self.open.set()

    def put(self, *reservations: Reservation) -> None:
        self.stored |= {each.id: reservation_to_item(each) for each in reservations}

    async def send(self, operation: str, params: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        self.reads[operation] += 1
        found = self._query(params) if operation == "Query" else self._batch(params)
        await self.open.wait()
        if self.down:
            raise ConnectFailed("Down", "by a test")
        return found

    def _query(self, params: Mapping[str, Any]) -> dict[str, Any]:
        assert params["ConsistentRead"]
        item = self.stored.get(params["ExpressionAttributeValues"][":id"]["S"])
        return {"Items": [item] if item else []}

    def _batch(self, params: Mapping[str, Any]) -> dict[str, Any]:
        ((table, request),) = params["RequestItems"].items()
        assert len(request["Keys"]) <= 100
        assert "ConsistentRead" not in request
        seen = self.stored | self.replica
        found = (seen.get(key["reservationId"]["S"]) for key in request["Keys"])
        return {"Responses": {table: [item for item in found if item]}, "UnprocessedKeys": {}}

    async def renew_credentials(self, timeout: float | None) -> None:
        raise AwsError("NotAsked", "there are none")

    async def close(self) -> None:
        pass
