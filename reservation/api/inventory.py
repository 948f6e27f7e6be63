"""InventoryService."""

import grpc

from reservation.api.registration import Method, service
from reservation.api.reservations import unimplemented
from reservation.gen.com.traffic_tacos.reservation import v1 as messages


def inventory_service() -> grpc.GenericRpcHandler:
    """No method of it is served yet; each answers UNIMPLEMENTED in the common form."""
    return service(
        "InventoryService",
        [
            Method("CheckAvailability", messages.CheckAvailabilityRequest, unimplemented),
            Method("ReserveSeat", messages.ReserveSeatRequest, unimplemented),
            Method("CommitReservation", messages.CommitReservationRequest, unimplemented),
            Method("ReleaseHold", messages.ReleaseHoldRequest, unimplemented),
            Method("GetInventoryStatus", messages.GetInventoryStatusRequest, unimplemented),
            Method("ListSeats", messages.ListSeatsRequest, unimplemented),
        ],
    )
