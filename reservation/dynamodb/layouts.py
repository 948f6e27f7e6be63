"""The layouts of events in the inventory table: compressed parts of about a thousand places each, of one version, and
an item that says which version is current. So a reader never sees half of a change."""

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from reservation.aws.client import AwsClient
from reservation.aws.errors import ConditionFailed
from reservation.domain.errors import ServiceUnavailable
from reservation.domain.layout import Block, Place, Section
from reservation.domain.model import SectionKind
from reservation.dynamodb.items import Item, layout_key, layout_part_key, packed, unpacked
from reservation.dynamodb.transaction import TRY_SECONDS, batch_get, read, told_in_domain_terms

_PLACES_A_PART = 1_000
_PARTS_A_CALL = 100
_LOOKS = 3
_NO_VERSION = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """One version of an event's sections. `version`: empty for an event that was never laid out."""

    version: str
    sections: tuple[Section, ...]


EMPTY = Layout(_NO_VERSION, ())


class Layouts:
    """Every method raises ServiceUnavailable; `until` in time.monotonic() seconds. Reads are strongly consistent."""

    def __init__(self, client: AwsClient, table: str) -> None:
        self._client = client
        self._table = table

    async def version(self, event_id: str, until: float) -> str:
        """The current version's name."""
        pointer = await self._pointer(event_id, until)
        return str(pointer["version"]["S"]) if pointer else _NO_VERSION

    async def load(self, event_id: str, until: float) -> Layout:
        """EMPTY if the event was never laid out. It keeps the event loop busy for a few milliseconds at a time."""
        for _ in range(_LOOKS):
            pointer = await self._pointer(event_id, until)
            if pointer is None:
                return EMPTY
            version, number = pointer["version"]["S"], int(pointer["parts"]["N"])
            parts = await self._parts(event_id, version, number, until)
            if len(parts) == number:
                heads = orjson.loads(pointer["sections"]["S"])
                return Layout(version, await _decoded(heads, parts))
            # A newer version has replaced these parts since the pointer was read.
        raise ServiceUnavailable

    async def replace(self, event_id: str, before: Layout, sections: Sequence[Section], until: float) -> Layout:
        """Makes `sections` the current version. Raises ServiceUnavailable also if `before` is not current any more."""
        after = Layout(os.urandom(6).hex(), tuple(sections))
        parts = list(_encoded(sections))
        with told_in_domain_terms(writing=True):
            for number, part in enumerate(parts):
                item = layout_part_key(event_id, after.version, number) | {"part": packed(part)}
                await self._client.call("PutItem", {"TableName": self._table, "Item": item}, timeout=TRY_SECONDS)
            try:
                await self._client.call("PutItem", self._pointing(event_id, before, after, len(parts)))
            except ConditionFailed as failed:
                if failed.item is None or failed.item["version"]["S"] != after.version:
                    raise ServiceUnavailable from failed
            await self._delete(event_id, before, until)
        return after

    def _pointing(self, event_id: str, before: Layout, after: Layout, parts: int) -> Item:
        heads = [[section.name, section.kind.value, section.currency] for section in after.sections]
        return {
            "TableName": self._table,
            "Item": layout_key(event_id)
            | {
                "version": {"S": after.version},
                "parts": {"N": str(parts)},
                "sections": {"S": orjson.dumps(heads).decode()},
            },
            "ConditionExpression": "version = :before" if before.version else "attribute_not_exists(pk)",
            **({"ExpressionAttributeValues": {":before": {"S": before.version}}} if before.version else {}),
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    async def _pointer(self, event_id: str, until: float) -> Item | None:
        request = {"TableName": self._table, "Key": layout_key(event_id), "ConsistentRead": True}
        item: Item | None = (await read(self._client, "GetItem", request, until)).get("Item")
        return item

    async def _parts(self, event_id: str, version: str, number: int, until: float) -> list[Item]:
        """In their order."""
        items: list[Item] = []
        for start in range(0, number, _PARTS_A_CALL):
            wanted = range(start, min(start + _PARTS_A_CALL, number))
            keys = [layout_part_key(event_id, version, part) for part in wanted]
            items += await batch_get(self._client, {self._table: keys}, until)
        return sorted(items, key=lambda item: int(item["pk"]["S"].rpartition("#")[2]))

    async def _delete(self, event_id: str, old: Layout, until: float) -> None:
        number = sum(1 for _ in _grouped(old.sections))
        for part in range(number):
            key = layout_part_key(event_id, old.version, part)
            await self._client.call("DeleteItem", {"TableName": self._table, "Key": key}, deadline=until)


def _grouped(sections: Iterable[Section]) -> Iterator[list[tuple[int, Block]]]:
    """Blocks with the index of their section, a part's worth at a time."""
    group: list[tuple[int, Block]] = []
    places = 0
    for index, section in enumerate(sections):
        for block in section.blocks:
            group.append((index, block))
            places += len(block.places)
            if places >= _PLACES_A_PART:
                yield group
                group, places = [], 0
    if group:
        yield group


def _encoded(sections: Iterable[Section]) -> Iterator[bytes]:
    for group in _grouped(sections):
        blocks = [
            [
                index,
                block.number,
                block.row,
                [[each.seat_id, each.number, each.position, each.amount, each.accessible] for each in block.places],
            ]
            for index, block in group
        ]
        yield orjson.dumps(blocks)


async def _decoded(heads: Sequence[Sequence[str]], parts: Iterable[Item]) -> tuple[Section, ...]:
    blocks: list[list[Block]] = [[] for _ in heads]
    for part in parts:
        for index, number, row, places in orjson.loads(unpacked(part["part"])):
            block = Block(number, heads[index][0], row, tuple(Place(*place) for place in places))
            blocks[index].append(block)
        await asyncio.sleep(0)
    return tuple(
        Section(name, SectionKind(kind), currency, tuple(own))
        for (name, kind, currency), own in zip(heads, blocks, strict=True)
    )
