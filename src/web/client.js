// hubbub's web client. One module, in parts that read top-down:
//
//   1. Text        names, sizes and links of what people write
//   2. Timeline    what a room shows: messages in order, and marks where some are missing
//   3. Connection  one WebSocket after another: handshake, heartbeat, backoff
//   4. Chat        rooms over a connection: join, recover, send
//   5. View        the page
//
// Parts 1 and 2 are pure. Parts 3 and 4 are handed their sockets, timers and randomness, so tests drive them
// without a browser. Only part 5 touches the document, and it never writes markup: text from others reaches
// the page as text nodes.
//
// What holds throughout: within a room, (epoch, seq) names a message; `head` is the last one that the stream of
// the current epoch brought, and everything up to it is shown, hidden on purpose, or covered by a mark.

// ---------------------------------------------------------------------------------------------------- 1. Text

const encoder = new TextEncoder();

/** Length of `text` in UTF-8, in bytes. */
export function utf8Length(text) {
  return encoder.encode(text).length;
}

/** Parts of `text` as `{text}` or `{text, href}`: only http and https addresses become links. */
export function splitLinks(text) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(/\bhttps?:\/\/[^\s<>"'`]+/gi)) {
    const address = withoutTrailingPunctuation(match[0]);
    if (!URL.canParse(address)) continue;
    if (match.index > from) parts.push({ text: text.slice(from, match.index) });
    parts.push({ text: address, href: address });
    from = match.index + address.length;
  }
  if (from < text.length) parts.push({ text: text.slice(from) });
  return parts;
}

/** A sentence's own punctuation is no part of an address; a closing bracket is, when it was opened inside. */
function withoutTrailingPunctuation(address) {
  const unopened = { ')': 0, ']': 0, '}': 0 };
  for (const char of address) {
    if (char in unopened) unopened[char] += 1;
    else if (char in CLOSED_BY) unopened[CLOSED_BY[char]] -= 1;
  }
  let end = address.length;
  for (; end > 0; end -= 1) {
    const last = address[end - 1];
    if (last in unopened ? unopened[last]-- <= 0 : !'.,;:!?*_~'.includes(last)) break;
  }
  return address.slice(0, end);
}

const CLOSED_BY = { '(': ')', '[': ']', '{': '}' };

/** One or two letters that stand for a name. */
export function initials(name) {
  const words = name.split(/[\s._-]+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)] : [name];
  return letters.map((word) => [...word][0].toUpperCase()).join('');
}

/** A number from 0 to 7 that is always the same for the same name; the page has that many colours. */
export function hueOf(name) {
  let hash = 0;
  for (const char of name) hash = (Math.imul(hash, 31) + char.codePointAt(0)) >>> 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b); // so that short names differ in the upper bits too
  return hash >>> 29;
}

/** What to show of a message's content: strings as they are, other JSON as code. */
export function describeContent(content) {
  return typeof content === 'string' ? { text: content } : { code: JSON.stringify(content) };
}

