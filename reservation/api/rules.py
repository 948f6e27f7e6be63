"""What every field of every request may be, as data: validation enforces it, and the OpenAPI document tells it.

So no limit can be told that is not enforced. What depends on more than one field stands in validation as a function.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

ID_LENGTH = 128
KEY_LENGTH = 255
TEXT_LENGTH = 512
TOKEN_LENGTH = 512
SEATS = 10
SEATS_A_PAGE = 500
RESERVATIONS_A_PAGE = 100
EXTENSION_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Text:
    """At most `limit` characters, no control characters, none of `without`. Empty is as good as absent."""

    limit: int = ID_LENGTH
    required: bool = False
    without: str = ""

    @property
    def characters(self) -> str:
        """A class of a regular expression, of what may be in it. Python and ECMAScript read it alike."""
        return r"[^\x00-\x1f\x7f-\x9f" + self.without.replace("\\", r"\\") + "]"


@dataclass(frozen=True, slots=True)
class Number:
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the enum's values."""


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false: its type says it all."""


@dataclass(frozen=True, slots=True)
class Time:
    """Within the years 1 to 9999: nothing else can be decoded. The use case knows which time makes sense."""


@dataclass(frozen=True, slots=True)
class Part:
    """A message that has rules of its own, and at most `size` bytes of text."""

    message: str
    size: int


@dataclass(frozen=True, slots=True)
class Seats:
    """Different ids. A deployment, or an event, may allow fewer than `most`."""

    each: Text
    most: int


@dataclass(frozen=True, slots=True)
class Quantity:
    """How many seats: 0 where they are named. `most` as in Seats."""

    most: int


@dataclass(frozen=True, slots=True)
class Tags:
    most: int
    name: Text
    value: Text


@dataclass(frozen=True, slots=True)
class Token:
    """What an earlier page gave, as it was."""

    limit: int


Rule = Text | Number | Choice | Flag | Time | Part | Seats | Quantity | Tags | Token

ID = Text()
REQUIRED = replace(ID, required=True)
STORED = replace(REQUIRED, without="#")  # parts an event from a seat in the store's keys
KEY = Text(KEY_LENGTH)
WORDS = Text(TEXT_LENGTH)
SEAT_IDS = Seats(STORED, SEATS)
TAGS = Tags(20, name=REQUIRED, value=Text(256))
METADATA = Part("ReservationMetadata", 1024)
PAGE_TOKEN = Token(TOKEN_LENGTH)

_SOUGHT: dict[str, Rule] = {"seat_ids": SEAT_IDS, "quantity": Quantity(SEATS)}
_ONE: dict[str, Rule] = {"reservation_id": REQUIRED, "user_id": ID}
_COMMAND: dict[str, Rule] = _ONE | {"idempotency_key": KEY}
_OF_HOLD: dict[str, Rule] = {"reservation_id": STORED, "event_id": STORED, "idempotency_key": KEY} | _SOUGHT
_OF_EVENT: dict[str, Rule] = {"event_id": STORED, "section": ID}

RULES: Mapping[str, Mapping[str, Rule]] = {
    "CreateReservationRequest": {
        "event_id": STORED,
        "user_id": ID,
        "reservation_token": ID,
        "idempotency_key": KEY,
        "section": ID,
        **_SOUGHT,
        "allow_split": Flag(),
        "accessible": Flag(),
        "metadata": METADATA,
    },
    "ReservationMetadata": {
        "source": ID,
        "user_agent": WORDS,
        "ip_address": ID,
        "session_id": ID,
        "tags": TAGS,
    },
    "GetReservationRequest": _ONE,
    "WatchReservationRequest": _ONE,
    "ConfirmReservationRequest": _COMMAND | {"payment_intent_id": REQUIRED},
    "CancelReservationRequest": _COMMAND | {"reason": WORDS},
    "ExtendHoldRequest": _COMMAND | {"extension_seconds": Number(1, EXTENSION_SECONDS), "reason": WORDS},
    "ListReservationsRequest": {
        "user_id": ID,
        "event_id": ID,
        "status": Choice(),
        "page_size": Number(0, RESERVATIONS_A_PAGE),
        "page_token": PAGE_TOKEN,
    },
    "CheckAvailabilityRequest": _OF_EVENT | _SOUGHT,
    "GetInventoryStatusRequest": _OF_EVENT,
    "ListSeatsRequest": _OF_EVENT | {"page_size": Number(0, SEATS_A_PAGE), "page_token": PAGE_TOKEN},
    "ReserveSeatRequest": _OF_HOLD | {"user_id": ID, "section": ID, "allow_split": Flag(), "hold_expires_at": Time()},
    "CommitReservationRequest": _OF_HOLD | {"user_id": ID, "payment_intent_id": REQUIRED},
    "ReleaseHoldRequest": _OF_HOLD | {"reason": WORDS},
}
"""By the name of the message and of the field. Violations are told in this order."""
