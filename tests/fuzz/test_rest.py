"""The OpenAPI document held against the whole system: whatever is asked, the answer is one that it tells of."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
import requests
import schemathesis
from hypothesis import given, note
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from reservation import edge as edge_files
from tests.support.edge import check_nothing_internal
from tests.support.fuzz import examples
from tests.support.leaks import leaks
from tests.support.rest import hold
from tests.support.system import edge_of, own_settings, selling

pytestmark = pytest.mark.asyncio(loop_scope="module")

_CHECKS: Any = [not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance]


def _parsed(result: Any) -> Any:
    """Fails if the document is wrong there."""
    return result.ok()


_SCHEMA = schemathesis.openapi.from_path(edge_files.directory() / "openapi.json")
OPERATIONS: dict[str, Any] = {operation.label: operation for operation in map(_parsed, _SCHEMA.get_all_operations())}
TOLD, OTHERWISE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CASES: list[tuple[str, GenerationMode]] = [
    (label, mode)
    for label, operation in OPERATIONS.items()
    for mode in (TOLD, OTHERWISE)
    if mode is TOLD or next(operation.iter_parameters(), None)
]


@dataclass(frozen=True, repr=False)
class World:
    """The edge, and reservations that are there."""

    rest: httpx.AsyncClient
    reservation_ids: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(ministack_url: str) -> AsyncIterator[World]:
    async with selling(own_settings(ministack_url)) as system, edge_of(system) as edge:
        yield World(edge.rest, [await hold(edge.rest, system.fresh_seats()) for _ in range(5)])


@pytest.mark.parametrize(("label", "mode"), CASES, ids=lambda value: value if isinstance(value, str) else value.value)
@given(data=st.data())
@examples(6)
async def test_every_answer_is_one_that_the_document_tells_of(
    world: World, label: str, mode: GenerationMode, data: st.DataObject
) -> None:
    case: Any = data.draw(OPERATIONS[label].as_strategy(generation_mode=mode))
    known = data.draw(st.none() | st.sampled_from(world.reservation_ids))
    for part in (case.path_parameters, case.body):
        if known is not None and isinstance(part, dict) and "reservationId" in part:
            part["reservationId"] = known
    note(case.as_curl_command())
    answer = await _answer(world.rest, case)
    is_stream = answer.headers["content-type"] == "text/event-stream"  # of which the document describes the text
    case.validate_response(answer, checks=_CHECKS if is_stream else [*_CHECKS, response_schema_conformance])
    if label != "GET /v3/api-docs":  # which may be kept
        check_nothing_internal(answer)
    if answer.status_code >= 400 and "health" not in label:
        (error,) = answer.json().values()
        assert leaks(error["message"]) == []


async def _answer(rest: httpx.AsyncClient, case: Any) -> httpx.Response:
    """As `requests` would send it; of a stream only what comes first, because it lasts as long as a reservation."""
    prepared: Any = requests.Request(**case.as_transport_kwargs(base_url=str(rest.base_url))).prepare()
    headers = {name: value.strip() for name, value in prepared.headers.items()}
    asked = httpx.Request(prepared.method, prepared.url, headers=headers, content=prepared.body)
    answer = await rest.send(asked, stream=True)
    try:
        if answer.headers.get("content-type") == "text/event-stream":
            content = await anext(answer.aiter_bytes())
        else:
            content = await answer.aread()
    finally:
        await answer.aclose()
    headers_left = [(name, value) for name, value in answer.headers.multi_items() if name != "content-encoding"]
    whole = httpx.Response(answer.status_code, headers=headers_left, content=content, request=asked)
    whole.elapsed = answer.elapsed
    return whole