/** The room that an address names in its fragment, or ''. */
export function roomOfHash(hash) {
  try {
    return decodeURIComponent(hash.replace(/^#/, '')).trim();
  } catch {
    return '';
  }
}

/** The fragment that names a room. */
export function hashOfRoom(name) {
  return `#${encodeURIComponent(name)}`;
}

/** Names of people, told briefly: "ann and bob are typing". */
export function describeTyping(names) {
  if (names.length === 0) return '';
  if (names.length === 1) return `${names[0]} is typing…`;
  if (names.length === 2) return `${names[0]} and ${names[1]} are typing…`;
  return `${names.length} people are typing…`;
}

/** "1 message", "2 messages". */
export function count(n, noun, plural = `${noun}s`) {
  return `${n.toLocaleString('en')} ${n === 1 ? noun : plural}`;
}

// ------------------------------------------------------------------------------------------------ 2. Timeline

/** Messages asked for when entering a room for the first time. */
export const HISTORY_ON_JOIN = 50;
/** Messages in one page of history. */
export const PAGE = 100;
/** Entries a room keeps; what is further off is dropped and read again when it is scrolled to. */
export const ITEMS_MAX = 1000;
/** Missed messages that are fetched without being asked for. */
export const GAP_BUDGET = 500;
/** Messages of one sender this close together are shown as one block. */
const GROUP_MS = 5 * 60_000;

/**
 * A room as this client knows it. `items` is ordered by (gen, seq), where gen counts the epochs that were seen:
 *   {kind: 'message', gen, seq, sender, content, timestamp, key, deleted}
 *   {kind: 'gap', gen, seq: from, to, state: 'open' | 'loading' | 'gone', tail, budget}   messages that are missing
 *   {kind: 'restart', gen, seq: 0}                                                 where the server forgot
 */
export function createRoom(name) {
  return {
    name,
    membership: 'out', // 'out' | 'joining' | 'in' | 'refused'
    why: '', // for people: why it is not 'in'
    role: 'member',
    epochs: [],
    head: null, // null until the stream of this epoch has begun
    target: null, // the replay under way ends at this seq
    checking: false, // whether history is being searched for messages whose fate is unknown
    items: [],
    keys: new Map(), // "sender\nkey" → item, so that a message sent twice is shown once
    topReached: false, // nothing is older than items[0]
    loadingOlder: false,
    outbox: [], // {key, content, at, state: 'queued' | 'sent' | 'unknown' | 'failed', error}
    members: 0,
    users: new Map(), // name → since
    usersKnown: false, // whether `users` is meant to be complete
    missedPresence: null, // pushes that came while the list was being read
    readUsersSoon: false,
    typing: new Map(), // name → when it expires
    unread: 0,
    seen: null, // {gen, seq} of the last entry that was on screen
    divider: null, // where 'New' is shown
    quietUntil: 0, // messages up to here were there before us and are not news
    draft: '',
  };
}

const generation = (room) => Math.max(0, room.epochs.length - 1);

/** The epoch whose seqs the server speaks of now, or null. */
export function epochOf(room) {
  return room.epochs.at(-1) ?? null;
}

/** The position to recover from, or null when the room must be entered anew. */
export function sinceOf(room) {
  return room.head === null ? null : { epoch: epochOf(room), seq: room.head };
}

/** Whether everything up to the moment of joining has been accounted for. */
export function isSynced(room) {
  return room.membership === 'in' && room.target === null && !room.checking && !room.items.some((item) => item.state === 'loading');
}

/**
 * The server has let us in. Says what the answer means:
 *   fresh      first time: a replay of the latest messages follows
 *   recovered  a replay of all that was missed follows
 *   missed     no replay; `gap` covers what was missed, if anything
 *   restarted  the server forgot; what is shown stays, `gap` covers what it knows now
 */
export function joined(room, reply) {
  Object.assign(room, { membership: 'in', why: '', members: reply.members ?? 0, role: reply.role ?? 'member', target: null });
  const known = epochOf(room);
  if (known === null || (known === reply.epoch && room.head === null)) {
    if (known === null) room.epochs.push(reply.epoch);
    room.quietUntil = reply.seq;
    if (reply.seq === 0) Object.assign(room, { head: 0, topReached: true });
    return { kind: 'fresh' };
  }
  if (known === reply.epoch && reply.recovered) {
    if (reply.seq > room.head) room.target = reply.seq;
    return { kind: 'recovered' };
  }
  if (known === reply.epoch && reply.seq >= room.head) {
    const from = room.head + 1;
    room.head = reply.seq;
    return { kind: 'missed', gap: addGap(room, from, reply.seq) };
  }
  room.epochs.push(reply.epoch);
  room.head = reply.seq;
  room.topReached = room.items.length > 0 || reply.seq === 0;
  if (room.items.length === 0) return { kind: 'restarted', gap: null };
  room.items = room.items.filter((item) => !item.tail);
  insert(room, { kind: 'restart', gen: generation(room), seq: 0 });
  return { kind: 'restarted', gap: addGap(room, 1, reply.seq) };
}

/** A message from the stream (replay or live). Says whether it was new, and a gap that it revealed. */
export function receive(room, message) {
  const before = message.prev ?? message.seq - 1;
  if (room.head !== null && message.seq <= room.head) {
    if (message.deleted) markDeleted(room, message.seq);
    return { placed: false, gap: null };
  }
  const gap = room.head !== null && before > room.head ? addGap(room, room.head + 1, before) : null;
  advance(room, message.seq);
  const tail = tailOf(room);
  if (tail) {
    tail.to = Math.max(tail.to, message.seq);
    return { placed: !isRepeat(room, message), gap };
  }
  return { placed: place(room, message), gap };
}

/** The server says that it will not deliver these. */
export function skipped(room, from, to) {
  const first = room.head === null ? from : Math.max(from, room.head + 1);
  if (to < first) return null;
  const gap = addGap(room, room.head === null ? first : room.head + 1, to);
  advance(room, to);
  return gap;
}

/** Our own message was accepted. The stream may bring it earlier or later; `head` is the stream's alone. */
export function accepted(room, me, entry, reply) {
  room.outbox = room.outbox.filter((other) => other !== entry);
  const { seq, timestamp } = reply;
  return place(room, { seq, timestamp, sender: me, content: entry.content, key: entry.key });
}

/** Takes an own message that came back from the outbox. */
export function settle(room, message, me) {
  if (message.sender !== me || !message.key) return;
  room.outbox = room.outbox.filter((entry) => entry.key !== message.key);
}

/** A message became a tombstone. */
export function markDeleted(room, seq) {
  const item = find(room, generation(room), seq);
  if (item) Object.assign(item, { deleted: true, content: null });
}

/** Where the next older page ends (exclusive), or null when there is none to be had. */
export function olderBefore(room) {
  if (room.membership !== 'in' || room.topReached || room.loadingOlder || room.head === null) return null;
  const first = room.items[0];
  if (!first) return room.head > 0 ? room.head + 1 : null;
  return first.kind === 'message' && first.gen === generation(room) && first.seq > 1 ? first.seq : null;
}

/** A page of history before the oldest entry. */
export function addOlder(room, reply) {
  room.loadingOlder = false;
  if (reply.epoch !== epochOf(room)) return;
  for (const message of reply.messages) place(room, message);
  room.topReached = !reply.more || reply.messages.length === 0;
}

/** What to ask for in order to fill `gap`: from its newer end, or from its older end when it is the tail. */
export function gapQuery(gap) {
  const limit = Math.min(PAGE, gap.to - gap.seq + 1);
  return gap.tail ? { after: gap.seq - 1, limit } : { before: gap.to + 1, limit };
}

/** A page of history for `gap`, which shrinks, goes, or turns out to be gone for good. */
export function fillGap(room, gap, reply) {
  const at = room.items.indexOf(gap);
  if (at < 0) return;
  if (gap.gen !== generation(room) || reply.epoch !== epochOf(room)) {
    gap.state = 'gone';
    return;
  }
  const messages = reply.messages.filter((message) => message.seq >= gap.seq && message.seq <= gap.to);
  room.items.splice(at, 1);
  const first = messages[0]?.seq ?? null;
  const last = messages.at(-1)?.seq ?? null;
  const rest = { ...gap, state: 'open', budget: gap.budget - messages.length };
  let lost = null;
  if (gap.tail) {
    if (first !== null && first > gap.seq) lost = { ...rest, to: first - 1 };
    rest.seq = (last ?? gap.to) + 1;
  } else {
    rest.to = (first ?? gap.seq) - 1;
    if (first === null) lost = { ...rest, to: gap.to };
    else if (!reply.more && first > gap.seq) {
      lost = { ...rest, to: first - 1 };
      rest.to = gap.seq - 1;
    }
  }
  for (const message of messages) place(room, message);
  if (lost) insert(room, { ...lost, state: 'gone', tail: false });
  if (rest.seq <= rest.to) insert(room, Object.assign(gap, rest));
}

/** Gaps that should be filled now: those with budget left, but for the tail, which waits until it is wanted. */
export function gapsToFill(room) {
  return room.items.filter((item) => item.kind === 'gap' && item.state === 'open' && !item.tail && item.budget > 0);
}

/** The gap between what is shown and what the room has by now, when the end of the room is not shown. */
export function tailOf(room) {
  const last = room.items.at(-1);
  return last?.tail ? last : null;
}

/** Drops entries from the end that the reader is further from, so that the page stays small. */
export function trim(room, side, most = ITEMS_MAX) {
  const excess = room.items.length - most;
  if (excess <= 0) return;
  if (side === 'top') {
    const dropped = room.items.splice(0, excess);
    forget(room, dropped);
    if (dropped.some((item) => item.gen === generation(room) && item.kind !== 'restart')) room.topReached = false;
    if (room.items[0].kind === 'restart') room.items.shift();
    if (room.items[0].gen !== generation(room)) room.topReached = true;
    return;
  }
  const tail = tailOf(room);
  const end = tail ? room.items.length - 1 : room.items.length;
  let from = Math.max(end - excess, 1);
  while (from < end && (room.items[from].gen !== generation(room) || room.items[from].kind !== 'message')) from += 1;
  if (from >= end || room.head === null) return;
  const dropped = room.items.splice(from);
  forget(room, dropped);
  insert(room, newGap(room, dropped[0].seq, Math.max(room.head, tail?.to ?? 0, dropped.at(-1).seq), true));
}

/** Drops what is shown of this epoch, so that its latest page can be read instead. Says the gap to fill, if any. */
export function rewind(room) {
  const kept = room.items.filter((item) => item.gen !== generation(room) || item.kind === 'restart');
  forget(room, room.items.filter((item) => !kept.includes(item)));
  room.items = kept;
  room.topReached = kept.length > 0;
  if (kept.length === 0) return null;
  const gap = addGap(room, 1, room.head ?? 0);
  if (gap) gap.budget = PAGE;
  return gap;
}

/** What the connection's end means for a room: answers under way will not come. */
export function disconnected(room) {
  if (room.membership === 'in' || room.membership === 'joining') room.membership = 'joining';
  room.target = null;
  room.checking = false;
  room.loadingOlder = false;
  room.typing.clear();
  for (const item of room.items) if (item.state === 'loading') item.state = 'open';
  for (const entry of room.outbox) if (entry.state === 'sent') entry.state = 'unknown';
}

/** Entries of the outbox that may be sent now: in order, and only once the fate of earlier ones is known. */
export function sendable(room) {
  if (room.outbox.length === 0 || !isSynced(room)) return [];
  return room.outbox.filter((entry) => entry.state === 'queued' || entry.state === 'unknown');
}

/**
 * What the page shows of a room, top to bottom: {type: 'day' | 'new' | 'restart' | 'gap' | 'message' | 'outgoing', …}.
 * `first` says that a message begins a block of its sender's.
 */
export function rowsOf(room, me) {
  const rows = [];
  let day = null;
  let previous = null;
  let dividerPending = room.divider !== null;
  for (const item of room.items) {
    if (item.kind !== 'message') {
      rows.push({ type: item.kind, id: `${item.kind}:${item.gen}:${item.seq}`, item });
      previous = null;
      continue;
    }
    const date = dayOf(item.timestamp);
    if (date !== day) {
      day = date;
      rows.push({ type: 'day', id: `day:${item.gen}:${item.seq}`, timestamp: item.timestamp });
      previous = null;
    }
    if (dividerPending && isAfter(item, room.divider) && item.sender !== me) {
      dividerPending = false;
      rows.push({ type: 'new', id: 'new' });
      previous = null;
    }
    const mine = item.sender === me;
    const first = !previous || previous.sender !== item.sender || item.timestamp - previous.timestamp > GROUP_MS;
    rows.push({ type: 'message', id: mine && item.key ? `key:${item.key}` : `seq:${item.gen}:${item.seq}`, item, mine, first });
    previous = item;
  }
  for (const entry of room.outbox) {
    const first = !previous || previous.sender !== me || entry.at - previous.timestamp > GROUP_MS;
    rows.push({ type: 'outgoing', id: `key:${entry.key}`, entry, mine: true, first });
    previous = { sender: me, timestamp: entry.at };
  }
  return rows;
}

/** The last entry's place, for what has been seen. */
export function endOf(room) {
  return { gen: generation(room), seq: Math.max(room.head ?? 0, room.items.at(-1)?.seq ?? 0) };
}

function isAfter(item, place) {
  return item.gen > place.gen || (item.gen === place.gen && item.seq > place.seq);
}

function dayOf(timestamp) {
  const date = new Date(timestamp);
  return `${date.getFullYear()}-${date.getMonth() + 1}-${date.getDate()}`;
}

function advance(room, seq) {
  room.head = seq;
  if (room.target !== null && seq >= room.target) room.target = null;
}

function newGap(room, from, to, tail) {
  return { kind: 'gap', gen: generation(room), seq: from, to, state: 'open', tail, budget: GAP_BUDGET };
}

/** Marks `from` to `to` as missing; behind a tail that is known already. */
function addGap(room, from, to) {
  if (to < from) return null;
  const tail = tailOf(room);
  if (tail) {
    tail.to = Math.max(tail.to, to);
    return null;
  }
  const gap = newGap(room, from, to, false);
  insert(room, gap);
  return gap;
}

/** Puts a message where it belongs. Says whether it was new. */
function place(room, message) {
  const gen = generation(room);
  const there = find(room, gen, message.seq);
  if (there) {
    if (message.deleted) Object.assign(there, { deleted: true, content: null });
    return false;
  }
  const tail = tailOf(room);
  if ((tail && message.seq >= tail.seq) || isRepeat(room, message)) return false;
  const { seq, sender, timestamp, key = null, deleted = false } = message;
  const item = { kind: 'message', gen, seq, sender, content: message.content ?? null, timestamp, key, deleted };
  insert(room, item);
  if (key) room.keys.set(`${sender}\n${key}`, item);
  return true;
}

/** Whether the same sender's message of the same key is shown already: one message that was sent twice. */
function isRepeat(room, message) {
  return Boolean(message.key) && room.keys.has(`${message.sender}\n${message.key}`);
}

function forget(room, items) {
  for (const item of items) if (item.key) room.keys.delete(`${item.sender}\n${item.key}`);
}

function insert(room, item) {
  room.items.splice(search(room, item.gen, item.seq), 0, item);
}

function find(room, gen, seq) {
  for (let at = search(room, gen, seq); at < room.items.length; at += 1) {
    const item = room.items[at];
    if (item.gen !== gen || item.seq !== seq) return null;
    if (item.kind === 'message') return item;
  }
  return null;
}

/** The first place in `items` that is not before (gen, seq). */
function search(room, gen, seq) {
  let low = 0;
  let high = room.items.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const item = room.items[middle];
    if (item.gen < gen || (item.gen === gen && item.seq < seq)) low = middle + 1;
    else high = middle;
  }
  return low;
}

// ---------------------------------------------------------------------------------------------- 3. Connection

/** Longest time between two attempts to connect. */
export const BACKOFF_MAX_MS = 20_000;
const BACKOFF_BASE_MS = 1_000;
/** A connection that lasted this long was a good one: the next attempt begins without a history of failures. */
const STABLE_MS = 5_000;
const HANDSHAKE_MS = 10_000;
const PROBE_MS = 10_000;
const PROBE_QUICK_MS = 4_000;
/** Silence, as a multiple of the server's own interval, after which the client asks for a sign of life. */
const SILENCE_FACTOR = 1.25;

/** Exponential backoff with full jitter: anywhere between now and a bound that doubles with each attempt. */
export function backoffMs(attempt, random) {
  return Math.round(random * Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** attempt));
}

/**
 * What to do when a connection has ended: `{reconnect, delayMs, text}`. Close codes from 4500 to 4999, and those
 * that say that this client is wrong, are final; a time that the server named is kept.
 */
