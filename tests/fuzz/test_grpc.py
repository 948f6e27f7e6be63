"""Hostile bytes, messages and metadata to every method of the port: what is refused, and how."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from reservation.api.descriptors import pool
from reservation.api.pages import Pages
from reservation.catalog import Catalog
from reservation.domain.model import Event, Money, Seat, Status
from tests.support.fuzz import examples
from tests.support.hostile_requests import Known, metadata, requests, timeouts
from tests.support.leaks import leaks
from tests.support.system import (
    ERROR_DOMAIN,
    EVENT_ID,
    PACKAGE,
    System,
    hold,
    own_settings,
    refusal_of,
    selling,
)
from tests.unit.examples import in_state

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_SECONDS = 15
"""A command takes 2.5 s at most; the rest is for a busy machine."""

ODD = "evt 좌석\u2028'\"<x>\U0001f3ab"
ODD_SEATS = tuple(
    Seat(f"{n}" + "\U0001f3ab" * 127, "S" * 128, "é" * 128, str(n), Money(10**12, "KRW")) for n in range(10)
)

_DESCRIPTORS: list[MethodDescriptor] = [
    method
    for service in (
        *(pool().FindServiceByName(f"{PACKAGE}.{name}") for name in ("ReservationService", "InventoryService")),
        health_pb2.DESCRIPTOR.services_by_name["Health"],
        reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    )
    for method in service.methods
]
METHODS = {f"/{method.containing_service.full_name}/{method.name}": method for method in _DESCRIPTORS}


@dataclass(frozen=True)
class Sent:
    message: bytes
    metadata: Sequence[tuple[str, str | bytes]]
    timeout: float | None

    @property
    def asked(self) -> str:
        """All that was said, in whatever language."""
        return repr(self) + self.message.decode(errors="replace")


@dataclass(frozen=True, repr=False)
class World:
    """A service with something to find, what it has logged, and what grpc and asyncio have logged as errors."""

    system: System
    calls: dict[str, st.SearchStrategy[list[Sent]]]
    logged: list[Any]
    errors: list[logging.LogRecord]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(ministack_url: str) -> AsyncIterator[World]:
    with capture_logs() as logged, grpc_errors() as errors:
        async with selling(own_settings(ministack_url)) as system:
            await system.put_on_sale(Catalog(Event(ODD, max_holds_per_user=2), ODD_SEATS))
            reservations = [
                *[await hold(system.channel, system.fresh_seats(), user_id=user) for user in ("", "ann", "\U0001f3ab")],
                *[
                    (await system.store(replace(in_state(status), hold_expires_at=4_102_444_800_000))).id
                    for status in Status
                ],
            ]
            known = known_of(reservations, system)
            yield World(system, {path: calls_of(METHODS[path], known) for path in METHODS}, logged, errors)


def calls_of(method: MethodDescriptor, known: Known) -> st.SearchStrategy[list[Sent]]:
    """A few calls at a time."""
    calls = st.builds(Sent, requests(method.input_type, known), metadata, timeouts)
    return st.lists(calls, min_size=1, max_size=6)


def known_of(reservations: list[str], system: System) -> Known:
    users = ["", "ann", "user_1", "\U0001f3ab", "u" * 128, "\U0001f3ab" * 128]
    return {
        "event_id": [EVENT_ID, EVENT_ID, ODD, "evt_none"],
        "seat_ids": [*system.fresh_seats(40), *(seat.id for seat in ODD_SEATS)],
        "reservation_id": [*reservations, "rsv_none", "\U0001f3ab" * 128],
        "user_id": users,
        "quantity": [0, 1, 2],
        "section": ["", "Floor", "Standing", "S" * 128],
        "extension_seconds": [1, 30],
        "payment_intent_id": ["pay_1", "p" * 128, "\U0001f3ab" * 128],
        "idempotency_key": ["", "key_1", "k" * 255, '"quoted"', "\U0001f3ab" * 255],
        "reservation_token": ["", "token_1", "\U0001f3ab" * 128],
        "reason": ["", "why", "\U0001f3ab" * 512],
        "seconds": [1_790_000_000, 4_102_444_800],
        "page_size": [0, 1, 100],
        "page_token": ["", *made_up_tokens()],
        "status": list(range(9)),
        "service": ["", "readiness", "liveness", "none"],
        "file_containing_symbol": [PACKAGE, f"{PACKAGE}.ReservationService", "none"],
        "file_by_filename": ["google/protobuf/timestamp.proto", "none"],
    }


def made_up_tokens() -> Iterator[str]:
    """A token is no secret: whoever knows how can have it say anything."""
    for pages in (Pages("seats", EVENT_ID, ""), Pages("reservations", "ann", "", "0")):
        yield from map(pages.token, ("0", "20", "9" * 250, "\u0663", "-1", "x", "\U0001f3ab" * 60, "\0", "rsv_none"))


@contextmanager
def grpc_errors() -> Iterator[list[logging.LogRecord]]:
    """What grpc logs about handlers that failed, and asyncio about tasks that did.

    That a caller has left before it was answered is no failure; grpc logs it as "raised in core".
    """
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "raised in core" not in record.getMessage():
                records.append(record)

    handler = Keep(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield records
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("path", METHODS)
@given(data=st.data())
@examples(20)
async def test_whatever_comes_is_answered_or_refused_in_our_own_words(
    world: World, path: str, data: st.DataObject
) -> None:
    sent = data.draw(world.calls[path])
    world.logged.clear()
    world.errors.clear()
    async with asyncio.timeout(PATIENCE_SECONDS):
        outcomes = await asyncio.gather(*(_outcome(world.system.channel, path, each) for each in sent))
    for each, outcome in zip(sent, outcomes, strict=True):
        if isinstance(outcome, grpc.aio.AioRpcError):
            check_refusal(outcome, path, each)
        elif outcome:
            message_factory.GetMessageClass(METHODS[path].output_type).FromString(outcome)
    assert [entry for entry in world.logged if entry["log_level"] in ("error", "critical")] == []
    assert [record.getMessage() for record in world.errors] == []


async def _outcome(channel: grpc.aio.Channel, path: str, sent: Sent) -> bytes | grpc.aio.AioRpcError:
    """The first message of the answer. On the wire each kind of call is a stream."""
    rpc = channel.unary_stream(path)(sent.message, metadata=tuple(sent.metadata), timeout=sent.timeout)
    try:
        answer = await rpc.read()
        return answer if isinstance(answer, bytes) else b""
    except grpc.aio.AioRpcError as error:
        return error
    finally:
        rpc.cancel()


def check_refusal(error: grpc.aio.AioRpcError, path: str, sent: Sent) -> None:
    refused = refusal_of(error)
    assert refused.status not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    assert leaks(refused.text, sent.asked) == []
    told_as_rest = "x-error-body" in refused.trailing
    by_grpc_itself = refused.status is grpc.StatusCode.RESOURCE_EXHAUSTED or (
        sent.timeout is not None and refused.status is grpc.StatusCode.DEADLINE_EXCEEDED
    )
    if PACKAGE in path and not told_as_rest and not by_grpc_itself:
        assert refused.domain == ERROR_DOMAIN
