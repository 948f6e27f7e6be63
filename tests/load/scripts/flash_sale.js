// A flash sale: most want the same few seats, and most of those who get some give them back, so that the fight goes on.
// The others take seats that nobody else wants. Everybody asks again, with the same key, for what had no answer.
import { sleep } from 'k6';
import exec from 'k6/execution';
import { arrivals, EVENT, handleSummary, insist } from './doors.js';
import { heldExactly, is } from './bodies.js';
import { chance, chooser } from './chance.js';

export { handleSummary };

const HOT_SEATS = 40;
const CONTENDING = 0.9;
const [BUYING, GIVING_BACK] = [0.1, 0.7]; // The rest says nothing more, and its holds end.

export const options = arrivals(Number(__ENV.RATE), Number(__ENV.SECONDS));

export default function () {
  const number = exec.scenario.iterationInTest;
  const random = chooser(number);
  const door = number % 3 ? 'rest' : 'grpc';
  const userId = `flash-${number}`;
  const seatIds = wanted(number, random);
  const wish = { eventId: EVENT, seatIds, quantity: seatIds.length, userId };
  const held = insist(door, 'create', wish, { key: `${userId}-create`, wrong: heldExactly(seatIds) });
  if (held.kind !== 'accepted') return;
  const { reservationId } = held.body;
  if (chance(random, 0.05)) {
    // The answer was lost, as the customer sees it.
    const again = (body) => (body.reservationId === reservationId ? '' : 'a second reservation for one key');
    insist(door, 'create', wish, { key: `${userId}-create`, wrong: again });
  }
  sleep(0.1 + random());
  const next = random();
  if (next < BUYING) {
    const payment = { reservationId, userId, paymentIntentId: `pay-${number}` };
    insist(door, 'confirm', payment, { key: `${userId}-confirm`, wrong: is(reservationId, 'CONFIRMED') });
  } else if (next < BUYING + GIVING_BACK) {
    insist(door, 'cancel', { reservationId, userId }, { key: `${userId}-cancel`, wrong: is(reservationId, 'CANCELLED') });
  }
}

function wanted(number, random) {
  if (!chance(random, CONTENDING)) return [`S-${HOT_SEATS + 2 * number}`, `S-${HOT_SEATS + 2 * number + 1}`];
  const first = Math.floor(random() * HOT_SEATS);
  return chance(random, 0.5) ? [`S-${first}`] : [`S-${first}`, `S-${(first + 1) % HOT_SEATS}`];
}