export function afterClose({ code, reason = '', attempt, random, retryAfterMs = null }) {
  const final = (code >= 4500 && code <= 4999) || [1002, 1003, 1007, 1008, 1010].includes(code);
  if (final) {
    return { reconnect: false, delayMs: 0, text: `The server closed the connection: ${reason || `code ${code}`}.` };
  }
  const delayMs = retryAfterMs !== null && attempt === 0 ? retryAfterMs : backoffMs(attempt, random);
  return { reconnect: true, delayMs, text: CLOSE_TEXTS[code] ?? 'The connection was lost.' };
}

const CLOSE_TEXTS = {
  1001: 'The server is going away.',
  1009: 'A message was too large for the server.',
  1012: 'The server is restarting.',
  1013: 'The server is busy.',
  4000: 'The server had not heard from this page for a while.',
  4008: 'This page could not keep up with the room.',
};

/**
 * Keeps one connection to the server, dialling again when it is lost.
 *
 * phase  idle → connecting → online → waiting → connecting …, or stopped for good
 * `env`    {open(url) → socket, now(), random(), later(ms, run) → handle, cancel(handle), uuid()}
 * `events` {phase(), welcome(reply), push(event), refused(error)}
 */
export class Connection {
  phase = 'idle';
  text = ''; // for people: why it is not online
  retryAt = 0; // when 'waiting' ends
  closing = false; // the server has announced the end of this connection

  #env;
  #events;
  #url = '';
  #name = '';
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

  start(url, name) {
    this.stop('');
    this.#url = url;
    this.#name = name;
    this.#attempt = 0;
    this.#dial();
  }

  /** Ends the connection and does not dial again. */
  stop(text) {
    this.#drop();
    this.#become(text ? 'stopped' : 'idle', text);
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
    this.#become('connecting', this.text);
    const socket = this.#env.open(this.#url);
    this.#socket = socket;
    this.#schedule(HANDSHAKE_MS, () => this.#lost(1006, '', 'The server does not answer.'));
    socket.onopen = () => {
      this.request({ type: 'connect', name: this.#name }, (reply) => this.#answered(reply));
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
        this.stop(reply.message);
        this.#events.refused(reply);
      }
      return;
    }
    this.#heartbeatMs = reply.heartbeat_ms ?? this.#heartbeatMs;
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

// ---------------------------------------------------------------------------------------------------- 4. Chat

/** How long someone counts as typing after the last signal. */
export const TYPING_EXPIRES_MS = 6_000;
const TYPING_EVERY_MS = 3_000;
/** Rooms with more members than this are told as a count. */
export const USERS_MAX = 1_000;
const USERS_PAGE = 500;
const ROOMS_PAGE = 100;
const JOIN_AGAIN_MS = 2_000;
const USERS_AGAIN_MS = 2_000;
const ROOMS_AGAIN_MS = 150;

/**
 * Rooms over one connection, for a page:
 *   changed()      something that may be shown has changed
 *   told(text)     something that a person should be told once
 *   refused(text)  the server does not take this name
 *   reading(name)  whether that room's end is being looked at
 *   farSide(name)  the end of that room which the reader is further from: 'top' | 'bottom'
 */
export class Chat {
  me = '';
  rooms = new Map(); // those that were entered, by name
  current = null; // the room shown
  directory = { rooms: [], next: null, known: false };
  limits = { message_bytes: 65_536 };
  connection;

  #env;
  #page;
  #url;
  #directoryPages = 1;
  #refreshing = false;
  #typingSentAt = 0;

  constructor(env, url, page) {
    this.#env = env;
    this.#url = url;
    this.#page = page;
    this.connection = new Connection(env, {
      phase: (phase, code) => this.#phase(phase, code),
      welcome: (reply) => this.#welcome(reply),
      push: (event) => this.#push(event),
      refused: (error) => page.refused(error.message),
    });
  }

  /** Connects as `name`. Under another name all rooms are entered anew. */
  start(name) {
    if (name !== this.me) {
      for (const room of this.rooms.values()) this.rooms.set(room.name, newlyEntered(room.name));
    }
    this.me = name;
    this.connection.start(this.#url, name);
  }

  /** Shows a room, entering it first where need be. */
  open(name) {
    let room = this.rooms.get(name);
    if (!room) {
      room = newlyEntered(name);
      this.rooms.set(name, room);
      this.#join(room);
    }
    this.#show(name);
  }

  /** Leaves one room and enters another in one step; when that is refused, nothing has changed. */
  switch(from, to) {
    const old = this.rooms.get(from);
    if (this.rooms.has(to) || !this.connection.ready || old?.membership !== 'in') {
      this.open(to);
      this.leave(from);
      return;
    }
    const room = newlyEntered(to);
    this.connection.request({ type: 'switch', from, to, ...joinFields(room) }, (reply) => {
      if (reply.type === 'ok') {
        this.#forgetUnsent(old);
        this.rooms.delete(from);
        this.rooms.set(to, room);
        this.#joined(room, reply);
        this.#show(to);
      } else if (reply.type === 'error') {
        this.#page.told(`Still in ${from}: ${reply.message}`);
      }
    });
  }

  leave(name) {
    const room = this.rooms.get(name);
    if (!room) return;
    this.#forgetUnsent(room);
    this.rooms.delete(name);
    if (this.connection.ready && (room.membership === 'in' || room.membership === 'joining')) {
      this.connection.request({ type: 'leave', room: name }, () => this.#refreshRoomsSoon());
    }
    if (this.current === name) this.#show(this.rooms.keys().next().value ?? null);
    else this.#page.changed();
  }

  /** Tries again to enter a room that was refused. */
  enterAgain(room) {
    room.membership = 'joining';
    this.#join(room);
    this.#page.changed();
  }

  /** Says something. It is kept in the room's outbox until the server has it. */
  send(room, text) {
    room.outbox.push({ key: this.#env.uuid(), content: text, at: this.#env.now(), state: 'queued', error: '' });
    this.#typingSentAt = 0;
    if (tailOf(room)) this.latest(room);
    this.#flush(room);
    this.#page.changed();
  }

  /** Sends again what had failed. */
  resend(room, entry) {
    Object.assign(entry, { state: 'queued', error: '' });
    room.outbox = [...room.outbox.filter((other) => other !== entry), entry];
    this.#flush(room);
    this.#page.changed();
  }

  discard(room, entry) {
    room.outbox = room.outbox.filter((other) => other !== entry);
    this.#page.changed();
  }

  /** Bytes left for text beside `text` in one message; negative when it is too long. */
  bytesLeft(room, text) {
    const command = { ...messageCommand(room, { content: text, key: 'x'.repeat(36) }), id: Number.MAX_SAFE_INTEGER };
    return this.limits.message_bytes - utf8Length(JSON.stringify(command));
  }

  delete(room, seq) {
    if (!this.connection.ready) {
      this.#page.told('Messages can be deleted when the connection is back.');
      return;
    }
    this.connection.request({ type: 'delete', room: room.name, seq }, (reply) => {
      if (reply.type === 'ok') markDeleted(room, seq);
      else this.#page.told(reply.type === 'error' ? `Not deleted: ${reply.message}` : 'The connection was lost; the message may not be deleted.');
      this.#page.changed();
    });
  }

  /** Tells the room that its user is writing, or has stopped. */
  typing(room, active) {
    const now = this.#env.now();
    const due = active ? now - this.#typingSentAt >= TYPING_EVERY_MS : this.#typingSentAt > 0;
    if (!due || !this.connection.ready || room.membership !== 'in' || room.role === 'guest') return;
    this.#typingSentAt = active ? now : 0;
    this.connection.notify({ type: 'signal', room: room.name, content: { typing: active } });
  }

  /** Reads the page before the oldest entry, if there is one. */
  loadOlder(room) {
    const before = olderBefore(room);
    if (before === null || !this.connection.ready) return;
    room.loadingOlder = true;
    this.#history(room, { before, limit: PAGE }, (reply) => addOlder(room, reply), () => {
      room.loadingOlder = false;
    });
  }

  /** Fetches what a mark stands for. */
  fill(room, gap) {
    if (gap.state !== 'open' || !this.connection.ready || room.membership !== 'in') return;
    gap.state = 'loading';
    this.#history(room, gapQuery(gap), (reply) => fillGap(room, gap, reply), () => {
      Object.assign(gap, { state: 'open', budget: 0 });
    });
  }

  /** Goes to the end of a room whose end is not shown. */
  latest(room) {
    if (!this.connection.ready) return;
    rewind(room);
    this.#fillGaps(room);
    this.loadOlder(room);
    this.#page.changed();
  }

  /** Reads the list of rooms anew, as much of it as was read before. */
  refreshRooms() {
    this.#readRooms(this.#directoryPages, null, []);
  }

  moreRooms() {
    this.#directoryPages += 1;
    this.refreshRooms();
  }

  markRead(room) {
    room.unread = 0;
    room.seen = endOf(room);
  }

  #forgetUnsent(room) {
    const unsent = room.outbox.filter(({ state }) => state !== 'sent').length;
    if (unsent > 0) this.#page.told(`${count(unsent, 'message')} to ${room.name} ${unsent === 1 ? 'was' : 'were'} not sent.`);
  }

  #show(name) {
    const before = this.rooms.get(this.current);
    if (before && name !== this.current) {
      this.typing(before, false);
      before.divider = null;
    }
    this.current = name;
    const room = this.rooms.get(name);
    if (room && room.unread > 0) room.divider = room.seen;
    this.#page.changed();
  }

  #phase(phase, code) {
    if (phase !== 'online') {
      for (const room of this.rooms.values()) {
        disconnected(room);
        if (code === 1009) failUnknown(room, 'It was too large for the server.');
      }
      this.#typingSentAt = 0;
    }
    this.#page.changed();
  }

