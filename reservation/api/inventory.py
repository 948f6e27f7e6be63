"""InventoryService."""

import grpc

from reservation.api import convert, validation
from reservation.api.call import Call
from reservation.api.registration import Answer, Method, service
from reservation.api.reservations import unimplemented
from reservation.domain.errors import Forbidden
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.holds import Holds


class InventoryHandlers:
    """One method an rpc: validate, one use case, convert.

    The commands are for services that sell from this inventory. Whoever comes through the edge is none of them: it
    passes native gRPC on as it comes, so a customer could sell a seat without paying.
    """

    def __init__(self, holds: Holds, *, max_seats: int) -> None:
        self._holds = holds
        self._max_seats = max_seats

    async def reserve(self, request: messages.ReserveSeatRequest, call: Call) -> Answer:
        _require_service(call)
        validation.reserve(request, max_seats=self._max_seats)
        return Answer(convert.reserved(await self._holds.reserve(convert.reserve_command(request), call.until)))

    async def commit(self, request: messages.CommitReservationRequest, call: Call) -> Answer:
        _require_service(call)
        validation.commit(request, max_seats=self._max_seats)
        return Answer(convert.committed(await self._holds.commit(convert.commit_command(request), call.until)))

    async def release(self, request: messages.ReleaseHoldRequest, call: Call) -> Answer:
        _require_service(call)
        validation.release(request, max_seats=self._max_seats)
        return Answer(convert.released(await self._holds.release(convert.release_command(request), call.until)))


def _require_service(call: Call) -> None:
    if call.via_edge:
        raise Forbidden


def inventory_service(handlers: InventoryHandlers | None) -> grpc.GenericRpcHandler:
    """`handlers`: none where the seats are another service's."""
    reserve, commit, release = (
        (handlers.reserve, handlers.commit, handlers.release) if handlers is not None else (unimplemented,) * 3
    )
    return service(
        "InventoryService",
        [
            Method("CheckAvailability", messages.CheckAvailabilityRequest, unimplemented),
            Method("ReserveSeat", messages.ReserveSeatRequest, reserve),
            Method("CommitReservation", messages.CommitReservationRequest, commit),
            Method("ReleaseHold", messages.ReleaseHoldRequest, release),
            Method("GetInventoryStatus", messages.GetInventoryStatusRequest, unimplemented),
            Method("ListSeats", messages.ListSeatsRequest, unimplemented),
        ],
    )
