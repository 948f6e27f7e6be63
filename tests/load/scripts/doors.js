// The service's two doors, REST through Envoy and native gRPC, behind one function: `ask` makes a request, looks at the
// whole answer and counts it.
//
// What counts as failed: a 5xx, no answer in time, a broken connection, a body that is not as promised (wrong), and a 4xx
// that nobody has asked for. Those that failed because time was up are also counted as late. A 409 is an answer, and so is
// a 429; both are counted apart, and both must be well formed.
import http from 'k6/http';
import grpc from 'k6/net/grpc';
import { sleep } from 'k6';
import { Counter, Rate, Trend } from 'k6/metrics';

export const EVENT = __ENV.EVENT;
const REST_URL = __ENV.REST_URL;
const GRPC_ADDRESSES = __ENV.GRPC_ADDRESSES.split(',');
const PACKAGE = 'com.traffic_tacos.reservation.v1';
const TIMEOUT = '5s';
const TIMED_OUT = 1050; // k6's own code
const MAX_TOLD = 3;

const answered = new Trend('answered', true);
const failed = new Rate('failed');
const late = new Counter('late');
const wrongBodies = new Counter('wrong');
const limited = new Counter('limited');
const replayed = new Counter('replayed');
const REFUSALS = [
  'SEAT_UNAVAILABLE', 'HOLD_LIMIT_REACHED', 'RESERVATION_EXPIRED', 'HOLD_EXTENSION_DENIED', 'IDEMPOTENCY_IN_PROGRESS',
  'RESERVATION_ALREADY_CONFIRMED', 'RESERVATION_ALREADY_CANCELLED',
];
const refused = Object.fromEntries(REFUSALS.map((code) => [code, new Counter(`refused_${code}`)]));

// Of each operation: its name in gRPC, and how REST writes it.
const OPERATIONS = {
  create: { rpc: 'ReservationService/CreateReservation', path: () => '/v1/reservations', status: 201 },
  confirm: { rpc: 'ReservationService/ConfirmReservation', path: () => '/v1/reservations/confirm', status: 200 },
  cancel: { rpc: 'ReservationService/CancelReservation', path: () => '/v1/reservations/cancel', status: 200 },
  extend: { rpc: 'ReservationService/ExtendHold', path: () => '/v1/reservations/extend', status: 200 },
  get: { rpc: 'ReservationService/GetReservation', path: (of) => `/v1/reservations/${of.reservationId}`, read: ['userId'] },
  list: { rpc: 'ReservationService/ListReservations', path: () => '/v1/reservations', read: ['userId', 'pageSize'] },
  inventory: { rpc: 'InventoryService/GetInventoryStatus', path: (of) => `/v1/events/${of.eventId}/inventory`, read: [] },
  seats: { rpc: 'InventoryService/ListSeats', path: (of) => `/v1/events/${of.eventId}/seats`, read: ['pageSize'] },
};

const REFUSED = [grpc.StatusFailedPrecondition, grpc.StatusAlreadyExists, grpc.StatusAborted];

const client = new grpc.Client();
client.loadProtoset(__ENV.DESCRIPTORS);
export const asked = { requests: 0 };
let connected = false;
let told = 0;

// Options of a script: `rate` arrivals a second, whatever becomes of those before.
export function arrivals(rate, seconds) {
  return {
    discardResponseBodies: false,
    summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max', 'count'],
    scenarios: {
      customers: {
        executor: 'constant-arrival-rate',
        rate,
        timeUnit: '1s',
        duration: `${seconds}s`,
        preAllocatedVUs: Math.min(Math.max(2 * rate, 10), 200),
        maxVUs: 400,
        gracefulStop: '15s',
      },
    },
    thresholds: thresholds(),
  };
}

// A metric of one operation is only told where a threshold names it.
export function thresholds() {
  const each = Object.keys(OPERATIONS).map((operation) => [`answered{operation:${operation}}`, ['max>=0']]);
  return {
    answered: [`p(95)<${__ENV.P95_MS}`],
    failed: [__ENV.FAILED],
    wrong: ['count==0'],
    dropped_iterations: [`count<=${__ENV.MAX_DROPPED}`],
    ...Object.fromEntries(each),
  };
}

export function handleSummary(data) {
  return { [__ENV.SUMMARY]: JSON.stringify(data.metrics) };
}