  #welcome(reply) {
    this.me = reply.user ?? this.me;
    this.limits = reply.limits ?? this.limits;
    const shown = this.rooms.get(this.current);
    const rest = [...this.rooms.values()].filter((room) => room !== shown);
    for (const room of shown ? [shown, ...rest] : rest) {
      if (room.membership === 'joining') this.#join(room);
    }
    this.refreshRooms();
  }

  #join(room) {
    if (!this.connection.ready) return;
    this.connection.request({ type: 'join', room: room.name, ...joinFields(room) }, (reply) => {
      if (this.rooms.get(room.name) !== room) return;
      if (reply.type === 'ok') this.#joined(room, reply);
      else if (reply.type === 'error') this.#joinRefused(room, reply);
      this.#page.changed();
    });
  }

  #joinRefused(room, error) {
    if (!error.temporary) {
      Object.assign(room, { membership: 'refused', why: error.message });
      return;
    }
    room.why = error.message;
    this.#env.later(JOIN_AGAIN_MS * (1 + this.#env.random()), () => {
      if (this.rooms.get(room.name) === room && room.membership === 'joining') this.#join(room);
    });
  }

  #joined(room, reply) {
    const { kind } = joined(room, reply);
    if (kind === 'fresh' && room.outbox.some((entry) => entry.state === 'unknown')) this.#lookForSent(room);
    this.#fillGaps(room);
    if (room.items.length === 0) this.loadOlder(room);
    this.#readUsers(room);
    this.#flush(room);
    this.#refreshRoomsSoon();
  }

  /** Entered anew, a room's replay has no known end, so a page of history tells what had been received. */
  #lookForSent(room) {
    room.checking = true;
    this.#history(room, { limit: PAGE }, () => {
      room.checking = false;
    }, () => {
      room.checking = false;
    });
  }

  #fillGaps(room) {
    for (const gap of gapsToFill(room)) this.fill(room, gap);
  }

  /** Reads a page of history; `failed` runs when the server refuses. A lost connection resets by itself. */
  #history(room, query, done, failed) {
    this.connection.request({ type: 'history', room: room.name, ...query }, (reply) => {
      if (reply.type === 'ok') {
        done(reply);
        for (const message of reply.messages) settle(room, message, this.me);
        trim(room, this.#page.farSide(room.name));
      } else if (reply.type === 'error') {
        failed();
      } else {
        return;
      }
      this.#fillGaps(room);
      this.#flush(room);
      this.#page.changed();
    });
  }

  #flush(room) {
    if (!this.connection.ready) return;
    for (const entry of sendable(room)) {
      entry.state = 'sent';
      this.connection.request(messageCommand(room, entry), (reply) => {
        if (reply.type === 'ok') accepted(room, this.me, entry, reply);
        else if (reply.type === 'error') this.#sendRefused(room, entry, reply);
        this.#page.changed();
      });
    }
  }

  #sendRefused(room, entry, error) {
    if (this.connection.closing) {
      entry.state = 'queued';
    } else if (error.code === 'not_member' && !entry.enteredAgain && this.rooms.get(room.name) === room) {
      Object.assign(entry, { state: 'queued', enteredAgain: true });
      this.enterAgain(room);
    } else {
      Object.assign(entry, { state: 'failed', error: error.message });
    }
  }

  #push(event) {
    if (event.type === 'error') {
      this.#page.told(event.message);
      return;
    }
    const room = this.rooms.get(event.room);
    if (room) this.#roomEvent(room, event);
    this.#page.changed();
  }

  #roomEvent(room, event) {
    switch (event.type) {
      case 'message':
        this.#message(room, event);
        break;
      case 'signal':
        this.#signal(room, event);
        break;
      case 'deleted':
        markDeleted(room, event.seq);
        break;
      case 'presence':
        this.#presence(room, event);
        break;
      case 'gap':
        skipped(room, event.from, event.to);
        this.#fillGaps(room);
        this.#flush(room);
        break;
      case 'kicked':
        Object.assign(room, { membership: 'refused', why: 'A host removed you from this room.' });
        break;
      case 'closed':
        Object.assign(room, { membership: 'refused', why: 'A host closed this room.' });
        break;
      default: // a later server's event
    }
  }

  #message(room, message) {
    const { placed, gap } = receive(room, message);
    settle(room, message, this.me);
    room.typing.delete(message.sender);
    const news = placed && message.sender !== this.me && message.seq > room.quietUntil && !message.deleted;
    if (news && !this.#page.reading(room.name)) room.unread += 1;
    if (gap) this.#fillGaps(room);
    trim(room, this.#page.farSide(room.name));
    this.#flush(room);
  }

  #signal(room, { sender, content }) {
    if (sender === this.me || typeof content !== 'object' || content === null) return;
    if (content.typing === true) {
      room.typing.set(sender, this.#env.now() + TYPING_EXPIRES_MS);
      this.#env.later(TYPING_EXPIRES_MS + 50, () => {
        expireTyping(room, this.#env.now());
        this.#page.changed();
      });
    } else if (content.typing === false) {
      room.typing.delete(sender);
    }
  }

  #presence(room, { joined: came = [], left = [], count: members }) {
    room.members = members;
    if (room.missedPresence) {
      room.missedPresence.push({ came, left });
      return;
    }
    applyPresence(room, this.#env.now(), came, left);
    const wrong = members <= USERS_MAX && (!room.usersKnown || room.users.size !== members);
    if (members > USERS_MAX) forgetUsers(room);
    if (wrong && !room.readUsersSoon) {
      room.readUsersSoon = true;
      this.#env.later(USERS_AGAIN_MS, () => {
        room.readUsersSoon = false;
        this.#readUsers(room);
      });
    }
  }

  /** Reads who is in a room, page by page; what is pushed meanwhile is applied afterwards. */
  #readUsers(room, after = null, found = []) {
    if (!this.connection.ready || room.membership !== 'in' || this.rooms.get(room.name) !== room) return;
    if (room.members > USERS_MAX) {
      forgetUsers(room);
      return;
    }
    if (after === null) room.missedPresence = [];
    const command = { type: 'presence', room: room.name, limit: USERS_PAGE, ...(after === null ? {} : { after }) };
    this.connection.request(command, (reply) => {
      if (reply.type === 'ok' && reply.next && found.length < USERS_MAX) {
        this.#readUsers(room, reply.next, found.concat(reply.users));
        return;
      }
      const missed = room.missedPresence ?? [];
      room.missedPresence = null;
      if (reply.type === 'ok' && reply.count > USERS_MAX) {
        room.members = reply.count;
        forgetUsers(room);
      } else if (reply.type === 'ok') {
        room.members = reply.count;
        room.users = new Map(found.concat(reply.users).map(({ user, since }) => [user, since]));
        room.usersKnown = true;
        for (const { came, left } of missed) applyPresence(room, this.#env.now(), came, left);
      }
      this.#page.changed();
    });
  }

  /** After changes of our own, which may be many at once. */
  #refreshRoomsSoon() {
    if (this.#refreshing) return;
    this.#refreshing = true;
    this.#env.later(ROOMS_AGAIN_MS, () => {
      this.#refreshing = false;
      this.refreshRooms();
    });
  }

  #readRooms(pages, after, found) {
    if (!this.connection.ready) return;
    const command = { type: 'rooms', limit: ROOMS_PAGE, ...(after === null ? {} : { after }) };
    this.connection.request(command, (reply) => {
      if (reply.type !== 'ok') return;
      const rooms = found.concat(reply.rooms);
      if (reply.next && pages > 1) {
        this.#readRooms(pages - 1, reply.next, rooms);
        return;
      }
      this.directory = { rooms, next: reply.next ?? null, known: true };
      this.#page.changed();
    });
  }
}

function newlyEntered(name) {
  return Object.assign(createRoom(name), { membership: 'joining' });
}

function joinFields(room) {
  const since = sinceOf(room);
  return { presence: true, ...(since ? { since } : { history: HISTORY_ON_JOIN }) };
}

function messageCommand(room, { content, key }) {
  return { type: 'message', room: room.name, content, key };
}

function failUnknown(room, error) {
  for (const entry of room.outbox) if (entry.state === 'unknown') Object.assign(entry, { state: 'failed', error });
}

function applyPresence(room, now, came, left) {
  for (const user of came) if (!room.users.has(user)) room.users.set(user, now);
  for (const user of left) {
    room.users.delete(user);
    room.typing.delete(user);
  }
}

function forgetUsers(room) {
  room.users.clear();
  room.usersKnown = false;
}

function expireTyping(room, now) {
  for (const [user, expires] of room.typing) if (expires <= now) room.typing.delete(user);
}

// ---------------------------------------------------------------------------------------------------- 5. View

const ROOMS_EVERY_MS = 10_000;
/** This close to the end of the log, in pixels, the reader is at the end. */
const NEAR_END = 48;
/** This close to either end, more is read. */
const NEAR_EDGE = 400;
/** Longer text is shown in part until asked for. */
const TEXT_SHOWN_MAX = 3_000;
const DEFAULT_ROOM = 'lobby';
const ICONS = { delete: '#i-trash', swap: '#i-swap' };

class View {
  #chat;
  #nodes = new Map(); // id → element of the page
  #shown = new Map(); // part of the page → what it was drawn from
  #entries = new Map(); // row id → {node, drawnFrom}
  #logRoom = null; // the room that the log shows
  #following = true; // the end of the log stays in sight
  #upperHalf = false;
  #drawer = null; // 'rooms' | 'people' | null
  #drawerOpener = null;
  #peopleHidden = false; // on wide screens
  #expanded = new Set();
  #frame = false;
  #phase = '';
  #narrow = matchMedia('(max-width: 760px)');
  #medium = matchMedia('(max-width: 1080px)');
  #clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' });
  #day = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
  #dayAndYear = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'long', year: 'numeric' });
  #exact = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'medium' });

