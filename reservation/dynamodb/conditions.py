"""What the commands' transactions assert of an item, each condition by its name.

The protocol is checked by these names: a model of it in tests/model has them all, no more and no fewer, and shows for
each what goes wrong without it.
"""

from enum import StrEnum


class Condition(StrEnum):
    """A value is the text in DynamoDB's language. Where `#status` is named, it is the attribute `status`."""

    KEY_IS_NEW = "attribute_not_exists(idempotencyKey) OR expiresAt <= :now"
    ORDER_IS_NEW = "attribute_not_exists(orderId)"
    RESERVATION_IS_NEW = "attribute_not_exists(reservationId)"
    RESERVATION_IS_HOLD = "#status = :held"
    RESERVATION_VERSION = "version = :version"
    HOLD_IS_UNEXPIRED = "holdExpiresAt > :now"
    HOLD_IS_ENDED = "holdExpiresAt <= :now"
    # Of a seat or a slot.
    IS_MINE = "#status = :held AND holder = :me"
    # The answer, the order and the event are made of the price that was read, maybe a while ago.
    PRICE_IS_AS_READ = "amount = :amount AND currency = :currency"
    SEAT_IS_FREE_OR_ENDED = "(#status = :available OR (#status = :held AND holdExpiresAt <= :now))"
    SLOT_IS_FREE_OR_ENDED = "attribute_not_exists(pk) OR (#status = :held AND holdExpiresAt <= :now)"


def all_of(*conditions: Condition) -> str:
    """A ConditionExpression."""
    return " AND ".join(condition.value for condition in conditions)
