// What a success must say: functions from a body to what is wrong with it, or ''.

export const heldExactly = (seatIds) => (body) => {
  const seats = (body.reservedSeats || []).map((seat) => seat.id);
  if (body.status !== 'HOLD' || !body.reservationId || !(Date.parse(body.holdExpiresAt) > 0)) return `no hold: ${JSON.stringify(body)}`;
  return same(seats, seatIds) && same(body.seatIds, seatIds) ? '' : `asked for ${seatIds}, was told ${seats}`;
};

// Chosen by the service.
export const heldSome = (quantity) => (body) => {
  const seats = (body.reservedSeats || []).map((seat) => seat.id);
  return seats.length === quantity ? heldExactly(seats)(body) : `asked for ${quantity} seats, was told ${seats}`;
};

export const is = (reservationId, ...statuses) => (body) => {
  if (body.reservationId !== reservationId) return `${body.reservationId} instead of ${reservationId}`;
  return statuses.includes(body.status) ? '' : `${body.status} instead of ${statuses}`;
};

function same(some, others) {
  return JSON.stringify([...(some || [])].sort()) === JSON.stringify([...others].sort());
}