  constructor() {
    for (const node of document.querySelectorAll('[id]')) this.#nodes.set(node.id, node);
    const url = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws`;
    this.#chat = new Chat(browserEnv(), url, {
      changed: () => this.#changed(),
      told: (text) => this.#toast(text),
      refused: (text) => this.#askName({ error: text }),
      reading: (name) => this.#isReading(name),
      farSide: (name) => (name === this.#chat.current && this.#upperHalf ? 'bottom' : 'top'),
    });
    this.#listenToRooms();
    this.#listenToLog();
    this.#listenToComposer();
    this.#listenToDrawers();
    this.#listenToEntrance();
    this.#listenToWindow();
    this.#fitDrawers();
    this.#begin();
  }

  #$(id) {
    return this.#nodes.get(id);
  }

  get #room() {
    return this.#chat.rooms.get(this.#chat.current) ?? null;
  }

  // Beginning ------------------------------------------------------------------------------------------------

  /** A tab goes on as whom it was; a new one as the person last here, unless that one is here already. */
  async #begin() {
    const tab = remembered('sessionStorage', 'hubbub.tab');
    const name = remembered('localStorage', 'hubbub.name');
    if (tab) {
      this.#enter(tab.name, tab.rooms);
    } else if (name && !(await isHere(name))) {
      this.#enter(name, []);
    } else {
      this.#askName({ taken: Boolean(name) });
    }
  }

  #enter(name, rooms, current = roomOfHash(location.hash) || rooms[0] || DEFAULT_ROOM) {
    remember('localStorage', 'hubbub.name', name);
    holdName(name);
    for (const room of rooms) this.#chat.open(room);
    this.#chat.open(current);
    this.#chat.start(name);
    this.#$('composer-input').focus();
  }

  /** Asks who is there. Once a name is in use, asking again can be cancelled. */
  #askName({ error = '', taken = false }) {
    const { me } = this.#chat;
    const here = me !== '' && !error;
    this.#$('entrance-lead').textContent = here
      ? 'Under another name you enter your rooms anew.'
      : taken
        ? 'You are here in another tab. Under a second name you can talk to yourself.'
        : 'Pick a name and start talking.';
    this.#$('entrance-error').textContent = error;
    this.#$('entrance-cancel').hidden = !here;
    this.#$('entrance-room').hidden = me !== '';
    this.#$('name-input').value = me || remembered('localStorage', 'hubbub.name') || '';
    this.#$('room-input').value = roomOfHash(location.hash) || DEFAULT_ROOM;
    if (!this.#$('entrance').open) this.#$('entrance').showModal();
    this.#$('name-input').select();
  }

  #listenToEntrance() {
    const dialog = this.#$('entrance');
    dialog.addEventListener('cancel', (event) => {
      if (this.#$('entrance-cancel').hidden) event.preventDefault();
    });
    this.#$('entrance-cancel').addEventListener('click', () => dialog.close());
    this.#$('rename').addEventListener('click', () => this.#askName({}));
    this.#$('entrance-form').addEventListener('submit', (event) => {
      event.preventDefault();
      const name = this.#$('name-input').value.trim();
      const room = this.#$('room-input').value.trim() || DEFAULT_ROOM;
      if (name === '' || utf8Length(name) > 64) {
        this.#$('entrance-error').textContent = name === '' ? 'A name is needed, so that others know who is talking.' : 'That name is too long.';
        this.#$('name-input').focus();
        return;
      }
      dialog.close();
      if (this.#chat.me === '') this.#enter(name, [], room);
      else if (name !== this.#chat.me || this.#chat.connection.phase !== 'online') this.#enter(name, [], this.#chat.current ?? room);
    });
  }

  #listenToWindow() {
    const wake = () => {
      if (document.visibilityState === 'visible') this.#chat.connection.wake();
    };
    addEventListener('online', wake);
    addEventListener('offline', () => {
      wake();
      this.#changed();
    });
    addEventListener('pageshow', (event) => event.persisted && wake());
    document.addEventListener('visibilitychange', () => {
      const room = this.#room;
      if (document.visibilityState === 'visible' && room?.unread > 0) room.divider = room.seen;
      wake();
      this.#frame = false; // a page that was just hidden gets no frame
      this.#changed();
    });
    addEventListener('popstate', () => this.#followHash());
    addEventListener('hashchange', () => this.#followHash());
    addEventListener('beforeunload', (event) => {
      const waiting = [...this.#chat.rooms.values()].some((room) => room.outbox.length > 0);
      if (waiting) event.preventDefault();
    });
    setInterval(() => this.#everySecond(), 1_000);
    setInterval(() => {
      if (document.visibilityState === 'visible') this.#chat.refreshRooms();
    }, ROOMS_EVERY_MS);
    // A keyboard on the screen covers the page on some systems instead of making it smaller.
    const viewport = window.visualViewport;
    viewport?.addEventListener('resize', () => {
      if (viewport.scale > 1.01) return;
      document.documentElement.style.setProperty('--app-height', `${viewport.height}px`);
      scrollTo(0, 0);
    });
  }

  #followHash() {
    const name = roomOfHash(location.hash);
    if (this.#chat.me !== '' && name !== '' && name !== this.#chat.current) this.#chat.open(name);
  }

  #everySecond() {
    if (this.#chat.connection.phase === 'waiting') this.#drawBanner();
  }

  // Drawing --------------------------------------------------------------------------------------------------

  /** Draws soon, once for however many changes; a page that is out of sight is drawn less often. */
  #changed() {
    if (this.#frame) return;
    this.#frame = true;
    const draw = () => {
      this.#frame = false;
      this.#draw();
    };
    if (document.visibilityState === 'visible') requestAnimationFrame(draw);
    else setTimeout(draw, 200);
  }

  #draw() {
    this.#drawPhase();
    this.#drawBanner();
    this.#drawComposer();
    this.#drawLog(); // before the badges: what it shows counts as read
    this.#drawHead();
    this.#drawRooms();
    this.#drawPeople();
    this.#drawTyping();
    this.#drawTitle();
    this.#remember();
  }

  /** Whether `part` must be drawn again because it would now be drawn from something else. */
  #isStale(part, drawnFrom) {
    const text = JSON.stringify(drawnFrom);
    if (this.#shown.get(part) === text) return false;
    this.#shown.set(part, text);
    return true;
  }

  #remember() {
    const { me, rooms, current } = this.#chat;
    const entered = [...rooms.values()].filter(({ membership }) => membership !== 'refused').map(({ name }) => name);
    if (me === '' || !this.#isStale('memory', [me, entered, current])) return;
    remember('sessionStorage', 'hubbub.tab', { name: me, rooms: entered });
    const address = current === null ? location.pathname : hashOfRoom(current);
    const named = roomOfHash(location.hash);
    if (current === null || named !== current) {
      history[rooms.has(named) ? 'pushState' : 'replaceState'](null, '', address);
    }
  }

  #drawPhase() {
    const { phase, text } = this.#chat.connection;
    const names = { idle: '', connecting: 'Connecting…', online: 'Online', waiting: 'Reconnecting…', stopped: 'Disconnected' };
    if (!this.#isStale('phase', [phase, text, this.#chat.me])) return;
    this.#$('app').dataset.phase = phase;
    this.#$('self-state').textContent = names[phase];
    this.#$('self-name').textContent = this.#chat.me;
    paintAvatar(this.#$('self-avatar'), this.#chat.me);
    const steady = phase === 'connecting' ? this.#phase : phase; // one attempt more is no news
    if (steady === this.#phase) return;
    const told = { online: 'Connected.', waiting: 'Connection lost. Reconnecting.', stopped: `Disconnected. ${text}` }[steady];
    if (told) this.#$('announcer').textContent = told;
    this.#phase = steady;
  }

  #drawBanner() {
    const { text, action } = this.#bannerNow();
    this.#$('banner').hidden = text === '';
    if (text === '' || !this.#isStale('banner', [text, action?.label])) return;
    this.#$('banner-text').textContent = text;
    this.#$('banner-action').hidden = !action;
    this.#$('banner-action').textContent = action?.label ?? '';
    this.#$('banner-action').onclick = () => action?.run();
  }

  /** What stands between the reader and the room just now. */
  #bannerNow() {
    const { connection } = this.#chat;
    const room = this.#room;
    const retry = () => connection.retryNow();
    if (connection.phase === 'connecting') return { text: this.#phase === '' ? 'Connecting…' : 'Reconnecting…' };
    if (connection.phase === 'stopped') return { text: connection.text, action: { label: 'Connect again', run: retry } };
    if (connection.phase === 'waiting') {
      const seconds = Math.max(1, Math.ceil((connection.retryAt - Date.now()) / 1_000));
      const why = navigator.onLine ? connection.text : 'This device is offline.';
      return { text: `${why} Reconnecting in ${seconds} s.`, action: { label: 'Retry now', run: retry } };
    }
    if (connection.closing) return { text: connection.text };
    if (room?.membership === 'refused') {
      return { text: `You are not in this room. ${sentence(room.why)}`, action: { label: 'Try again', run: () => this.#chat.enterAgain(room) } };
    }
    if (room?.membership === 'joining' && room.why) return { text: `Waiting to enter. ${sentence(room.why)}` };
    return { text: '' };
  }

  #drawHead() {
    const room = this.#room;
    const elsewhere = [...this.#chat.rooms.values()].some((other) => other !== room && other.unread > 0);
    const entering = room?.membership === 'joining' && this.#chat.connection.ready;
    const known = isKnown(room);
    if (!this.#isStale('head', [room?.name, room?.members, room?.role, entering, known, elsewhere])) return;
    this.#$('title').textContent = room ? room.name : 'hubbub';
    this.#$('title').classList.toggle('room-name', Boolean(room));
    const parts = [];
    if (known) parts.push(count(room.members, 'person', 'people'));
    if (known && room.role !== 'member') parts.push(room.role === 'host' ? 'you are the host' : 'you may read along');
    if (entering && !known) parts.push('Entering…');
    this.#$('subtitle').textContent = parts.join(' · ');
    for (const id of ['copy-link', 'leave', 'open-people']) this.#$(id).hidden = !room;
    this.#$('people-badge').textContent = known ? String(room.members) : '';
    this.#$('open-people').setAttribute('aria-label', known ? `People: ${room.members}` : 'People');
    this.#$('elsewhere').hidden = !elsewhere;
    this.#$('open-rooms').setAttribute('aria-label', elsewhere ? 'Rooms, with new messages' : 'Rooms');
  }

  #drawTitle() {
    const unread = [...this.#chat.rooms.values()].reduce((sum, room) => sum + room.unread, 0);
    const title = `${unread > 0 ? `(${unread}) ` : ''}${this.#chat.current ? `${this.#chat.current} · ` : ''}hubbub`;
    if (document.title !== title) document.title = title;
  }

  // Rooms ----------------------------------------------------------------------------------------------------

  #listenToRooms() {
    this.#$('finder').addEventListener('submit', (event) => {
      event.preventDefault();
      const name = this.#$('finder-input').value.trim();
      if (name) this.#openFromList(name);
    });
    this.#$('finder-input').addEventListener('input', () => this.#changed());
    this.#$('finder-input').addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this.#$('finder-input').value !== '') {
        event.stopPropagation();
        this.#$('finder-input').value = '';
        this.#changed();
      } else if (event.key === 'ArrowDown') {
        event.preventDefault();
        this.#$('room-lists').querySelector('button')?.focus();
      }
    });
    this.#$('room-lists').addEventListener('keydown', (event) => moveFocus(event, this.#$('room-lists'), 'button.room'));
    this.#$('room-lists').addEventListener('click', (event) => {
      const button = event.target.closest('button[data-room]');
      if (!button) return;
      if (button.dataset.act === 'switch') this.#chat.switch(this.#chat.current, button.dataset.room);
      if (button.dataset.act === 'open') this.#openFromList(button.dataset.room);
      else this.#closeDrawer();
    });
    this.#$('open-more').addEventListener('click', () => this.#chat.moreRooms());
    this.#$('leave').addEventListener('click', () => {
      this.#chat.leave(this.#chat.current);
      this.#$('composer-input').focus();
    });
    this.#$('copy-link').addEventListener('click', () => this.#copyLink());
  }

  #openFromList(name) {
    this.#$('finder-input').value = '';
    this.#chat.open(name);
    this.#closeDrawer();
    if (!this.#narrow.matches) this.#$('composer-input').focus();
  }

  async #copyLink() {
    const link = new URL(hashOfRoom(this.#chat.current), location.href).href;
    try {
      await navigator.clipboard.writeText(link);
      this.#toast('Link copied.');
    } catch {
      this.#toast(`The link to this room: ${link}`); // no clipboard without https
    }
  }

  #drawRooms() {
    const { rooms, directory, current } = this.#chat;
    const wanted = this.#$('finder-input').value.trim();
    const fits = (name) => name.toLowerCase().includes(wanted.toLowerCase());
    const counts = new Map(directory.rooms.map(({ room, members }) => [room, members]));
    const mine = [...rooms.values()].filter(({ name }) => fits(name)).map((room) => {
      const members = room.membership === 'in' ? room.members : (counts.get(room.name) ?? 0);
      return { name: room.name, members, unread: room.unread, current: room.name === current, out: room.membership === 'refused' };
    });
    const open = directory.rooms.filter(({ room }) => !rooms.has(room) && fits(room));
    const isNew = wanted !== '' && !rooms.has(wanted) && !counts.has(wanted);
    const canSwitch = this.#room?.membership === 'in';
    if (!this.#isStale('rooms', [mine, open, isNew && wanted, directory.next, directory.known, current, canSwitch, wanted === ''])) return;
    keepFocus(this.#$('room-lists'), () => {
      this.#$('joined-list').replaceChildren(...mine.map((room) => roomRow(room)));
      const rows = open.map(({ room, members }) => openRow(room, members, canSwitch ? current : null));
      this.#$('open-list').replaceChildren(...(isNew ? [newRow(wanted)] : []), ...rows);
    });
    this.#$('joined-empty').hidden = rooms.size > 0;
    this.#$('joined').hidden = mine.length === 0 && wanted !== '';
    this.#$('open-empty').hidden = open.length > 0 || isNew;
    this.#$('open-empty').textContent = directory.known ? 'No other room is open. Name one above to start it.' : 'Reading the list…';
    this.#$('open-more').hidden = directory.next === null;
  }

  // People ---------------------------------------------------------------------------------------------------

  #drawPeople() {
    const room = this.#room;
    const { me } = this.#chat;
    const names = room?.usersKnown ? [...room.users.keys()] : [];
    const large = room !== null && room.members > USERS_MAX;
    const known = isKnown(room);
    if (!this.#isStale('people', [names, room?.members, large, known, me])) return;
    names.sort((a, b) => (b === me) - (a === me) || a.localeCompare(b));
    this.#$('people-title').textContent = known ? count(room.members, 'person', 'people') : 'People';
    this.#$('people-list').replaceChildren(...names.map((name) => {
      const avatar = make('span', { class: 'avatar', 'aria-hidden': 'true' });
      paintAvatar(avatar, name);
      return make('li', {}, avatar, make('bdi', { class: 'person' }, name), name === me ? make('span', { class: 'you' }, 'you') : '');
    }));
    this.#$('people-hint').hidden = !large;
    this.#$('people-hint').textContent = large ? 'Too many to list; large rooms show how many people are there.' : '';
  }

  #drawTyping() {
    const names = [...(this.#room?.typing.keys() ?? [])];
    const text = describeTyping(names);
    if (this.#isStale('typing', text)) this.#$('typing').textContent = text;
  }

  // The log --------------------------------------------------------------------------------------------------

  #listenToLog() {
    const log = this.#$('log');
    log.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    log.addEventListener('keydown', (event) => this.#logKey(event));
    log.addEventListener('click', (event) => this.#logClick(event));
    log.addEventListener('focusin', (event) => setTabStop(log, event.target.closest('.message')));
    this.#$('pill').addEventListener('click', () => this.#toEnd());
    new ResizeObserver(() => {
      if (this.#following) log.scrollTop = log.scrollHeight;
    }).observe(log);
    this.#$('empty-action').addEventListener('click', () => (this.#room ? this.#copyLink() : this.#openDrawer('rooms', this.#$('open-rooms'))));
  }

  #isReading(name) {
    return name === this.#chat.current && this.#following && document.visibilityState === 'visible';
  }

  #scrolled() {
    const log = this.#$('log');
    const below = log.scrollHeight - log.clientHeight - log.scrollTop;
    const wasFollowing = this.#following;
    this.#following = below <= NEAR_END && !tailOf(this.#room ?? createRoom(''));
    this.#upperHalf = !this.#following && log.scrollTop < below;
    this.#readMore();
    if (wasFollowing !== this.#following || this.#room?.unread > 0) this.#changed();
    this.#drawPill();
  }

  /** Reads what is just beyond the edge that the reader comes near to. */
  #readMore() {
    const room = this.#room;
    if (!room || this.#logRoom !== room) return;
    const log = this.#$('log');
    const tail = tailOf(room);
    if (log.scrollTop < NEAR_EDGE) this.#chat.loadOlder(room);
    if (tail && log.scrollHeight - log.clientHeight - log.scrollTop < NEAR_EDGE) this.#chat.fill(room, tail);
  }

  #toEnd() {
    const room = this.#room;
    if (room && tailOf(room)) this.#chat.latest(room);
    this.#following = true;
    this.#upperHalf = false;
    this.#$('log').scrollTop = this.#$('log').scrollHeight;
    this.#changed();
    this.#$('composer-input').focus();
  }

  #drawLog() {
    const room = this.#room;
    const log = this.#$('log');
    const changedRoom = this.#logRoom !== room;
    if (changedRoom) {
      this.#logRoom = room;
      this.#entries.clear();
      this.#$('entries').replaceChildren();
      this.#following = true;
      this.#upperHalf = false;
    }
    this.#drawEmpty();
    this.#drawTop();
    const rows = room ? rowsOf(room, this.#chat.me) : [];
    const anchor = this.#following ? null : firstInSight(log, this.#$('entries'));
    // A page of the past, or a whole room, is not read out; what arrives is.
    const added = rows.filter(({ id }) => !this.#entries.has(id)).length;
    log.setAttribute('aria-live', changedRoom || added > 5 ? 'off' : 'polite');
    this.#reconcile(rows);
    if (this.#following) log.scrollTop = log.scrollHeight;
    else if (anchor?.node.isConnected) log.scrollTop += anchor.node.getBoundingClientRect().top - anchor.top;
    if (changedRoom && room?.divider) this.#toDivider();
    if (room && this.#isReading(room.name)) this.#chat.markRead(room);
    this.#readMore();
    this.#drawPill();
  }

  /** A room with news is opened where they begin, unless they fit on the screen with what follows. */
  #toDivider() {
    const log = this.#$('log');
    const divider = this.#entries.get('new')?.node;
    if (!divider) return;
    const above = divider.getBoundingClientRect().top - log.getBoundingClientRect().top;
    if (above >= 0) return;
    log.scrollTop += above - 24;
    this.#following = false;
  }

  /** Makes the entries match `rows` with as few changes to the page as possible. */
  #reconcile(rows) {
    const entries = this.#$('entries');
    const ids = new Set(rows.map((row) => row.id));
    for (const [id, { node }] of this.#entries) {
      if (ids.has(id)) continue;
      node.remove();
      this.#entries.delete(id);
    }
    let next = entries.firstChild;
    for (const row of rows) {
      const drawnFrom = JSON.stringify(this.#fingerprint(row));
      const known = this.#entries.get(row.id);
      let node = known?.node;
      if (!known || known.drawnFrom !== drawnFrom) {
        const fresh = this.#build(row);
        if (known) {
          const hadFocus = node.contains(document.activeElement);
          if (next === node) next = fresh;
          node.replaceWith(fresh);
          if (hadFocus) fresh.focus();
        }
        node = fresh;
        this.#entries.set(row.id, { node, drawnFrom });
      }
      if (node === next) next = next.nextSibling;
      else entries.insertBefore(node, next);
    }
  }

  /** What a row is drawn from, apart from what never changes. */
  #fingerprint(row) {
    const { item, entry } = row;
    switch (row.type) {
      case 'message':
        return [item.deleted, row.first, row.mine, this.#mayDelete(row), this.#expanded.has(row.id), 'sent'];
      case 'outgoing':
        return [entry.state, entry.error, row.first, this.#chat.connection.ready, this.#expanded.has(row.id)];
      case 'gap':
        return [item.seq, item.to, item.state, item.tail];
      case 'day':
        return [this.#describeDay(row.timestamp)];
      default:
        return [];
    }
  }

  #build(row) {
    switch (row.type) {
      case 'day':
        return make('div', { class: 'day' }, make('span', {}, this.#describeDay(row.timestamp)));
      case 'new':
        return make('div', { class: 'news' }, make('span', {}, 'New'));
      case 'restart':
        return make('div', { class: 'break' }, make('span', {}, 'The server restarted. Messages sent in between may be missing.'));
      case 'gap':
        return this.#buildGap(row.item);
      default:
        return this.#buildMessage(row);
    }
  }

  #buildGap(gap) {
    const missing = count(gap.to - gap.seq + 1, 'message');
    if (gap.state === 'gone') {
      return make('div', { class: 'break' }, make('span', {}, `${missing} from here ${gap.to === gap.seq ? 'is' : 'are'} no longer kept.`));
    }
    if (gap.tail || gap.state === 'loading') {
      return make('div', { class: 'break quiet-break' }, make('span', {}, 'Loading messages…'));
    }
    const button = make('button', { class: 'plain', type: 'button' }, 'Load');
    button.addEventListener('click', () => this.#chat.fill(this.#room, gap));
    return make('div', { class: 'break' }, make('span', {}, `${missing} not loaded`), button);
  }

  #buildMessage(row) {
    const { mine, first, item, entry } = row;
    const sender = mine ? this.#chat.me : item.sender;
    const at = item ? item.timestamp : entry.at;
    const classes = ['message', mine ? 'mine' : 'theirs', first ? 'first' : 'more'];
    if (entry) classes.push('outgoing', entry.state);
    const time = make('time', { datetime: new Date(at).toISOString(), title: this.#exact.format(at) }, this.#clock.format(at));
    const name = make('bdi', { class: 'name' }, mine ? 'You' : sender);
    if (!mine) name.dataset.hue = hueOf(sender);
    const meta = make('p', { class: 'meta' }, name, ' ', time);
    const avatar = make('span', { class: 'avatar', 'aria-hidden': 'true' });
    paintAvatar(avatar, sender);
    const bubble = make('div', { class: 'bubble', dir: 'auto' }, ...this.#content(row));
    const line = make('div', { class: 'line' }, bubble);
    if (item && this.#mayDelete(row)) line.append(this.#deleteButton(row));
    const node = make('article', { class: classes.join(' '), tabindex: '-1' }, avatar, make('div', { class: 'said' }, meta, line));
    if (entry) node.querySelector('.said').append(this.#outgoingNote(entry));
    node.dataset.id = row.id;
    return node;
  }

  #content(row) {
    const { item, entry } = row;
    if (item?.deleted) return [make('p', { class: 'tombstone' }, 'This message was deleted.')];
    const { text, code } = describeContent(item ? item.content : entry.content);
    const whole = text ?? code;
    const cut = whole.length > TEXT_SHOWN_MAX && !this.#expanded.has(row.id);
    const shown = cut ? `${whole.slice(0, TEXT_SHOWN_MAX)}…` : whole;
    const parts = code === undefined
      ? splitLinks(shown).map(({ text: part, href }) => (href ? make('a', { href, target: '_blank', rel: 'noopener noreferrer nofollow' }, part) : part))
      : [make('code', {}, shown)];
    const nodes = [make('p', { class: 'text' }, ...parts)];
    if (cut) nodes.push(make('button', { class: 'plain', type: 'button', 'data-act': 'expand' }, `Show all (${count(whole.length, 'character')})`));
    return nodes;
  }

  #outgoingNote(entry) {
    const notes = { queued: 'Waiting to be sent', unknown: 'Waiting to be sent', sent: 'Sending…', failed: `Not sent. ${sentence(entry.error)}` };
    const note = make('p', { class: 'note' }, notes[entry.state]);
    if (entry.state === 'failed') {
      note.append(
        make('button', { class: 'plain', type: 'button', 'data-act': 'resend' }, 'Retry'),
        make('button', { class: 'plain', type: 'button', 'data-act': 'discard' }, 'Discard'),
      );
    }
    return note;
  }

  #deleteButton(row) {
    const label = row.mine ? 'Delete this message' : `Delete this message of ${row.item.sender}`;
    return make('button', { class: 'icon act', type: 'button', tabindex: '-1', 'data-act': 'delete', 'aria-label': label, title: 'Delete' }, icon('delete'));
  }

  #mayDelete({ item, mine }) {
    const room = this.#room;
    const current = item.gen === room.epochs.length - 1;
    return current && !item.deleted && room.membership === 'in' && (mine || room.role === 'host');
  }

  #logClick(event) {
    const button = event.target.closest('button[data-act]');
    const node = event.target.closest('.message');
    const room = this.#room;
    if (!button || !node || !room) return;
    const { id } = node.dataset;
    const row = rowsOf(room, this.#chat.me).find((other) => other.id === id);
    if (!row) return;
    switch (button.dataset.act) {
      case 'delete':
        this.#confirmDelete(room, row);
        break;
      case 'expand':
        this.#expanded.add(id);
        this.#changed();
        break;
      case 'resend':
        this.#chat.resend(room, row.entry);
        break;
      case 'discard':
        this.#chat.discard(room, row.entry);
        break;
      default:
    }
  }

  #confirmDelete(room, row) {
    const dialog = this.#$('confirm');
    const { text, code } = describeContent(row.item.content);
    this.#$('confirm-quote').textContent = (text ?? code).slice(0, 300);
    dialog.returnValue = 'cancel';
    dialog.onclose = () => {
      if (dialog.returnValue === 'delete') this.#chat.delete(room, row.item.seq);
      this.#entries.get(row.id)?.node.focus();
    };
    dialog.showModal();
  }

  #logKey(event) {
    const log = this.#$('log');
    if (event.key === 'Escape') {
      event.stopPropagation();
      this.#$('composer-input').focus();
      return;
    }
    if (event.key === 'Delete' && event.target.classList.contains('message')) {
      event.target.querySelector('[data-act="delete"]')?.click();
      return;
    }
    moveFocus(event, log, '.message', 'last');
  }

  #drawTop() {
    const room = this.#room;
    const first = room?.items[0];
    let text = '';
    if (room?.loadingOlder) text = 'Loading earlier messages…';
    else if (first?.kind === 'message' && first.gen === 0 && first.seq === 1) text = `The beginning of ${room.name}.`;
    else if (first?.kind === 'message' && room.topReached && first.gen === room.epochs.length - 1) text = 'Earlier messages are no longer kept.';
    if (!this.#isStale('top', text)) return;
    this.#$('top').hidden = text === '';
    this.#$('top').textContent = text;
  }

  #drawEmpty() {
    const room = this.#room;
    const nothing = !room || (room.items.length === 0 && room.outbox.length === 0);
    const settled = room?.membership === 'in' && (room.topReached || room.head === null) && !room.loadingOlder;
    const [title, text, action] = !room
      ? ['No room is open', 'Pick one from the list, or name a new one to start it.', this.#narrow.matches ? 'Show rooms' : '']
      : settled
        ? ['It is quiet in here', 'Say the first word, or send someone the link to this room.', 'Copy link']
        : ['', '', ''];
    if (!this.#isStale('empty', [nothing, title, action, this.#chat.me === ''])) return;
    this.#$('empty').hidden = !nothing || title === '' || this.#chat.me === '';
    this.#$('empty-title').textContent = title;
    this.#$('empty-text').textContent = text;
    this.#$('empty-action').hidden = action === '';
    this.#$('empty-action').textContent = action;
  }

  #drawPill() {
    const room = this.#room;
    const log = this.#$('log');
    const far = log.scrollHeight - log.clientHeight - log.scrollTop > log.clientHeight;
    const shown = Boolean(room) && !this.#following && (room.unread > 0 || far || Boolean(tailOf(room)));
    const text = room?.unread > 0 ? count(room.unread, 'new message') : 'Latest messages';
    if (!this.#isStale('pill', [shown, text])) return;
    this.#$('pill').hidden = !shown;
    this.#$('pill-text').textContent = text;
  }

  #describeDay(timestamp) {
    const date = new Date(timestamp);
    const today = new Date();
    const days = Math.round((startOfDay(today) - startOfDay(date)) / 86_400_000);
    if (days === 0) return 'Today';
    if (days === 1) return 'Yesterday';
    return (days > 0 && days < 300 ? this.#day : this.#dayAndYear).format(date);
  }

  // The composer ---------------------------------------------------------------------------------------------

  #listenToComposer() {
    const input = this.#$('composer-input');
    input.addEventListener('input', () => {
      const room = this.#room;
      if (!room) return;
      room.draft = input.value;
      this.#fit();
      this.#chat.typing(room, input.value.trim() !== '');
      this.#drawComposer();
    });
    input.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    this.#$('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
    // A press of the button must not take the keyboard away on phones.
    this.#$('send').addEventListener('pointerdown', (event) => event.preventDefault());
    this.#$('skip').addEventListener('click', (event) => {
      event.preventDefault();
      input.focus();
    });
  }

  #submit() {
    const room = this.#room;
    const text = room?.draft.trim() ?? '';
    if (text === '' || this.#composerState(room).blocked || this.#chat.bytesLeft(room, text) < 0) return;
    room.draft = '';
    room.divider = null;
    this.#following = true;
    this.#upperHalf = false;
    this.#chat.send(room, text);
  }

  /** Whether one may write here, and what the field says when it is empty. */
  #composerState(room) {
    if (!room) return { blocked: true, placeholder: 'Open a room to write' };
    if (room.membership === 'refused') return { blocked: true, placeholder: 'You are not in this room' };
    if (room.role === 'guest') return { blocked: true, placeholder: 'You may read along here' };
    return { blocked: false, placeholder: `Write to ${room.name}` };
  }

  #drawComposer() {
    const room = this.#room;
    const input = this.#$('composer-input');
    const { blocked, placeholder } = this.#composerState(room);
    const draft = room?.draft ?? '';
    if (input.value !== draft) {
      input.value = draft;
      this.#fit();
    }
    const left = room ? this.#chat.bytesLeft(room, draft.trim()) : 0;
    const tight = left < this.#chat.limits.message_bytes / 5;
    const hint = !room || !tight || draft === ''
      ? room && !blocked && !this.#chat.connection.ready && draft !== '' ? 'It will be sent when the connection is back.' : ''
      : left < 0 ? `Too long by ${count(-left, 'byte')}.` : `${count(left, 'byte')} left.`;
    if (!this.#isStale('composer', [room?.name, blocked, placeholder, hint, left < 0, draft.trim() === ''])) return;
    input.disabled = blocked;
    input.placeholder = placeholder;
    input.setAttribute('aria-invalid', String(left < 0));
    this.#$('composer-label').textContent = room ? `Message to ${room.name}` : 'Message';
    this.#$('composer-hint').textContent = hint;
    this.#$('composer-hint').classList.toggle('wrong', left < 0);
    this.#$('send').disabled = blocked || draft.trim() === '' || left < 0;
  }

  /** The field grows with its text, up to what the style sheet allows. */
  #fit() {
    const input = this.#$('composer-input');
    input.style.height = 'auto';
    input.style.height = `${input.scrollHeight}px`;
  }

  // Drawers and notices --------------------------------------------------------------------------------------

  #listenToDrawers() {
    this.#$('open-rooms').addEventListener('click', () => this.#openDrawer('rooms', this.#$('open-rooms')));
    this.#$('open-people').addEventListener('click', () => {
      if (this.#medium.matches) {
        this.#openDrawer('people', this.#$('open-people'));
      } else {
        this.#peopleHidden = !this.#peopleHidden;
        this.#fitDrawers();
      }
    });
    this.#$('scrim').addEventListener('click', () => this.#closeDrawer());
    for (const button of document.querySelectorAll('[data-close-drawer]')) button.addEventListener('click', () => this.#closeDrawer());
    document.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this.#drawer) this.#closeDrawer();
    });
    const refit = () => {
      this.#drawer = null;
      this.#fitDrawers();
      this.#changed();
    };
    this.#narrow.addEventListener('change', refit);
    this.#medium.addEventListener('change', refit);
  }

  #openDrawer(name, opener) {
    this.#drawer = name;
    this.#drawerOpener = opener;
    this.#fitDrawers();
    if (name === 'rooms') this.#chat.refreshRooms();
    this.#$(name).querySelector('[data-close-drawer]').focus();
  }

  #closeDrawer() {
    if (!this.#drawer) return;
    this.#drawer = null;
    this.#fitDrawers();
    this.#drawerOpener?.focus();
  }

  /** What is behind a drawer, or in one that is closed, can be neither reached nor read. */
  #fitDrawers() {
    const open = this.#drawer;
    this.#$('app').dataset.drawer = open ?? '';
    this.#$('app').dataset.people = this.#peopleHidden ? 'hidden' : 'shown';
    this.#$('scrim').hidden = !open;
    this.#$('talk').inert = open !== null;
    this.#$('rooms').inert = open === 'people' || (this.#narrow.matches && open !== 'rooms');
    this.#$('people').inert = open === 'rooms' || (this.#medium.matches ? open !== 'people' : this.#peopleHidden);
    this.#$('open-rooms').setAttribute('aria-expanded', String(open === 'rooms'));
    this.#$('open-people').setAttribute('aria-expanded', String(this.#medium.matches ? open === 'people' : !this.#peopleHidden));
  }

  #toast(text) {
    const node = make('p', { class: 'toast' }, sentence(text));
    this.#$('toasts').append(node);
    setTimeout(() => node.remove(), 6_000);
  }
}

