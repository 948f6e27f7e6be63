// Customers through Envoy, REST and native gRPC, while the processes behind it are restarted one by one. Nobody tries
// again: each request has one chance. Every user goes on until the runner raises its stop sign, because only it knows
// when enough has been restarted; it is told meanwhile how many requests there were.
import http from 'k6/http';
import { sleep } from 'k6';
import { ask, asked, EVENT, handleSummary, thresholds } from './doors.js';

export { handleSummary };

const USERS = 12;
const SECONDS_A_VISIT = USERS / Number(__ENV.RATE);

export const options = {
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max', 'count'],
  scenarios: { customers: { executor: 'per-vu-iterations', vus: USERS, iterations: 1, maxDuration: '1h' } },
  thresholds: thresholds(),
};

export default function () {
  const door = __VU % 3 ? 'rest' : 'grpc';
  let looked = 0;
  for (let visit = 0; ; visit++) {
    const began = Date.now();
    if (began - looked > 500) {
      if (http.get(`${__ENV.STOP_SIGN}/${__VU}/${asked.requests}`).status !== 204) return;
      looked = began;
    }
    customer(door, `rolling-${__VU}-${visit}`);
    sleep(Math.max(0, SECONDS_A_VISIT - (Date.now() - began) / 1000));
  }
}

function customer(door, key) {
  const userId = `user-${key}`;
  const address = __ENV.REST_URL.replace('http://', '');
  const wish = { eventId: EVENT, quantity: 1, userId };
  const created = ask(door, 'create', wish, {
    key,
    address,
    wrong: (body) => (body.status === 'HOLD' && body.seatIds.length === 1 ? '' : 'not one seat held'),
  });
  if (created.kind !== 'accepted') return;
  const { reservationId } = created.body;
  const isIt = (status) => (body) => (body.reservationId === reservationId && body.status === status ? '' : `not ${status}`);
  ask(door, 'get', { reservationId, userId }, { address, wrong: isIt('HOLD') });
  ask(door, 'cancel', { reservationId, userId }, { key, address, wrong: isIt('CANCELLED') });
}
