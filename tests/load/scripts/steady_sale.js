// An ordinary day: best seats or chosen ones are held, some of the holds extended, and then sold or given back.
import { sleep } from 'k6';
import exec from 'k6/execution';
import { arrivals, EVENT, handleSummary, insist } from './doors.js';
import { heldExactly, heldSome, is } from './bodies.js';
import { chance, chooser } from './chance.js';

export { handleSummary };

const [BEST_SEATS, EXTENDING, BUYING] = [0.7, 0.3, 0.5];
const CHOSEN_FROM = Number(__ENV.SEATS) / 2; // Best seats come from the other end.

export const options = arrivals(Number(__ENV.RATE), Number(__ENV.SECONDS));

export default function () {
  const number = exec.scenario.iterationInTest;
  const random = chooser(number);
  const door = number % 3 ? 'rest' : 'grpc';
  const userId = `steady-${number}`;
  const quantity = 1 + Math.floor(random() * 3);
  const held = chance(random, BEST_SEATS) ? best(door, userId, quantity) : chosen(door, userId, number);
  if (held.kind !== 'accepted') return;
  const { reservationId, holdExpiresAt } = held.body;
  sleep(random());
  if (chance(random, EXTENDING)) extend(door, userId, reservationId, holdExpiresAt);
  if (chance(random, BUYING)) {
    const payment = { reservationId, userId, paymentIntentId: `pay-${number}` };
    insist(door, 'confirm', payment, { key: `${userId}-confirm`, wrong: is(reservationId, 'CONFIRMED') });
  } else {
    insist(door, 'cancel', { reservationId, userId }, { key: `${userId}-cancel`, wrong: is(reservationId, 'CANCELLED') });
  }
}

function best(door, userId, quantity) {
  const wish = { eventId: EVENT, quantity, userId };
  return insist(door, 'create', wish, { key: `${userId}-create`, wrong: heldSome(quantity) });
}

function chosen(door, userId, number) {
  const seatIds = [`S-${CHOSEN_FROM + (number % CHOSEN_FROM)}`];
  const wish = { eventId: EVENT, seatIds, quantity: 1, userId };
  return insist(door, 'create', wish, { key: `${userId}-create`, wrong: heldExactly(seatIds) });
}

function extend(door, userId, reservationId, holdExpiresAt) {
  const later = (body) => {
    if (body.reservationId !== reservationId) return `${body.reservationId} instead of ${reservationId}`;
    return Date.parse(body.newExpiresAt) > Date.parse(holdExpiresAt) ? '' : `${body.newExpiresAt} is no later than ${holdExpiresAt}`;
  };
  const wish = { reservationId, userId, extensionSeconds: 10 };
  insist(door, 'extend', wish, { key: `${userId}-extend`, wrong: later });
}