/** Whether there is something to tell of a room's people; while reconnecting, what was so before. */
function isKnown(room) {
  return room !== null && epochOf(room) !== null && room.membership !== 'refused';
}

function roomRow({ name, members, unread, current, out }) {
  const button = make('button', { class: 'room', type: 'button', 'data-room': name, 'data-act': 'open' });
  if (current) button.setAttribute('aria-current', 'page');
  button.classList.toggle('out', out);
  button.classList.toggle('loud', unread > 0);
  button.append(make('bdi', { class: 'room-name' }, name));
  if (unread > 0) {
    button.append(make('span', { class: 'badge' }, unread > 99 ? '99+' : String(unread), make('span', { class: 'unseen' }, unread === 1 ? ' new message' : ' new messages')));
  } else {
    button.append(membersOf(members));
  }
  return make('li', {}, button);
}

function openRow(name, members, current) {
  const button = make('button', { class: 'room', type: 'button', 'data-room': name, 'data-act': 'open' });
  button.append(make('bdi', { class: 'room-name' }, name), membersOf(members));
  const row = make('li', {}, button);
  if (current) {
    const label = `Leave ${current} and enter ${name}`;
    row.append(make('button', { class: 'icon act', type: 'button', 'data-room': name, 'data-act': 'switch', 'aria-label': label, title: label }, icon('swap')));
  }
  return row;
}

