// Connection: one WebSocket after another, with handshake, session, heartbeat and backoff. It is handed its sockets, timers and
// randomness, so tests drive it without a browser. Tokens go into `connect`, never into the URL.

import { claimsOf } from './access.js';

/** Longest time between two attempts to connect. */
export const BACKOFF_MAX_MS = 20_000;
const BACKOFF_BASE_MS = 1_000;
/** A connection that lasted this long was a good one: the next attempt begins without a history of failures. */
const STABLE_MS = 5_000;
const HANDSHAKE_MS = 10_000;
const PROBE_MS = 10_000;
const PROBE_QUICK_MS = 4_000;
/** Shortest wait where coming back at once would only be refused again. */
const CALM_DOWN_MS = 5_000;
/** Silence, as a multiple of the server's own interval, after which the client asks for a sign of life. */
const SILENCE_FACTOR = 1.25;

/** Exponential backoff with full jitter: anywhere between now and a bound that doubles with each attempt. */
export function backoffMs(attempt, random) {
  return Math.round(random * Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** attempt));
}

/**
 * What to do when a connection has ended: `{reconnect, delayMs, text, needsToken, barred}`. Close codes from 4500 to 4999, and
 * those that say that this client is wrong, are final; a time that the server named is kept.
 */
export function afterClose({ code, reason = '', attempt, random, retryAfterMs = null }) {
  const final = code === TOKEN_EXPIRED || (code >= 4500 && code <= 4999) || [1002, 1003, 1007, 1008, 1010].includes(code);
  if (final) {
    const text = FINAL_TEXTS[code] ?? `The server closed the connection: ${reason || `code ${code}`}.`;
    return { reconnect: false, delayMs: 0, text, needsToken: [TOKEN_EXPIRED, 4503].includes(code), barred: [4502, 4505].includes(code) };
  }
  const leastMs = code === 4003 || code === 4009 ? CALM_DOWN_MS : 0;
  const delayMs = retryAfterMs !== null && attempt === 0 ? retryAfterMs : leastMs + backoffMs(attempt, random);
  return { reconnect: true, delayMs, text: CLOSE_TEXTS[code] ?? 'The connection was lost.', needsToken: false, barred: false };
}

const TOKEN_EXPIRED = 4002;

const FINAL_TEXTS = {
  [TOKEN_EXPIRED]: 'Your token has expired.',
  4501: 'This session went on in another place.',
  4502: 'Your access was withdrawn (a ban, or a revoked token).',
  4503: 'The server does not let you in without a good token.',
  4505: 'The server forbids you to be here.',
  4506: 'An operator ended your connection.',
};

const CLOSE_TEXTS = {
  1001: 'The server is going away.',
  1009: 'A message was too large for the server.',
  1012: 'The server is restarting.',
  1013: 'The server is busy.',
  4000: 'The server had not heard from this page for a while.',
  4003: 'You have too many connections. Close another page or program.',
  4008: 'This page could not keep up with the room.',
  4009: 'This page said too much in a short time.',
};

/**
 * Keeps one connection to the server, dialling again when it is lost.
 *
 * phase  idle → connecting → online → waiting → connecting …, or stopped for good
 * `env`    {open(url) → socket, now(), random(), later(ms, run) → handle, cancel(handle), uuid(),
 *          load(storage, key), save(storage, key, value), forget(storage, key)}
 * `events` {phase(), welcome(reply), push(event), refused(text), positions() → the last position seen of each room}
 */
export class Connection {
  phase = 'idle';
  text = ''; // for people: why it is not online
  retryAt = 0; // when 'waiting' ends
  closing = false; // the server has announced the end of this connection
  needsToken = false; // it stopped, and only a good token brings it back
  barred = false; // it stopped, and whoever is kept out may try again once that has changed
  expires = null; // when the token ends, in Unix ms

  #env;
  #events;
  #url = '';
  #name = '';
  #token = null;
  #session = null; // the secret of the last welcome
  #socket = null;
  #attempt = 0;
  #onlineSince = 0;
  #retryAfterMs = null;
  #heartbeatMs = 30_000;
  #heardAt = 0;
  #timer = null; // the one deadline of the present phase
  #probing = false;
  #nextId = 1;
  #waiting = new Map(); // id → what to do with the reply

  constructor(env, events) {
    this.#env = env;
    this.#events = events;
  }

  /** Whether commands may be sent: online, and the server has not said goodbye. */
  get ready() {
    return this.phase === 'online' && !this.closing;
  }

  /** Connects as whom the token names, or without one under `name`. */
  start(url, name, token = null) {
    this.stop('');
    this.#url = url;
    this.#name = name;
    this.#token = token;
    this.expires = null;
    this.#attempt = 0;
    this.#session = null;
    this.#dial();
  }

  /** Ends the connection and does not dial again. */
  stop(text) {
    this.#drop();
    this.needsToken = this.barred = false;
    this.#become(text ? 'stopped' : 'idle', text);
  }

  /**
   * Takes a fresh token of the same user. Online it is shown at once, and `reply` gets the answer; otherwise the connection is
   * made with it, which resumes the session.
   */
  renew(token, reply) {
    if (this.ready) {
      this.request({ type: 'connect', token }, (answer) => {
        if (answer.type === 'ok') {
          this.#token = token;
          this.expires = claimsOf(token)?.expires ?? null;
        }
        reply(answer);
      });
      return;
    }
    this.#token = token;
    if (this.phase === 'online') return; // it is closing, and the next one has the token
    this.#attempt = 0;
    this.#dial();
  }

