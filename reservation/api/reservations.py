"""ReservationService."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from reservation.api import convert, validation
from reservation.api.call import Call
from reservation.api.limits import Limits, Priority
from reservation.api.outcomes import Outcomes
from reservation.api.pages import Pages
from reservation.api.registration import Answer, Method, Stream, service
from reservation.auth.access import Access
from reservation.auth.caller import Right
from reservation.domain.errors import NotImplementedYet
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.ports import Recorded
from reservation.service import Reservations
from reservation.watches import Watches

_REPLAYED = (("idempotent-replayed", "true"),)


class ReservationHandlers:
    """One method an rpc: validate, one use case, convert."""

    def __init__(self, reservations: Reservations, watches: Watches, *, max_seats: int) -> None:
        self._reservations = reservations
        self._watches = watches
        self._max_seats = max_seats

    async def create(self, request: messages.CreateReservationRequest, call: Call) -> Answer:
        validation.create(request, max_seats=self._max_seats)
        key = _key(call, request.idempotency_key, required_at_edge=True)
        recorded = await self._reservations.create(convert.create_command(request, call, key), call.until)
        reservation, headers = recorded.reservation, call.created_headers + _headers(recorded)
        return Answer(convert.created(reservation), headers, about=reservation.id)

    async def get(self, request: messages.GetReservationRequest, call: Call) -> Answer:
        validation.get(request)
        found = await self._reservations.get(request.reservation_id, call.owner, call.until)
        return Answer(convert.reservation_body(found))

    async def confirm(self, request: messages.ConfirmReservationRequest, call: Call) -> Answer:
        validation.confirm(request)
        key = _key(call, request.idempotency_key)
        recorded = await self._reservations.confirm(convert.confirm_command(request, call, key), call.until)
        return Answer(convert.confirmed(recorded.reservation), _headers(recorded))

    async def cancel(self, request: messages.CancelReservationRequest, call: Call) -> Answer:
        validation.cancel(request)
        key = _key(call, request.idempotency_key)
        recorded = await self._reservations.cancel(convert.cancel_command(request, call, key), call.until)
        return Answer(convert.cancelled(recorded.reservation), _headers(recorded))

    async def extend(self, request: messages.ExtendHoldRequest, call: Call) -> Answer:
        validation.extend(request)
        key = _key(call, request.idempotency_key)
        recorded = await self._reservations.extend(convert.extend_command(request, call, key), call.until)
        # An equal request asked for as many seconds, so this holds for a replay too.
        return Answer(convert.extended(recorded.reservation, request.extension_seconds), _headers(recorded))

    async def list(self, request: messages.ListReservationsRequest, call: Call) -> Answer:
        pages = Pages("reservations", call.user, request.event_id, str(int(request.status)))
        validation.list_(request, pages)
        page = await self._reservations.page(convert.listing(request, call, pages), call.until)
        return Answer(convert.listed(page, pages))

    async def watch(self, request: messages.WatchReservationRequest, call: Call) -> AsyncGenerator[bytes]:
        validation.watch(request)
        watch = self._watches.watch(request.reservation_id, call.owner, call.until)
        async with aclosing(watch) as states:
            async for state in states:
                yield convert.reservation_body(state)


async def unimplemented(_request: object, _call: Call) -> Answer:
    raise NotImplementedYet


def reservation_service(
    handlers: ReservationHandlers, access: Access, limits: Limits, outcomes: Outcomes | None = None
) -> grpc.GenericRpcHandler:
    return service(
        "ReservationService",
        [
            Method(
                "CreateReservation",
                messages.CreateReservationRequest,
                handlers.create,
                Right.RESERVATIONS,
                success=201,
            ),
            Method("GetReservation", messages.GetReservationRequest, handlers.get, Right.RESERVATIONS),
            Method(
                "ConfirmReservation",
                messages.ConfirmReservationRequest,
                handlers.confirm,
                Right.RESERVATIONS,
                Priority.PAYING,
            ),
            Method(
                "CancelReservation",
                messages.CancelReservationRequest,
                handlers.cancel,
                Right.RESERVATIONS,
                Priority.HOLDER,
            ),
            Method("ExtendHold", messages.ExtendHoldRequest, handlers.extend, Right.RESERVATIONS, Priority.HOLDER),
            Method("ListReservations", messages.ListReservationsRequest, handlers.list, Right.RESERVATIONS),
            Stream(
                "WatchReservation",
                messages.WatchReservationRequest,
                handlers.watch,
                Right.RESERVATIONS,
                convert.in_band,
            ),
        ],
        access,
        limits,
        outcomes,
    )


def _key(call: Call, from_message: str, *, required_at_edge: bool = False) -> str:
    key = call.key(from_message, required_at_edge=required_at_edge)
    validation.key(key)
    return key


def _headers(recorded: Recorded) -> tuple[tuple[str, str], ...]:
    return _REPLAYED if recorded.replayed else ()