function newRow(name) {
  const button = make('button', { class: 'room fresh', type: 'button', 'data-room': name, 'data-act': 'open' });
  button.append(make('span', { class: 'start' }, 'Start'), make('bdi', { class: 'room-name' }, name), make('kbd', {}, '↵'));
  return make('li', {}, button);
}

function membersOf(members) {
  if (members === 0) return '';
  return make('span', { class: 'members' }, members.toLocaleString('en'), make('span', { class: 'unseen' }, members === 1 ? ' person' : ' people'));
}

function paintAvatar(node, name) {
  node.textContent = name ? initials(name) : '';
  node.dataset.hue = hueOf(name);
}

function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', ICONS[name]);
  svg.append(use);
  return svg;
}

/** An element with attributes and children; strings become text. */
function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** The server's words as a sentence of the page. */
function sentence(text) {
  const trimmed = text.trim();
  if (trimmed === '') return '';
  return trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? '' : '.');
}

function startOfDay(date) {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
}

/** Up, Down, Home and End move the focus among the elements that match. */
function moveFocus(event, container, selector, entry = 'first') {
  const steps = { ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity };
  const step = steps[event.key];
  if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  const nodes = [...container.querySelectorAll(selector)];
  if (nodes.length === 0) return;
  const at = nodes.findIndex((node) => node === event.target || node.contains(event.target));
  const start = entry === 'last' ? nodes.length : -1;
  const to = Math.min(Math.max((at < 0 ? start : at) + step, 0), nodes.length - 1);
  event.preventDefault();
  nodes[to].focus();
}

