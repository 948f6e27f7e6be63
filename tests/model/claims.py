"""What must be true of the protocol, step by step. A claim is given the state before a step, and the step."""

from collections.abc import Callable, Iterator

from tests.model.protocol import Step
from tests.model.state import CONFIRMED, EXPIRED, HELD, HOLD, NOBODY, SKEW, SOLD, Reservation, State, key_of

Claim = Callable[[State, Step], bool]


def a_seat_is_sold_once(before: State, step: Step) -> bool:
    """However often it was held, no two confirmed reservations have it."""
    sold = [seat for _, there in _made(step.state) if there.status == CONFIRMED for seat in there.seats]
    return len(sold) == len(set(sold))


def sold_is_final(before: State, step: Step) -> bool:
    return all(
        seat.status != SOLD or (after.status, after.holder) == (SOLD, seat.holder)
        for seat, after in zip(before.seats, step.state.seats, strict=True)
    )


def what_has_ended_stays_so(before: State, step: Step) -> bool:
    """Confirmed for good, cancelled for good, expired for good."""
    return all(
        there.status == HOLD or (after is not None and (after.status, after.version) == (there.status, there.version))
        for number, there in _made(before)
        for after in (step.state.reservations[number],)
    )


def a_reservation_is_confirmed_exactly_if_its_seats_are_sold_to_it(before: State, step: Step) -> bool:
    owners = [seat.holder if seat.status == SOLD else NOBODY for seat in step.state.seats]
    return all(
        {owners[seat] == number for seat in there.seats} == {there.status == CONFIRMED}
        and owners.count(number) <= len(there.seats)
        for number, there in _made(step.state)
    )


def a_confirmed_reservation_has_one_order(before: State, step: Step) -> bool:
    return all(step.state.orders[number] == (there.status == CONFIRMED) for number, there in _made(step.state))


def an_order_is_written_once(before: State, step: Step) -> bool:
    return all(orders <= 1 for orders in step.state.orders)


def a_held_seat_is_held_by_a_hold_that_names_it_and_ends_with_it(before: State, step: Step) -> bool:
    for seat in step.state.seats:
        if seat.status == HELD:
            there = step.state.reservations[seat.holder]
            if there is None or there.status != HOLD or seat.number not in there.seats or there.ends != seat.ends:
                return False
    return True


def a_held_slot_is_held_by_a_hold_that_ends_with_it(before: State, step: Step) -> bool:
    for user, slot in enumerate(step.state.slots):
        if slot is not None:
            there = step.state.reservations[slot.holder]
            if there is None or (there.status, there.user, there.ends) != (HOLD, user, slot.ends):
                return False
    return True


def the_price_told_is_the_price_of_the_seat(before: State, step: Step) -> bool:
    """When it was taken. The importer changes no price of a seat that somebody has."""
    return all(
        step.state.seats[seat].price == price
        for number, there in _made(step.state)
        if before.reservations[number] is None
        for seat, price in zip(there.seats, there.prices, strict=True)
    )


def events_tell_of_each_version_once_and_in_order(before: State, step: Step) -> bool:
    """Each version is one more than the one before, and has one row."""
    for number, there in _made(step.state):
        was = before.reservations[number]
        if there.events != there.version or there.version - (was.version if was else 0) not in (0, 1):
            return False
    return True


def a_deadline_never_moves_back(before: State, step: Step) -> bool:
    return all(
        after is not None and after.ends >= there.ends
        for number, there in _made(before)
        for after in (step.state.reservations[number],)
    )


def what_was_called_expired_stays_so(before: State, step: Step) -> bool:
    """A refusal is the signal to refund; a reader was told so."""
    return all(
        not there.told_expired or after.status == EXPIRED or after.version == there.version
        for number, there in _made(before)
        for after in (step.state.reservations[number],)
        if after is not None
    )


def an_answer_is_true(before: State, step: Step) -> bool:
    """It tells of a version that was written, and of the last one if that is final."""
    if step.answer is None:
        return True
    there = step.state.reservations[step.answer.reservation]
    if there is None or there.version < step.answer.version:
        return False
    if there.version == step.answer.version:
        return (there.status, there.ends) == (step.answer.status, step.answer.ends)
    return step.answer.status == HOLD


def an_answer_is_what_the_key_was_told_before(before: State, step: Step) -> bool:
    """As long as the key's record is there, whoever asks again is told the same or is refused."""
    if step.answer is None or step.attempt is None or not step.attempt.keyed:
        return True
    record = step.state.records[key_of(step.attempt)]
    return record is None or record.content != step.attempt.content or record.answer == step.answer


def a_refusal_means_that_nothing_happened(before: State, step: Step) -> bool:
    """By the attempt that is refused. A clock gone wild may have forgotten its key, and then so may this."""
    mine = step.attempt
    return not (step.refused and mine is not None and mine.applied) or (mine.keyed and before.time is None)


