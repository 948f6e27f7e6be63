"""What may happen in a world, and what the processes in it know how to do."""

from typing import NamedTuple

from tests.model.state import SKEW

OWN_RECORD, OWN_RESERVATION, OWN_EXTENSION = "record", "reservation", "extension"
RECOGNITIONS = (OWN_RECORD, OWN_RESERVATION, OWN_EXTENSION)
"""By what an attempt whose reply was lost knows its own effect again, when its next try fails on it."""

OF_A_REFUSAL, OF_A_BUSY_STORE, OF_THE_TIME = "refusal", "busy store", "time"
CAUTIONS = (OF_A_REFUSAL, OF_A_BUSY_STORE, OF_THE_TIME)
"""When an attempt of which a try is late does not say that nothing happened: if it is a create, and what is in its way
may be gone when that try arrives; if the store is busy until its time is up; if the hold is past its time only by now,
and was not when that try was sent."""


class Wanted(NamedTuple):
    """A create that some user may ask for."""

    user: int
    seats: tuple[int, ...]
    keyed: bool = False


class World(NamedTuple):
    """What may happen at all, and how often.

    `starts`: attempts in all, `in_flight`: at one time. `changes`: commands on reservations, without and with a key as
    `keyed` says; a user has one key for each command. `until`: the last time that there is. `reprices`: prices change
    so often. Only with `trusted` clocks there are readers; `patience` is for how long after its end they are still told
    that it is a hold. `reservations`: how many may be made. `delays`: so many tries may be late, one at a time;
    `outlasting`: even after a repetition of their request, with its key, was refused."""

    creates: tuple[Wanted, ...]
    changes: tuple[str, ...]
    starts: int
    in_flight: int = 2
    keyed: tuple[bool, ...] = (False,)
    trusted: bool = False
    until: int = 3
    key_window: int = 2
    slots: bool = False
    reprices: int = 0
    lost_replies: bool = True
    patience: int = SKEW
    reservations: int = 2
    delays: int = 0
    outlasting: bool = False