/** Buttons inside the focused message can be reached by Tab, those of the others cannot: the log is one stop. */
function setTabStop(log, message) {
  for (const node of log.querySelectorAll('.act[tabindex="0"]')) node.setAttribute('tabindex', '-1');
  for (const node of message?.querySelectorAll('.act') ?? []) node.setAttribute('tabindex', '0');
}

/** Draws a list of buttons anew without losing the one that has the focus. */
function keepFocus(container, draw) {
  const { room, act } = container.contains(document.activeElement) ? document.activeElement.dataset : {};
  draw();
  if (room === undefined) return;
  const again = [...container.querySelectorAll('button')].find((node) => node.dataset.room === room && node.dataset.act === act);
  again?.focus();
}

/** The first entry that is at least partly in sight, and where. */
function firstInSight(log, entries) {
  const top = log.getBoundingClientRect().top;
  const nodes = entries.children;
  let low = 0;
  let high = nodes.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (nodes[middle].getBoundingClientRect().bottom <= top) low = middle + 1;
    else high = middle;
  }
  return low < nodes.length ? { node: nodes[low], top: nodes[low].getBoundingClientRect().top } : null;
}

function browserEnv() {
  return {
    open: (url) => new WebSocket(url, 'hubbub.v1.json'),
    now: () => Date.now(),
    random: () => Math.random(),
    later: (ms, run) => setTimeout(run, ms),
    cancel: (handle) => clearTimeout(handle),
    uuid: randomUuid,
  };
}

/** A version 4 UUID (RFC 9562); `crypto.randomUUID` is missing on pages without https. */
function randomUuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** Storage may be forbidden; then nothing is remembered. */
function remember(storage, key, value) {
  try {
    window[storage].setItem(key, JSON.stringify(value));
  } catch {
    // As said.
  }
}

function remembered(storage, key) {
  try {
    return JSON.parse(window[storage].getItem(key));
  } catch {
    return null;
  }
}

/** Whether another tab of this browser is here under `name`. Only told on https and on this machine itself. */
async function isHere(name) {
  const { held = [] } = (await navigator.locks?.query()) ?? {};
  return held.some((lock) => lock.name === `hubbub:${name}`);
}

function holdName(name) {
  navigator.locks?.request(`hubbub:${name}`, { mode: 'shared' }, () => new Promise(() => {}));
}

if (typeof document !== 'undefined') new View();