// One request through `door` ('rest' or 'grpc'). `wrong(body)` says what is wrong with the body of a success, or ''.
// Returns {kind: 'accepted' | 'refused' | 'limited' | 'failed', code, body, retryAfter}.
export function ask(door, operation, message, { key = '', wrong = () => '', address = '' } = {}) {
  asked.requests++;
  const answer = door === 'rest' ? overRest(operation, message, key) : overGrpc(operation, message, key, address);
  if (answer.kind === 'accepted') {
    const problem = wrong(answer.body);
    if (problem) Object.assign(answer, { kind: 'failed', wrong: true, problem: `wrong body: ${problem}` });
  } else if (answer.kind === 'refused' && !(answer.code in refused)) {
    Object.assign(answer, { kind: 'failed', wrong: true, problem: `an unexpected refusal: ${answer.code}` });
  }
  answered.add(answer.milliseconds, { operation });
  failed.add(answer.kind === 'failed');
  if (answer.late) late.add(1);
  if (answer.wrong) wrongBodies.add(1);
  if (answer.kind === 'refused') refused[answer.code].add(1);
  if (answer.kind === 'limited') limited.add(1);
  if (answer.replayed) replayed.add(1);
  if (answer.kind === 'failed' && told++ < MAX_TOLD) console.error(`${door} ${operation}: ${answer.problem}`);
  return answer;
}

// As a client should: what failed, was limited or is still in progress is asked again, with the same key.
export function insist(door, operation, message, options) {
  let answer;
  for (let tries = 0; tries < 3; tries++) {
    answer = ask(door, operation, message, options);
    const again = answer.kind === 'failed' || answer.kind === 'limited' || answer.code === 'IDEMPOTENCY_IN_PROGRESS';
    if (!again) break;
    sleep(Math.min(answer.retryAfter || 0.1 * 2 ** tries * (1 + Math.random()), 2));
  }
  return answer;
}

function overRest(operation, message, key) {
  const { path, read, status } = OPERATIONS[operation];
  const headers = { 'Content-Type': 'application/json' };
  if (key) headers['Idempotency-Key'] = key;
  const params = { headers, timeout: TIMEOUT, tags: { name: operation } };
  const asked = path(message);
  let response;
  if (read) {
    const query = read.filter((name) => name in message).map((name) => `${name}=${message[name]}`).join('&');
    response = http.get(`${REST_URL}${asked}${query && `?${query}`}`, params);
  } else {
    response = http.post(`${REST_URL}${asked}`, JSON.stringify(message), params);
  }
  const answer = { milliseconds: response.timings.duration, replayed: response.headers['Idempotent-Replayed'] === 'true' };
  let body;
  try {
    body = response.json();
  } catch {
    body = null;
  }
  if (response.status === (status || 200) && body) return { ...answer, kind: 'accepted', body };
  if (response.status === 409 || response.status === 429) {
    const problem = notAnEnvelope(body, asked);
    const kind = problem ? 'failed' : response.status === 409 ? 'refused' : 'limited';
    const retryAfter = Number(response.headers['Retry-After'] || 0);
    return { ...answer, kind, wrong: !!problem, problem, retryAfter, code: body && body.error && body.error.code };
  }
  const tooLate = response.status === 504 || response.error_code === TIMED_OUT;
  const problem = `${response.status} ${response.error} ${response.body}`.trim().slice(0, 300);
  return { ...answer, kind: 'failed', late: tooLate, problem };
}

function notAnEnvelope(body, path) {
  const error = body && body.error;
  if (!error) return 'a refusal without envelope';
  const missing = ['code', 'message', 'timestamp', 'traceId'].filter((name) => typeof error[name] !== 'string' || !error[name]);
  if (missing.length) return `a refusal without ${missing}`;
  if (error.path !== path) return `a refusal of ${error.path}`;
  if (error.code === 'SEAT_UNAVAILABLE' && error.details && !error.details.every((each) => each.seatId)) {
    return 'details that name no seat';
  }
  return '';
}

function overGrpc(operation, message, key, address) {
  if (!connected) {
    client.connect(address || GRPC_ADDRESSES[__VU % GRPC_ADDRESSES.length], { plaintext: true, timeout: TIMEOUT });
    connected = true;
  }
  const metadata = key ? { 'idempotency-key': key } : {};
  const began = Date.now();
  const response = client.invoke(`${PACKAGE}.${OPERATIONS[operation].rpc}`, message, { metadata, timeout: TIMEOUT });
  const answer = { milliseconds: Date.now() - began, replayed: 'true' === first(response.headers['idempotent-replayed']) };
  if (response.status === grpc.StatusOK) return { ...answer, kind: 'accepted', body: response.message };
  const code = reasonOf(response.error);
  if (response.status === grpc.StatusResourceExhausted) return { ...answer, kind: 'limited', code };
  if (REFUSED.includes(response.status)) {
    return code ? { ...answer, kind: 'refused', code } : { ...answer, kind: 'failed', wrong: true, problem: 'a refusal without reason' };
  }
  const problem = `${response.status} ${JSON.stringify(response.error)}`.slice(0, 300);
  return { ...answer, kind: 'failed', late: response.status === grpc.StatusDeadlineExceeded, problem };
}

function first(values) {
  return Array.isArray(values) ? values[0] : values;
}

function reasonOf(error) {
  const info = ((error && error.details) || []).find((each) => each.reason);
  return info ? info.reason : '';
}
