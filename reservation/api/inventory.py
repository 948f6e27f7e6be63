"""InventoryService."""

import grpc

from reservation.api import convert, validation
from reservation.api.call import Call
from reservation.api.limits import Limits, Priority
from reservation.api.outcomes import Outcomes
from reservation.api.pages import Pages
from reservation.api.registration import Answer, Handler, Method, service
from reservation.api.reservations import unimplemented
from reservation.api.rules import SEATS_A_PAGE
from reservation.auth.access import Access
from reservation.auth.caller import Right
from reservation.availability import Availability
from reservation.domain.model import Wish
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.holds import Holds


class InventoryHandlers:
    """One method an rpc: validate, one use case, convert."""

    def __init__(self, availability: Availability, holds: Holds, *, max_seats: int) -> None:
        self._availability = availability
        self._holds = holds
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
            request.page_size or SEATS_A_PAGE,
            call.until,
        )
        return Answer(convert.seat_page(page, pages))

    async def reserve(self, request: messages.ReserveSeatRequest, call: Call) -> Answer:
        validation.reserve(request, max_seats=self._max_seats)
        return Answer(convert.reserved(await self._holds.reserve(convert.reserve_command(request), call.until)))

    async def commit(self, request: messages.CommitReservationRequest, call: Call) -> Answer:
        validation.commit(request, max_seats=self._max_seats)
        return Answer(convert.committed(await self._holds.commit(convert.commit_command(request), call.until)))

    async def release(self, request: messages.ReleaseHoldRequest, call: Call) -> Answer:
        validation.release(request, max_seats=self._max_seats)
        return Answer(convert.released(await self._holds.release(convert.release_command(request), call.until)))


def inventory_service(
    handlers: InventoryHandlers | None, access: Access, limits: Limits, outcomes: Outcomes | None = None
) -> grpc.GenericRpcHandler:
    """`handlers`: none where the seats are another service's.

    The commands are for services that sell from this inventory: a customer could sell a seat without paying.
    """

    def served(name: str) -> Handler:
        handler: Handler = getattr(handlers, name) if handlers is not None else unimplemented
        return handler

    return service(
        "InventoryService",
        [
            Method("CheckAvailability", messages.CheckAvailabilityRequest, served("check"), Right.INVENTORY_READ),
            Method("ReserveSeat", messages.ReserveSeatRequest, served("reserve"), Right.INVENTORY_WRITE),
            Method(
                "CommitReservation",
                messages.CommitReservationRequest,
                served("commit"),
                Right.INVENTORY_WRITE,
                Priority.PAYING,
            ),
            Method(
                "ReleaseHold", messages.ReleaseHoldRequest, served("release"), Right.INVENTORY_WRITE, Priority.HOLDER
            ),
            Method("GetInventoryStatus", messages.GetInventoryStatusRequest, served("status"), Right.INVENTORY_READ),
            Method("ListSeats", messages.ListSeatsRequest, served("seats"), Right.INVENTORY_READ),
        ],
        access,
        limits,
        outcomes,
    )
