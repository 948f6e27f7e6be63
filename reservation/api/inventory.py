"""InventoryService."""

import grpc

from reservation.api import convert, validation
from reservation.api.call import Call
from reservation.api.pages import Pages
from reservation.api.registration import Answer, Method, service
from reservation.api.reservations import unimplemented
from reservation.availability import Availability
from reservation.domain.commands import Wish
from reservation.gen.com.traffic_tacos.reservation import v1 as messages


class InventoryHandlers:
    """One method an rpc: validate, one use case, convert."""

    def __init__(self, availability: Availability, *, max_seats: int) -> None:
        self._availability = availability
        self._max_seats = max_seats

    async def check(self, request: messages.CheckAvailabilityRequest, call: Call) -> Answer:
        validation.check_availability(request, max_seats=self._max_seats)
        wish = Wish(request.quantity, request.section)
        prospect = await self._availability.check(request.event_id, tuple(request.seat_ids), wish, call.until)
        return Answer(convert.prospect(prospect))

    async def status(self, request: messages.GetInventoryStatusRequest, call: Call) -> Answer:
        validation.inventory_status(request)
        counts, as_of = await self._availability.counts(request.event_id, request.section, call.until)
        return Answer(convert.inventory_status(request.event_id, counts, as_of))

    async def seats(self, request: messages.ListSeatsRequest, call: Call) -> Answer:
        pages = Pages("seats", request.event_id, request.section)
        validation.list_seats(request, pages)
        page = await self._availability.seats(
            request.event_id,
            request.section,
            int(pages.begin(request.page_token) or 0),
            request.page_size or validation.SEATS_A_PAGE,
            call.until,
        )
        return Answer(convert.seat_page(page, pages))


def inventory_service(handlers: InventoryHandlers) -> grpc.GenericRpcHandler:
    return service(
        "InventoryService",
        [
            Method("CheckAvailability", messages.CheckAvailabilityRequest, handlers.check),
            Method("ReserveSeat", messages.ReserveSeatRequest, unimplemented),
            Method("CommitReservation", messages.CommitReservationRequest, unimplemented),
            Method("ReleaseHold", messages.ReleaseHoldRequest, unimplemented),
            Method("GetInventoryStatus", messages.GetInventoryStatusRequest, handlers.status),
            Method("ListSeats", messages.ListSeatsRequest, handlers.seats),
        ],
    )
