// Timeline: what a room shows, messages in order and marks where some are missing. Pure.
//
// What holds: within a room, (epoch, seq) names a message; `head` is the last one that the stream of the current epoch
// brought, and everything up to it is shown, hidden on purpose, or covered by a mark.

/** Messages asked for when entering a room for the first time. */
export const HISTORY_ON_JOIN = 50;
/** Messages in one page of history. */
export const PAGE = 100;
/** Entries a room keeps; what is further off is dropped and read again when it is scrolled to. */
export const ITEMS_MAX = 1000;
/** Missed messages that are fetched without being asked for. */
export const GAP_BUDGET = 500;
/** How long the server knows a key, with some time to spare. */
const KEY_WINDOW_MS = 4.5 * 60_000;
/** Messages of one sender this close together are shown as one block. */
const GROUP_MS = 5 * 60_000;

/**
 * A room as this client knows it. `items` is ordered by (gen, seq), where gen counts the epochs that were seen:
 *   {kind: 'message', gen, seq, sender, content, timestamp, key, deleted, durable?, reached?}
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
    checking: false, // whether history is being searched for messages whose fate is unknown
    items: [],
    keys: new Map(), // "sender\nkey" → item, so that a message sent twice is shown once
    topReached: false, // nothing is older than items[0]
    loadingOlder: false,
    outbox: [], // {key, content, at, state: 'queued' | 'sent' | 'unknown' | 'failed', error, sentAt, refusals, echoed}
    refusals: 0, // how often in a row the server has said "later"
    retryAt: 0, // nothing is sent before
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
    wasIn: false, // since it was entered or resumed last: the session has it
    tellsReadSoon: false,
    readTold: 0, // the last seq that the server was told is read
    knowsRead: true, // until the server says that it keeps no read cursor here
    peer: null, // in a conversation: with whom
    firstUnread: null, // in a conversation: the seq in the inbox
    isInbox: false,
    unreadBelow: 0, // in an inbox: how many of the messages that are still to be read from history are news
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
  return room.membership === 'in' && !room.checking && !room.items.some((item) => item.state === 'loading');
}

/**
 * The server has let us in. Says what the answer means:
 *   fresh      first time: a replay of the latest messages follows
 *   recovered  a replay of all that was missed follows
 *   missed     no replay; `gap` covers what was missed, if anything
 *   restarted  the server forgot; what is shown stays, `gap` covers what it knows now
 */
export function joined(room, reply) {
  Object.assign(room, { membership: 'in', why: '', members: reply.members ?? 0, role: reply.role ?? 'member' });
  const known = epochOf(room);
  if (known === null || (known === reply.epoch && room.head === null)) {
    if (known === null) room.epochs.push(reply.epoch);
    room.quietUntil = reply.seq;
    const unread = reply.unread ?? 0;
    // In a room that was never read everything is old, in an inbox everything is new.
    if (room.isInbox) room.unreadBelow = reply.seq === 0 ? 0 : (reply.unread ?? Infinity);
    else room.unread = unread;
    if (unread > 0) room.seen = { gen: generation(room), seq: reply.seq - unread };
    if (reply.seq === 0) Object.assign(room, { head: 0, topReached: true });
    return { kind: 'fresh', unread };
  }
  if (known === reply.epoch && reply.recovered) return { kind: 'recovered' };
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
  room.head = message.seq;
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
  room.head = to;
  return gap;
}

/** Our own message was accepted. The stream may bring it earlier or later; `head` is the stream's alone. */
export function accepted(room, me, entry, reply) {
  room.outbox = room.outbox.filter((other) => other !== entry);
  const { seq, timestamp, durable = false } = reply;
  const isNew = place(room, { seq, timestamp, sender: me, content: entry.content, key: entry.key });
  const item = room.keys.get(`${me}\n${entry.key}`);
  if (item) item.durable = durable;
  return isNew;
}

/** An own message came back. It is shown; until its ok has come it may have to be sent again all the same. */
export function settle(room, message, me, now) {
  if (message.sender !== me || !message.key) return;
  const entry = room.outbox.find(({ key }) => key === message.key);
  if (!entry) return;
  entry.echoed = true;
  if (entry.state === 'failed' || isTooOldToRepeat(entry, now)) room.outbox = room.outbox.filter((other) => other !== entry);
}

/** How many members have one of our messages. */
export function received(room, { seq, delivered, members }) {
  const item = find(room, generation(room), seq);
  if (item) item.reached = { delivered, members };
}

/** The server keeps keys for five minutes: a message sent before that may be there although its key is not known any more. */
export function isTooOldToRepeat(entry, now) {
  return entry.sentAt > 0 && now - entry.sentAt > KEY_WINDOW_MS;
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
  // Positions that the server passed over were never given to anyone.
  if (messages.length === 0 && reply.messages.some((message) => message.seq < gap.seq)) return;
  const first = messages.length > 0 ? (messages[0].prev ?? messages[0].seq - 1) + 1 : null;
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
  room.checking = false;
  room.loadingOlder = false;
  room.typing.clear();
  for (const item of room.items) if (item.state === 'loading') item.state = 'open';
  for (const entry of room.outbox) if (entry.state === 'sent') entry.state = 'unknown';
}

/**
 * Entries of the outbox that may be sent now, in order. What was sent shortly ago is just sent again, for its key makes it one
 * message; the fate of what is older has to be known first.
 */
export function sendable(room, now) {
  if (room.membership !== 'in' || now < room.retryAt) return [];
  const due = room.outbox.filter((entry) => entry.state === 'queued' || entry.state === 'unknown');
  return isSynced(room) || !due.some((entry) => isTooOldToRepeat(entry, now)) ? due : [];
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
    if (entry.echoed && room.keys.has(`${me}\n${entry.key}`)) continue;
    const first = !previous || previous.sender !== me || entry.at - previous.timestamp > GROUP_MS;
    rows.push({ type: 'outgoing', id: `key:${entry.key}`, entry, mine: true, first });
    previous = { sender: me, timestamp: entry.at };
  }
  const last = rows.at(-1);
  if (last?.type === 'message' && last.mine) last.last = true;
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

/** Whether a message of the present epoch is shown. */
export function has(room, seq) {
  return find(room, generation(room), seq) !== null;
}

/** Puts a message where it belongs. Says whether it was new. */
export function place(room, message) {
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
