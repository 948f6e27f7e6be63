"""What every field may be. All violations of a request are answered at once, never with the offending value."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from reservation.api.pages import Pages
from reservation.domain.errors import FieldViolation, InvalidRequest
from reservation.gen.com.traffic_tacos.reservation import v1 as messages

ID_LENGTH = 128
KEY_LENGTH = 255
TEXT_LENGTH = 512
TAGS, TAG_LENGTH = 20, 256
METADATA_BYTES = 1024
SEATS_A_PAGE = 500
EXTENSION_SECONDS = 3600

_RESERVED = "#"  # parts an event from a seat in the store's keys
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Violations:
    """Collects what is wrong; `raise_if_any` raises InvalidRequest with all of it."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        self._found.append(FieldViolation(field, description))

    def text(self, field: str, value: str, *, limit: int = ID_LENGTH, required: bool = False) -> None:
        if not value:
            if required:
                self.add(field, "is required")
        elif len(value) > limit:
            self.add(field, f"is longer than {limit} characters")
        elif _CONTROL.search(value):
            self.add(field, "contains control characters")

    def name(self, field: str, value: str) -> None:
        """An id that the store's keys are made of."""
        self.text(field, value, required=True)
        if _RESERVED in value:
            self.add(field, f"contains {_RESERVED}")

    def enum(self, field: str, value: Any) -> None:
        if not value.name:  # an unknown number is a member without a name
            self.add(field, "is not one of its values")

    def between(self, field: str, value: int, low: int, high: int) -> None:
        if not low <= value <= high:
            self.add(field, f"is not between {low} and {high}")

    def page_token(self, token: str, pages: Pages, *, is_begin: Callable[[str], bool] = bool) -> None:
        """`is_begin`: whether a page can begin there. Whoever makes a token up can have it say anything."""
        if token and not is_begin(pages.begin(token) or ""):
            self.add("page_token", "is no token of this list")

    def raise_if_any(self) -> None:
        if self._found:
            raise InvalidRequest(self._found)


def create(request: messages.CreateReservationRequest, *, max_seats: int) -> None:
    """Raises InvalidRequest."""
    violations = Violations()
    violations.name("event_id", request.event_id)
    violations.text("user_id", request.user_id)
    violations.text("reservation_token", request.reservation_token)
    violations.text("section", request.section)
    _seats(violations, request.seat_ids, request.quantity, max_seats)
    if request.metadata is not None:
        _metadata(violations, request.metadata)
    violations.raise_if_any()


def _seats(violations: Violations, seat_ids: list[str], quantity: int, max_seats: int) -> None:
    if len(seat_ids) > max_seats:
        violations.add("seat_ids", f"names more than {max_seats} seats")
        return
    for index, seat_id in enumerate(seat_ids):
        violations.name(f"seat_ids[{index}]", seat_id)
    if len(set(seat_ids)) < len(seat_ids):
        violations.add("seat_ids", "names a seat twice")
    if not seat_ids:
        violations.between("quantity", quantity, 1, max_seats)
    elif quantity not in (0, len(seat_ids)):
        violations.add("quantity", "is not the number of seat_ids")


def _metadata(violations: Violations, metadata: messages.ReservationMetadata) -> None:
    violations.text("metadata.source", metadata.source)
    violations.text("metadata.user_agent", metadata.user_agent, limit=TEXT_LENGTH)
    violations.text("metadata.ip_address", metadata.ip_address)
    violations.text("metadata.session_id", metadata.session_id)
    _tags(violations, metadata.tags)
    if _size(metadata) > METADATA_BYTES:
        violations.add("metadata", f"has more than {METADATA_BYTES} bytes of text")


def _size(metadata: messages.ReservationMetadata) -> int:
    """It is written four times a reservation, and what is written is paid for by the KiB."""
    texts = (metadata.source, metadata.user_agent, metadata.ip_address, metadata.session_id)
    return sum(len(text.encode()) for text in (*texts, *metadata.tags.keys(), *metadata.tags.values()))


def _tags(violations: Violations, tags: Mapping[str, str]) -> None:
    if len(tags) > TAGS:
        violations.add("metadata.tags", f"has more than {TAGS} entries")
    elif any(not name or len(name) > ID_LENGTH or _CONTROL.search(name) for name in tags):
        violations.add("metadata.tags", "has a name that is empty, too long or contains control characters")
    elif any(len(value) > TAG_LENGTH or _CONTROL.search(value) for value in tags.values()):
        violations.add("metadata.tags", "has a value that is too long or contains control characters")


def key(value: str) -> None:
    violations = Violations()
    violations.text("idempotency_key", value, limit=KEY_LENGTH)
    violations.raise_if_any()


def get(request: messages.GetReservationRequest) -> None:
    _by_id(request)


def watch(request: messages.WatchReservationRequest) -> None:
    _by_id(request)


def confirm(request: messages.ConfirmReservationRequest) -> None:
    _by_id(request, lambda violations: violations.text("payment_intent_id", request.payment_intent_id, required=True))


def cancel(request: messages.CancelReservationRequest) -> None:
    _by_id(request, lambda violations: violations.text("reason", request.reason, limit=TEXT_LENGTH))


def extend(request: messages.ExtendHoldRequest) -> None:
    def more(violations: Violations) -> None:
        violations.between("extension_seconds", request.extension_seconds, 1, EXTENSION_SECONDS)
        violations.text("reason", request.reason, limit=TEXT_LENGTH)

    _by_id(request, more)


def _by_id(
    request: (
        messages.GetReservationRequest
        | messages.WatchReservationRequest
        | messages.ConfirmReservationRequest
        | messages.CancelReservationRequest
        | messages.ExtendHoldRequest
    ),
    more: Callable[[Violations], None] = lambda violations: None,
) -> None:
    violations = Violations()
    violations.text("reservation_id", request.reservation_id, required=True)
    violations.text("user_id", request.user_id)
    more(violations)
    violations.raise_if_any()


def check_availability(request: messages.CheckAvailabilityRequest, *, max_seats: int) -> None:
    violations = Violations()
    violations.name("event_id", request.event_id)
    violations.text("section", request.section)
    _seats(violations, request.seat_ids, request.quantity, max_seats)
    violations.raise_if_any()


def inventory_status(request: messages.GetInventoryStatusRequest) -> None:
    violations = Violations()
    violations.name("event_id", request.event_id)
    violations.text("section", request.section)
    violations.raise_if_any()


def list_seats(request: messages.ListSeatsRequest, pages: Pages) -> None:
    violations = Violations()
    violations.name("event_id", request.event_id)
    violations.text("section", request.section)
    violations.between("page_size", request.page_size, 0, SEATS_A_PAGE)
    violations.page_token(request.page_token, pages, is_begin=str.isdecimal)
    violations.raise_if_any()


def list_(request: messages.ListReservationsRequest, pages: Pages) -> None:
    violations = Violations()
    violations.text("user_id", request.user_id)
    violations.text("event_id", request.event_id)
    violations.enum("status", request.status)
    violations.between("page_size", request.page_size, 0, 100)
    violations.page_token(request.page_token, pages)
    violations.raise_if_any()
