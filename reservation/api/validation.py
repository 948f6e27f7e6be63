"""Enforces the rules, and beside them what depends on more than one field. All violations of a request are answered at
once, never with the offending value."""

import re
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter, call
from typing import Any

from reservation.api.pages import Pages
from reservation.api.rules import KEY, METADATA, RULES, STORED, TAGS, Choice, Number, Text
from reservation.domain.errors import FieldViolation, InvalidRequest
from reservation.gen.com.traffic_tacos.reservation import v1 as messages

Violations = list[FieldViolation]


def _fits(rule: Text | Number | Choice) -> Callable[[Any], object]:
    """Whether a value is good. Written in C throughout, because nearly all are."""
    match rule:
        case Text(limit=limit, required=required):
            return re.compile(f"{rule.characters}{{{int(required)},{limit}}}").fullmatch
        case Number(low=low, high=high):
            return range(low, high + 1).__contains__
        case Choice():
            return attrgetter("name")  # an unknown number is a member without a name


def _wrong(rule: Text | Number | Choice, value: Any) -> Iterator[str]:
    """Everything that is wrong with a value."""
    match rule:
        case Text():
            yield from _wrong_text(rule, value)
        case Number(low=low, high=high):
            if not low <= value <= high:
                yield f"is not between {low} and {high}"
        case Choice():
            if not value.name:
                yield "is not one of its values"


def _wrong_text(rule: Text, value: str) -> Iterator[str]:
    if not value:
        if rule.required:
            yield "is required"
    elif len(value) > rule.limit:
        yield f"is longer than {rule.limit} characters"
    elif _CONTROL.search(value):
        yield "contains control characters"
    for character in rule.without:
        if character in value:
            yield f"contains {character}"


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _Fields:
    """The fields of one message that can be judged by themselves."""

    def __init__(self, message: str) -> None:
        self._rules = {
            field: rule for field, rule in RULES[message].items() if isinstance(rule, Text | Number | Choice)
        }
        self._fits = tuple(map(_fits, self._rules.values()))
        self._values = attrgetter(*self._rules)

    def violations(self, message: Any, prefix: str = "") -> Violations:
        if all(map(call, self._fits, self._values(message))):
            return []
        return [
            FieldViolation(prefix + field, description)
            for field, rule in self._rules.items()
            for description in _wrong(rule, getattr(message, field))
        ]


_FIELDS = {getattr(messages, name): _Fields(name) for name in RULES}


def _violations(request: Any) -> Violations:
    return _FIELDS[type(request)].violations(request)


def _check(request: Any) -> None:
    """For a message in which no field depends on another."""
    if found := _FIELDS[type(request)].violations(request):
        raise InvalidRequest(found)


def _refuse(found: Violations) -> None:
    if found:
        raise InvalidRequest(found)


def create(request: messages.CreateReservationRequest, *, max_seats: int) -> None:
    """Raises InvalidRequest, as all of these functions do."""
    found = _violations(request)
    found += _seats(request.seat_ids, request.quantity, max_seats)
    if request.metadata is not None:
        found += _metadata(request.metadata)
    _refuse(found)


_fits_seat = _fits(STORED)


def _seats(seat_ids: list[str], quantity: int, max_seats: int, *, fewest: int = 1) -> Violations:
    """`fewest`: how many have to be asked for where none are named."""
    if not seat_ids:
        if fewest <= quantity <= max_seats:
            return []
        return [FieldViolation("quantity", f"is not between {fewest} and {max_seats}")]
    if len(seat_ids) > max_seats:
        return [FieldViolation("seat_ids", f"names more than {max_seats} seats")]
    found: Violations = []
    if not all(map(_fits_seat, seat_ids)):
        for index, seat_id in enumerate(seat_ids):
            found += [FieldViolation(f"seat_ids[{index}]", each) for each in _wrong_text(STORED, seat_id)]
    if len(set(seat_ids)) < len(seat_ids):
        found.append(FieldViolation("seat_ids", "names a seat twice"))
    if quantity not in (0, len(seat_ids)):
        found.append(FieldViolation("quantity", "is not the number of seat_ids"))
    return found


def _metadata(metadata: messages.ReservationMetadata) -> Violations:
    found = _FIELDS[messages.ReservationMetadata].violations(metadata, "metadata.")
    if metadata.tags:
        found += _tags(metadata.tags)
    if _size(metadata) > METADATA.size:
        found.append(FieldViolation("metadata", f"has more than {METADATA.size} bytes of text"))
    return found


def _size(metadata: messages.ReservationMetadata) -> int:
    """It is written four times a reservation, and what is written is paid for by the KiB."""
    texts = (metadata.source, metadata.user_agent, metadata.ip_address, metadata.session_id)
    return sum(len(text.encode()) for text in (*texts, *metadata.tags.keys(), *metadata.tags.values()))


_fits_tag_name, _fits_tag_value = _fits(TAGS.name), _fits(TAGS.value)


def _tags(tags: Mapping[str, str]) -> Violations:
    if len(tags) > TAGS.most:
        description = f"has more than {TAGS.most} entries"
    elif not all(map(_fits_tag_name, tags)):
        description = "has a name that is empty, too long or contains control characters"
    elif not all(map(_fits_tag_value, tags.values())):
        description = "has a value that is too long or contains control characters"
    else:
        return []
    return [FieldViolation("metadata.tags", description)]


_fits_key = _fits(KEY)


def key(value: str) -> None:
    """The idempotency key, wherever it came from."""
    if not _fits_key(value):
        _refuse([FieldViolation("idempotency_key", each) for each in _wrong_text(KEY, value)])


def get(request: messages.GetReservationRequest) -> None:
    _check(request)


def watch(request: messages.WatchReservationRequest) -> None:
    _check(request)


def confirm(request: messages.ConfirmReservationRequest) -> None:
    _check(request)


def cancel(request: messages.CancelReservationRequest) -> None:
    _check(request)


def extend(request: messages.ExtendHoldRequest) -> None:
    _check(request)


def list_(request: messages.ListReservationsRequest, pages: Pages) -> None:
    _refuse(_violations(request) + _page_token(request.page_token, pages))


def _page_token(token: str, pages: Pages, *, is_begin: Callable[[str], bool] = bool) -> Violations:
    """`is_begin`: whether a page can begin there. Whoever makes a token up can have it say anything."""
    if token and not is_begin(pages.begin(token) or ""):
        return [FieldViolation("page_token", "is no token of this list")]
    return []


def check_availability(request: messages.CheckAvailabilityRequest, *, max_seats: int) -> None:
    _refuse(_violations(request) + _seats(request.seat_ids, request.quantity, max_seats))


def inventory_status(request: messages.GetInventoryStatusRequest) -> None:
    _check(request)


def list_seats(request: messages.ListSeatsRequest, pages: Pages) -> None:
    _refuse(_violations(request) + _page_token(request.page_token, pages, is_begin=str.isdecimal))


def reserve(request: messages.ReserveSeatRequest, *, max_seats: int) -> None:
    _refuse(_violations(request) + _seats(request.seat_ids, request.quantity, max_seats))


def commit(request: messages.CommitReservationRequest, *, max_seats: int) -> None:
    """The seats need not be named: the hold has them."""
    _refuse(_violations(request) + _seats(request.seat_ids, request.quantity, max_seats, fewest=0))


def release(request: messages.ReleaseHoldRequest, *, max_seats: int) -> None:
    """As for commit."""
    _refuse(_violations(request) + _seats(request.seat_ids, request.quantity, max_seats, fewest=0))
