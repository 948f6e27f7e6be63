// Crowds that look: at a reservation, at their own, at what is left, and at the seat map. Few of them hold seats.
import exec from 'k6/execution';
import { arrivals, EVENT, handleSummary, insist } from './doors.js';
import { heldSome, is } from './bodies.js';
import { chooser } from './chance.js';

export { handleSummary };

const SOLD = 20;
const SECTIONS = 'total available held sold blocked'.split(' ');

export const options = arrivals(Number(__ENV.RATE), Number(__ENV.SECONDS));

// Reservations to look at: sold, so that they stay as they are.
export function setup() {
  return Array.from({ length: SOLD }, (_, number) => {
    const userId = `reader-${number}`;
    const held = insist('rest', 'create', { eventId: EVENT, quantity: 2, userId }, { key: userId, wrong: heldSome(2) });
    const { reservationId } = held.body;
    insist('rest', 'confirm', { reservationId, userId, paymentIntentId: 'pay' }, { wrong: is(reservationId, 'CONFIRMED') });
    return { reservationId, userId };
  });
}

export default function (sold) {
  const number = exec.scenario.iterationInTest;
  const random = chooser(number);
  const door = number % 3 ? 'rest' : 'grpc';
  const mine = sold[Math.floor(random() * sold.length)];
  const doing = random();
  if (doing < 0.4) insist(door, 'get', mine, { wrong: is(mine.reservationId, 'CONFIRMED') });
  else if (doing < 0.5) insist(door, 'list', { userId: mine.userId, pageSize: 10 }, { wrong: lists(mine.reservationId) });
  else if (doing < 0.75) insist(door, 'inventory', { eventId: EVENT }, { wrong: addsUp });
  else if (doing < 0.9) insist(door, 'seats', { eventId: EVENT, pageSize: 100 }, { wrong: isAPage });
  else changeOnesMind(door, number);
}

function changeOnesMind(door, number) {
  const userId = `mind-${number}`;
  const held = insist(door, 'create', { eventId: EVENT, quantity: 2, userId }, { key: userId, wrong: heldSome(2) });
  if (held.kind !== 'accepted') return;
  const { reservationId } = held.body;
  insist(door, 'get', { reservationId, userId }, { wrong: is(reservationId, 'HOLD') });
  insist(door, 'cancel', { reservationId, userId }, { wrong: is(reservationId, 'CANCELLED') });
}

const lists = (reservationId) => (body) =>
  (body.reservations || []).some((each) => each.reservationId === reservationId) ? '' : `${reservationId} is not listed`;

function addsUp(body) {
  const bad = (body.sections || []).filter((each) => {
    const [total, ...parts] = SECTIONS.map((name) => each[name] || 0);
    return total !== parts.reduce((sum, part) => sum + part, 0);
  });
  return body.sections && body.sections.length && !bad.length ? '' : `sections that do not add up: ${JSON.stringify(body)}`.slice(0, 300);
}

function isAPage(body) {
  const seats = body.seats || [];
  return seats.length === 100 && seats.every((seat) => seat.id && seat.status) ? '' : `${seats.length} seats on a page of 100`;
}
