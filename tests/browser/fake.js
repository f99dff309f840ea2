// What the client is handed in place of a browser: sockets, a clock that only tests move, and no chance.

import * as access from '../../src/web/access.js';
import * as chatModule from '../../src/web/chat.js';
import * as connection from '../../src/web/connection.js';
import * as direct from '../../src/web/direct.js';
import * as text from '../../src/web/text.js';
import * as timeline from '../../src/web/timeline.js';

/** Everything of the client that needs no page. */
export const client = { ...access, ...text, ...timeline, ...direct, ...connection, ...chatModule };

/** One socket as the client sees it, and its other end as the test does. */
export class FakeSocket {
  sent = [];
  closed = false;

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  accept() {
    this.onopen?.({});
  }

  push(event) {
    this.onmessage?.({ data: JSON.stringify(event) });
  }

  drop(code = 1006, reason = '') {
    this.onclose?.({ code, reason });
  }

  /** Takes the oldest command of that type which the client has sent. */
  take(type) {
    const at = this.sent.findIndex((command) => command.type === type);
    if (at < 0) throw new Error(`no ${type} among ${JSON.stringify(this.sent)}`);
    return this.sent.splice(at, 1)[0];
  }

  types() {
    return this.sent.map((command) => command.type);
  }

  ok(command, fields = {}) {
    this.push({ type: 'ok', id: command.id, ...fields });
  }
}

export class FakeEnv {
  sockets = [];
  time = 1_700_000_000_000;
  chance = 0.5;
  #timers = [];
  #uuids = 0;

  get socket() {
    return this.sockets.at(-1);
  }

  open() {
    this.sockets.push(new FakeSocket());
    return this.socket;
  }

  now() {
    return this.time;
  }

  random() {
    return this.chance;
  }

  later(ms, run) {
    const timer = { at: this.time + ms, run };
    this.#timers.push(timer);
    return timer;
  }

  cancel(timer) {
    this.#timers = this.#timers.filter((other) => other !== timer);
  }

  stored = new Map();

  load(storage, key) {
    return JSON.parse(this.stored.get(`${storage} ${key}`) ?? null);
  }

  save(storage, key, value) {
    this.stored.set(`${storage} ${key}`, JSON.stringify(value));
  }

  forget(storage, key) {
    this.stored.delete(`${storage} ${key}`);
  }

  uuid() {
    this.#uuids += 1;
    return `key-${this.#uuids}`;
  }

  /** Lets time pass, running what falls due in order. */
  pass(ms) {
    const end = this.time + ms;
    for (;;) {
      const next = this.#timers.filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.cancel(next);
      this.time = Math.max(this.time, next.at);
      next.run();
    }
    this.time = end;
  }
}

/** A chat of `ann` that is online, with what the page was told. `inbox`: how the server describes hers. */
export function chatOnline(env = new FakeEnv(), unsent = {}, open = null, inbox = {}) {
  const told = [];
  let refused = null;
  const page = {
    changed() {},
    told: (text) => told.push(text),
    refused: (text) => {
      refused = text;
    },
    reading: () => false,
    farSide: () => 'top',
  };
  const chat = new client.Chat(env, 'ws://fake/ws', page);
  if (open) chat.open(open);
  chat.start('ann', unsent);
  welcome(env.socket, { inbox });
  return { env, chat, told, refused: () => refused };
}

/** A token as far as the client reads it. */
export function tokenOf(sub, exp) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  return [part({ alg: 'EdDSA' }), part({ sub, exp }), 'c2lnbmF0dXJl'].join('.');
}

/** Welcomes the client. Without `resumed` it has to enter its rooms again; its inbox, which is empty, is entered at once. */
export function welcome(socket, { resumed, inbox, ...fields } = {}) {
  socket.accept();
  const connect = socket.take('connect');
  const limits = { message_bytes: 1_000, rooms: 128, unanswered: 64 };
  const answer = connect.resume ? { resumed: resumed ?? false } : {};
  sessions += 1;
  socket.push({ type: 'welcome', id: connect.id, user: connect.name ?? client.claimsOf(connect.token).user, session: `session-${sessions}`, heartbeat_ms: 30_000, limits, ...answer, ...fields });
  if (!resumed) enterInbox(socket, inbox);
  return connect;
}

let sessions = 0;

function enterInbox(socket, fields = {}) {
  const at = socket.sent.findIndex(({ type, room }) => type === 'join' && room.startsWith('@'));
  const [join] = socket.sent.splice(at, 1);
  socket.ok(join, { room: join.room, epoch: 'inbox', seq: 0, members: 1, role: 'host', ...(join.since ? { recovered: true } : {}), ...fields });
  return join;
}

export function message(seq, text = `m${seq}`, fields = {}) {
  return { type: 'message', room: 'lobby', seq, sender: 'bob', content: text, timestamp: 1_700_000_000_000 + seq * 1_000, ...fields };
}

export function messages(from, to) {
  return Array.from({ length: to - from + 1 }, (_, at) => message(from + at));
}

/** Enters the lobby, whose log is at `seq` in `epoch`. */
export function enterLobby(socket, { seq = 0, epoch = 'e1', recovered } = {}) {
  const join = socket.take('join');
  socket.ok(join, { room: 'lobby', epoch, seq, members: 1, role: 'member', ...(recovered === undefined ? {} : { recovered }) });
  return join;
}

/** What a room shows, briefly: texts, `[from-to state]` for gaps, `|` for a restart. */
export function shown(room) {
  return room.items.map((item) => {
    if (item.kind === 'message') return item.deleted ? '(deleted)' : item.content;
    if (item.kind === 'restart') return '|';
    return `[${item.seq}-${item.to} ${item.tail ? 'tail' : item.state}]`;
  });
}
