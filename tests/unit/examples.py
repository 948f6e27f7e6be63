"""Reservations to test with: one in each state, and hypothesis strategies for any."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from reservation.domain.model import Metadata, Money, Reservation, Seat, Spot, Status, order_id_of

patient = settings(deadline=None, max_examples=60)
"""For properties: how long an example takes says nothing on a busy machine."""

NEW_YEAR = 1_735_689_600_000
"""2025-01-01T00:00:00Z in milliseconds."""

LATEST = 4_102_444_800_000
"""The year 2100. Thirteen digits, as the outbox sorts by, last to 2286."""

HOLD = Reservation(
    id="rsv_0194",
    event_id="evt_2025_1001",
    user_id="user_1",
    status=Status.HOLD,
    seats=(
        Seat("A-12", section="A", row="1", number="12", price=Money(120_000, "KRW")),
        Seat("A-13", section="A", row="1", number="13", price=Money(110_000, "KRW")),
    ),
    created_at=NEW_YEAR,
    updated_at=NEW_YEAR,
    hold_expires_at=NEW_YEAR + 60_000,
    version=1,
    op_id="op_create",
    shard="0007",
    reservation_token="rtkn_xyz789",
    metadata=Metadata("web", "Mozilla/5.0", "192.0.2.7", "session_1", {"campaign": "spring"}),
)

PAID = {"payment_intent_id": "pay_1", "order_id": "ord_0194"}


def in_state(status: Status) -> Reservation:
    """The reservation as it is stored in that state; what was paid for was paid with pay_1."""
    if status is Status.HOLD:
        return HOLD
    changes: dict[str, Any] = PAID if status in (Status.CONFIRMED, Status.REFUNDED) else {}
    return replace(HOLD, status=status, version=2, updated_at=NEW_YEAR + 30_000, op_id="op_next", **changes)


ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="#"), min_size=1, max_size=32)
"""Ids as they are imported and validated: any text without control characters and "#"."""

texts = st.text(max_size=32)
times = st.integers(min_value=0, max_value=LATEST)
prices = st.builds(Money, st.integers(min_value=0, max_value=2**60), st.sampled_from(["KRW", "USD", "JPY"]))
spots = st.builds(Spot, st.integers(0, 100_000), st.integers(0, 399))
seats = st.builds(Seat, ids, texts, texts, texts, prices, st.booleans(), st.none() | spots)
metadata = st.builds(Metadata, texts, texts, texts, texts, st.dictionaries(ids, texts, max_size=3))


@st.composite
def reservations(draw: st.DrawFn, among: Sequence[Status] = tuple(Status)) -> Reservation:
    """Any reservation that the model can make: paid and ordered exactly if its status says so."""
    status, reservation_id = draw(st.sampled_from(among)), "rsv_" + draw(ids)
    paid = status in (Status.CONFIRMED, Status.REFUNDED)
    created_at = draw(times)
    return Reservation(
        id=reservation_id,
        event_id=draw(ids),
        user_id=draw(ids),
        status=status,
        seats=tuple(draw(st.lists(seats, max_size=3, unique_by=lambda seat: seat.id))),
        created_at=created_at,
        updated_at=draw(st.integers(created_at, LATEST)),
        hold_expires_at=draw(times),
        version=draw(st.integers(1, 999_999)),
        op_id=draw(ids),
        shard=draw(st.sampled_from(["0000", "0007", "4095"])),
        reservation_token=draw(texts),
        payment_intent_id=draw(ids) if paid else "",
        order_id=order_id_of(reservation_id) if paid else "",
        reason=draw(texts) if status is Status.CANCELLED else "",
        metadata=draw(st.none() | metadata),
        slot=draw(st.none() | st.integers(0, 19)),
        extended_by=tuple(draw(st.lists(ids, max_size=3))),
    )