def a_refusal_means_that_nothing_will_happen(before: State, step: Step) -> bool:
    """By a try of what was refused that was still on its way."""
    return step.late is None or not step.late.refused


def a_refused_repetition_means_that_nothing_will_happen(before: State, step: Step) -> bool:
    """By what was repeated. Nobody can promise this whose network keeps a request for any time."""
    return step.late is None or not step.late.refused_again


def a_key_has_one_effect_until_it_is_forgotten(before: State, step: Step) -> bool:
    return all(record is None or record.effects == 1 for record in step.state.records)


def a_seat_has_one_owner(before: State, step: Step) -> bool:
    """Neither two live holds nor a live hold and a sale: before a hold's end by any clock."""
    owned = [seat for _, there in _live(step.state) for seat in there.seats]
    return len(owned) == len(set(owned))


def a_hold_has_its_seats_and_its_slot_until_its_end(before: State, step: Step) -> bool:
    """By any clock. What is sold needs no slot."""
    for number, there in _live(step.state):
        if any(step.state.seats[seat].holder != number for seat in there.seats):
            return False
        if step.state.slots and there.status == HOLD:
            slot = step.state.slots[there.user]
            if slot is None or slot.holder != number:
                return False
    return True


def no_hold_expires_before_its_end(before: State, step: Step) -> bool:
    after = step.state.reservations
    return all(each is None or each.status != EXPIRED for number, _ in _live(before) for each in (after[number],))


def a_user_has_one_live_hold_if_there_is_one_slot(before: State, step: Step) -> bool:
    users = [there.user for _, there in _live(step.state) if there.status == HOLD]
    return not step.state.slots or len(users) == len(set(users))


_OF_ANSWERS: tuple[Claim, ...] = (
    an_answer_is_true,
    an_answer_is_what_the_key_was_told_before,
    a_refusal_means_that_nothing_happened,
)

_OF_TABLES: tuple[Claim, ...] = (
    a_seat_is_sold_once,
    sold_is_final,
    what_has_ended_stays_so,
    a_reservation_is_confirmed_exactly_if_its_seats_are_sold_to_it,
    a_confirmed_reservation_has_one_order,
    an_order_is_written_once,
    a_held_seat_is_held_by_a_hold_that_names_it_and_ends_with_it,
    a_held_slot_is_held_by_a_hold_that_ends_with_it,
    the_price_told_is_the_price_of_the_seat,
    events_tell_of_each_version_once_and_in_order,
    a_deadline_never_moves_back,
    what_was_called_expired_stays_so,
    a_refusal_means_that_nothing_will_happen,
    a_key_has_one_effect_until_it_is_forgotten,
    a_seat_has_one_owner,
    a_hold_has_its_seats_and_its_slot_until_its_end,
    no_hold_expires_before_its_end,
    a_user_has_one_live_hold_if_there_is_one_slot,
)

NEED_TRUSTED_CLOCKS = frozenset(
    {
        an_answer_is_what_the_key_was_told_before,
        a_key_has_one_effect_until_it_is_forgotten,
        a_seat_has_one_owner,
        a_hold_has_its_seats_and_its_slot_until_its_end,
        no_hold_expires_before_its_end,
        a_user_has_one_live_hold_if_there_is_one_slot,
    }
)
"""What nobody can promise whose clocks say anything. All the rest holds whatever they say."""


def _whatever_the_clocks_say(claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    return tuple(claim for claim in claims if claim not in NEED_TRUSTED_CLOCKS)


_ALWAYS_OF_ANSWERS, _ALWAYS_OF_TABLES = _whatever_the_clocks_say(_OF_ANSWERS), _whatever_the_clocks_say(_OF_TABLES)


def broken(before: State, step: Step) -> str | None:
    """The name of a claim that this step breaks."""
    claims: tuple[Claim, ...] = ()
    if step.answer is not None or step.refused:
        claims += _ALWAYS_OF_ANSWERS if before.time is None else _OF_ANSWERS
    if step.state.reservations is not before.reservations:  # else nothing was written
        claims += _ALWAYS_OF_TABLES if before.time is None else _OF_TABLES
    return next((claim.__name__ for claim in claims if not claim(before, step)), None)


def _made(state: State) -> Iterator[tuple[int, Reservation]]:
    return ((number, there) for number, there in enumerate(state.reservations) if there is not None)


def _live(state: State) -> Iterator[tuple[int, Reservation]]:
    assert state.time is not None
    now = state.time + SKEW
    return (
        (number, there)
        for number, there in _made(state)
        if there.status == CONFIRMED or (there.status == HOLD and there.ends > now)
    )