  /** Dials now instead of waiting. */
  retryNow() {
    if (this.phase !== 'waiting' && this.phase !== 'stopped') return;
    if (this.phase === 'stopped') this.#attempt = 0;
    this.#dial();
  }

  /** Something happened after which the connection may be dead, or may be possible again. */
  wake() {
    if (this.phase === 'waiting') this.retryNow();
    else if (this.phase === 'online') this.#probe(PROBE_QUICK_MS);
  }

  /** Sends a command; `reply` gets its one answer, or `{type: 'lost'}`. */
  request(command, reply) {
    const id = this.#nextId++;
    this.#waiting.set(id, reply);
    this.#socket.send(JSON.stringify({ ...command, id }));
  }

  /** Sends a command whose success needs no answer. */
  notify(command) {
    this.#socket.send(JSON.stringify(command));
  }

  #dial() {
    this.#drop();
    this.needsToken = this.barred = false;
    this.#become('connecting', this.text);
    const socket = this.#env.open(this.#url);
    this.#socket = socket;
    this.#schedule(HANDSHAKE_MS, () => this.#lost(1006, '', 'The server does not answer.'));
    socket.onopen = () => {
      const resume = this.#session && { session: this.#session, rooms: this.#events.positions() };
      const who = this.#token === null ? { name: this.#name } : { token: this.#token };
      this.request({ type: 'connect', ...who, ...(resume ? { resume } : {}) }, (reply) => this.#answered(reply));
    };
    socket.onmessage = (event) => this.#hear(event.data);
    socket.onclose = (event) => this.#lost(event.code, event.reason);
  }

  #answered(reply) {
    if (reply.type === 'lost') return;
    if (reply.type === 'error') {
      if (reply.temporary) {
        this.#lost(1013, '');
      } else {
        const needsToken = reply.code === 'unauthorized' || reply.code === 'expired';
        const text = needsToken && this.#token === null ? 'This server asks for a token. Paste the one you were given.' : reply.message;
        this.stop(text);
        this.needsToken = needsToken;
        this.barred = reply.code === 'forbidden';
        this.#events.refused(text);
      }
      return;
    }
    this.#session = reply.session ?? null;
    this.#heartbeatMs = reply.heartbeat_ms ?? this.#heartbeatMs;
    this.expires = reply.expires ?? null;
    this.#onlineSince = this.#env.now();
    this.#watch();
    this.#become('online', '');
    this.#events.welcome(reply);
  }

  #hear(data) {
    this.#heardAt = this.#env.now();
    if (this.#probing) this.#watch();
    const event = parseEvent(data);
    if (!event) return;
    if (event.id !== undefined && this.#waiting.has(event.id)) {
      const reply = this.#waiting.get(event.id);
      this.#waiting.delete(event.id);
      reply(event);
    } else if (event.type === 'ping') {
      this.notify({ type: 'pong' });
    } else if (event.type === 'closing') {
      this.#retryAfterMs = event.retry_after_ms ?? null;
      this.closing = true;
      this.#become(this.phase, CLOSE_TEXTS[1012]);
    } else {
      this.#events.push(event);
    }
  }

  #lost(code, reason, text) {
    const lasted = this.#onlineSince > 0 && this.#env.now() - this.#onlineSince >= STABLE_MS;
    if (lasted || this.closing) this.#attempt = 0;
    const retryAfterMs = this.#retryAfterMs;
    this.#drop();
    const next = afterClose({ code, reason, attempt: this.#attempt, random: this.#env.random(), retryAfterMs });
    if (!next.reconnect) {
      if (code !== TOKEN_EXPIRED) this.#session = null;
      this.needsToken = next.needsToken;
      this.barred = next.barred;
      this.#become('stopped', next.text);
      return;
    }
    this.#attempt += 1;
    this.retryAt = this.#env.now() + next.delayMs;
    this.#schedule(next.delayMs, () => this.#dial());
    this.#become('waiting', text ?? next.text, code);
  }

  /** Lets go of the socket; whoever waits for an answer is told that none will come. */
  #drop() {
    this.#env.cancel(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    this.#onlineSince = 0;
    this.#retryAfterMs = null;
    this.#probing = false;
    this.closing = false;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const reply of waiting) reply({ type: 'lost' });
  }

  /** Browsers answer the server's pings by themselves and tell nobody, so silence is normal for one interval. */
  #watch() {
    this.#probing = false;
    const limit = this.#heartbeatMs * SILENCE_FACTOR;
    const silence = this.#env.now() - this.#heardAt;
    this.#schedule(Math.max(limit - silence, 0), () => {
      if (this.#env.now() - this.#heardAt >= limit) this.#probe(PROBE_MS);
      else this.#watch();
    });
  }

  /** Asks for a sign of life; any traffic is one. */
  #probe(withinMs) {
    if (this.#probing) return;
    this.#probing = true;
    this.request({ type: 'ping' }, () => {});
    this.#schedule(withinMs, () => this.#lost(1006, '', 'The connection went silent.'));
  }

  #schedule(ms, run) {
    this.#env.cancel(this.#timer);
    this.#timer = this.#env.later(ms, run);
  }

  #become(phase, text, code = 0) {
    this.phase = phase;
    this.text = text;
    this.#events.phase(phase, code);
  }
}

/** One event of the server; anything else is passed over. */
function parseEvent(data) {
  try {
    const event = JSON.parse(data);
    return typeof event?.type === 'string' ? event : null;
  } catch {
    return null;
  }
}
