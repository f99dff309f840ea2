// Chat: rooms and conversations over a connection: join, recover, send. Like the connection it runs without a browser.

import { describePutOut } from './access.js';
import { Connection, backoffMs } from './connection.js';
import { SENT_MAX, addAllSent, addReceived, addSent, createConversation, inboxOf, peerOf } from './direct.js';
import { count, utf8Length } from './text.js';
import {
  HISTORY_ON_JOIN, ITEMS_MAX, PAGE, accepted, addOlder, createRoom, disconnected, endOf, fillGap, gapQuery, gapsToFill, has, isTooOldToRepeat, joined,
  markDeleted, olderBefore, receive, received, rewind, sendable, settle, sinceOf, skipped, tailOf, trim,
} from './timeline.js';

/** How long someone counts as typing after the last signal. */
export const TYPING_EXPIRES_MS = 6_000;
const TYPING_EVERY_MS = 3_000;
/** Rooms with more members than this are told as a count. */
export const USERS_MAX = 1_000;
const USERS_PAGE = 500;
const ROOMS_PAGE = 100;
const JOIN_AGAIN_MS = 2_000;
/** Shortest wait before a message that was refused for now is sent again. */
const SEND_AGAIN_MS = 500;
/** Refusals of one message after which a person has to decide. */
export const REFUSALS_MAX = 10;
/** How long what was read is gathered before the server is told. */
export const READ_AFTER_MS = 1_000;
/** Past this many entries the inbox is not read further back by itself. */
const INBOX_MAX = 5 * ITEMS_MAX;
const USERS_AGAIN_MS = 2_000;
const ROOMS_AGAIN_MS = 150;

/**
 * Rooms and conversations over one connection, for a page:
 *   changed()      something that may be shown has changed
 *   told(text)     something that a person should be told once
 *   refused(text)  the server does not take this name or token; `connection.needsToken` says whether it wants a token
 *   reading(name)  whether that room's end is being looked at
 *   farSide(name)  the end of that room which the reader is further from: 'top' | 'bottom'
 */
export class Chat {
  me = '';
  displayName = ''; // what people call one; the name, unless the token says otherwise
  rooms = new Map(); // those that were entered, conversations and the inbox, by name
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
  #sent = null; // direct messages that this browser remembers to have sent; null until the server has said who one is
  #storage = 'localStorage'; // where they are; of those who come with a token only the tab remembers anything

  constructor(env, url, page) {
    this.#env = env;
    this.#url = url;
    this.#page = page;
    this.connection = new Connection(env, {
      phase: (phase, code) => this.#phase(phase, code),
      welcome: (reply) => this.#welcome(reply),
      push: (event) => this.#push(event),
      refused: (text) => page.refused(text),
      positions: () => this.#positions(),
    });
  }

  /**
   * Connects as `name`, which a token proves where there is one. Under another name all rooms are entered anew. `unsent`: what
   * {@link unsent} once said.
   */
  start(name, unsent = {}, token = null) {
    const storage = token === null ? 'localStorage' : 'sessionStorage';
    if (storage !== this.#storage) this.#sent = null;
    this.#storage = storage;
    if (name !== this.me) this.#becomeSomeone(name);
    for (const [of, entries] of Object.entries(unsent)) {
      const room = this.rooms.get(of);
      for (const entry of room ? entries : []) {
        if (room.outbox.every(({ key }) => key !== entry.key)) room.outbox.push({ ...entry, state: entry.state === 'sent' ? 'unknown' : entry.state });
      }
    }
    this.connection.start(this.#url, name, token);
  }

  /** Shows the server a fresh token of the same user. `answered` gets why it was refused, or ''; offline it is not called. */
  renew(token, answered) {
    this.connection.renew(token, (reply) => {
      if (reply.type === 'ok') this.#enterAsMore();
      if (reply.type !== 'lost') answered(reply.type === 'ok' ? '' : reply.message);
      this.#page.changed();
    });
  }

  /** A fresh token may grant more than reading, and an answer to `join` says what. */
  #enterAsMore() {
    for (const room of this.rooms.values()) {
      if (room.membership !== 'in' || room.role !== 'guest' || room.peer !== null) continue;
      this.connection.notify({ type: 'leave', room: room.name });
      room.membership = 'joining';
      this.#join(room);
    }
  }

  /** Ends the connection and forgets who one was, and what one has sent. */
  signOut() {
    this.connection.stop('');
    for (const storage of ['localStorage', 'sessionStorage']) this.#env.forget(storage, sentKey(this.me));
    this.#sent = null;
    for (const room of this.rooms.values()) this.#forgetUnsent(room);
    this.rooms.clear();
    Object.assign(this, { me: '', displayName: '', current: null, directory: { rooms: [], next: null, known: false } });
    this.#page.changed();
  }

  /** What is not known to be with the server, by room: as much of it as is worth keeping when the page goes. */
  unsent() {
    const waiting = [...this.rooms.values()].filter(({ outbox }) => outbox.length > 0);
    return Object.fromEntries(waiting.map(({ name, outbox }) => [name, outbox]));
  }

  /** The room that has a room's messages: of a conversation, the inbox. */
  sourceOf(room) {
    return room.peer === null ? room : this.#inbox;
  }

  get #inbox() {
    return this.rooms.get(inboxOf(this.me)) ?? null;
  }

  #becomeSomeone(name) {
    this.me = name;
    this.displayName = name;
    this.#sent = null;
    const before = [...this.rooms.values()];
    this.rooms.clear();
    for (const room of before) {
      if (room.isInbox || room.peer === name) continue;
      this.rooms.set(room.name, room.peer === null ? newlyEntered(room.name) : createConversation(room.peer, name, null, []));
    }
    this.rooms.set(inboxOf(name), Object.assign(newlyEntered(inboxOf(name)), { isInbox: true }));
    if (!this.rooms.has(this.current)) this.current = this.#anyRoom();
  }

  /** Not before the server knows who one is: until then one may have made that up, to read what another has sent. */
  #recallSent() {
    this.#sent = this.#env.load(this.#storage, sentKey(this.me)) ?? [];
    for (const room of this.rooms.values()) if (room.peer !== null) addAllSent(room, this.me, this.#sent);
  }

  #anyRoom() {
    const shown = [...this.rooms.values()].filter(({ isInbox }) => !isInbox);
    return (shown.find(({ peer }) => peer === null) ?? shown[0])?.name ?? null;
  }

  #conversation(peer) {
    const name = inboxOf(peer);
    if (!this.rooms.has(name)) this.rooms.set(name, createConversation(peer, this.me, this.#inbox, this.#sent ?? []));
    return this.rooms.get(name);
  }

  /** Shows a room, entering it first where need be. */
  open(name) {
    const peer = peerOf(name);
    if (peer !== null && (peer === this.me || utf8Length(peer) > 64)) {
      this.#page.told(peer === this.me ? 'That is you.' : 'That name is too long.');
      return;
    }
    let room = this.rooms.get(name);
    if (peer !== null) {
      this.#conversation(peer);
    } else if (!room) {
      room = newlyEntered(name);
      this.rooms.set(name, room);
      this.#join(room);
    }
    this.#show(name);
  }

  /** Leaves one room and enters another in one step; when that is refused, nothing has changed. */
  switch(from, to) {
    const old = this.rooms.get(from);
    if (this.rooms.has(to) || !this.connection.ready || old?.membership !== 'in' || old.peer !== null) {
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
    if (room.peer === null && this.connection.ready && (room.membership === 'in' || room.membership === 'joining')) {
      this.connection.request({ type: 'leave', room: name }, () => this.#refreshRoomsSoon());
    }
    if (this.current === name) this.#show(this.#anyRoom());
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
    room.outbox.push({ key: this.#env.uuid(), content: text, at: this.#env.now(), state: 'queued', error: '', sentAt: 0, refusals: 0, echoed: false });
    this.#typingSentAt = 0;
    if (tailOf(room)) this.latest(room);
    this.#flush(room);
    this.#page.changed();
  }

  /** Sends again what had failed. */
  resend(room, entry) {
    Object.assign(entry, { state: 'queued', error: '', refusals: 0 });
    Object.assign(room, { refusals: 0, retryAt: 0 });
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

  /**
   * Does something that only hosts may: 'kick', 'ban', 'mute', 'unmute' a user, for ever unless `forMs` says otherwise, or
   * 'close' the room. `answered` gets why it was not done, or ''.
   */
  moderate(room, { action, user, forMs }, answered) {
    if (!this.connection.ready) {
      answered('That can be done when the connection is back.');
      return;
    }
    const command = { type: action, room: room.name, ...(user === undefined ? {} : { user }), ...(forMs ? { for_ms: forMs } : {}) };
    this.connection.request(command, (reply) => {
      if (reply.type === 'ok') answered('');
      else answered(reply.type === 'error' ? reply.message : 'The connection was lost, so it may not be done.');
    });
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
    if (!due || room.peer !== null || !this.connection.ready || room.membership !== 'in' || room.role === 'guest') return;
    this.#typingSentAt = active ? now : 0;
    // With an id a refusal comes as an answer, which is passed over: whoever is muted hears of it when they send.
    this.connection.request({ type: 'signal', room: room.name, content: { typing: active } }, () => {});
  }

  /** Reads the page before the oldest entry, if there is one. */
  loadOlder(shown) {
    const room = this.sourceOf(shown);
    const before = room && olderBefore(room);
    if (before === null || !this.connection.ready || room.items.length >= INBOX_MAX) return;
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
    Object.assign(room, { unread: 0, seen: endOf(room), firstUnread: null });
    const source = this.sourceOf(room);
    if (!source?.knowsRead || source.tellsReadSoon || this.#readUpTo(room) <= source.readTold) return;
    source.tellsReadSoon = true;
    this.#env.later(READ_AFTER_MS, () => {
      source.tellsReadSoon = false;
      this.#tellRead(source, this.#readUpTo(room));
    });
  }

  /** Everything up to here was read; in the inbox, in all conversations. */
  #readUpTo(room) {
    if (room.peer === null) return room.head ?? 0;
    const firsts = [...this.rooms.values()].map(({ firstUnread }) => firstUnread).filter(Boolean);
    return Math.min(this.#inbox?.head ?? 0, ...firsts.map((seq) => seq - 1));
  }

  #tellRead(room, seq) {
    if (!this.connection.ready || room.membership !== 'in' || seq <= room.readTold) return;
    this.connection.request({ type: 'read', room: room.name, seq }, (reply) => {
      if (reply.type === 'ok') room.readTold = Math.max(room.readTold, seq);
      else if (reply.type === 'error' && !reply.temporary) room.knowsRead = false;
    });
  }

  #forgetUnsent(room) {
    const unsent = room.outbox.filter(({ state, echoed }) => state !== 'sent' && !echoed).length;
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
        if (room.peer !== null) room.membership = 'in';
        if (code === 1009) failUnknown(room, 'It was too large for the server.');
      }
      this.#typingSentAt = 0;
    }
    this.#page.changed();
  }

  #welcome(reply) {
    if (reply.user !== undefined && reply.user !== this.me) this.#becomeSomeone(reply.user);
    if (this.#sent === null) this.#recallSent();
    this.displayName = reply.name ?? this.me;
    this.limits = reply.limits ?? this.limits;
    const shown = this.rooms.get(this.current);
    const rest = [...this.rooms.values()].filter((room) => room !== shown);
    for (const room of shown ? [shown, ...rest] : rest) {
      if (room.peer !== null) this.#flush(room);
      // The server says by itself when we are back in the rooms of the session.
      else if (room.membership === 'joining' && !(reply.resumed && room.wasIn)) this.#join(room);
    }
    this.refreshRooms();
  }

  /** What was seen last of each room that the session is in. */
  #positions() {
    const known = [...this.rooms.values()].filter((room) => room.peer === null && room.wasIn && sinceOf(room));
    return Object.fromEntries(known.map((room) => [room.name, sinceOf(room)]));
  }

  /** The session goes on in a room. */
  #resumed(reply) {
    const room = this.rooms.get(reply.room);
    if (room?.membership === 'joining') this.#joined(room, reply);
    else if (!room && this.connection.ready) this.connection.notify({ type: 'leave', room: reply.room }); // it was left meanwhile
  }

  /** A room of the session could not be entered, and the server did not say which. */
  #joinTheRest() {
    this.#env.later(JOIN_AGAIN_MS, () => {
      for (const room of this.rooms.values()) if (room.membership === 'joining' && room.wasIn) this.#join(room);
    });
  }

  #join(room) {
    if (!this.connection.ready) return;
    this.connection.request({ type: 'join', room: room.name, ...joinFields(room) }, (reply) => {
      if (this.rooms.get(room.name) !== room) return;
      if (reply.type === 'ok') this.#joined(room, reply);
      else if (reply.type === 'error' && room.membership !== 'in') this.#joinRefused(room, reply);
      this.#page.changed();
    });
  }

  #joinRefused(room, error) {
    if (!error.temporary) {
      this.#putOut(room, error.message);
      if (!room.isInbox) this.#page.told(`You may not enter ${room.name}: ${error.message}`);
      return;
    }
    room.why = error.message;
    this.#env.later(JOIN_AGAIN_MS * (1 + this.#env.random()), () => {
      if (this.rooms.get(room.name) === room && room.membership === 'joining') this.#join(room);
    });
  }

  /** One is not in a room, or no longer; nothing of it stays open. */
  #putOut(room, why) {
    Object.assign(room, { membership: 'refused', why, wasIn: false, role: 'member', missedPresence: null });
    forgetUsers(room);
    room.typing.clear();
    for (const entry of room.outbox) Object.assign(entry, { state: 'failed', error: 'you are not in this room' });
  }

  #joined(room, reply) {
    const { kind, unread } = joined(room, reply);
    room.wasIn = true;
    // Nothing is replayed of an inbox, nor by a session of a room of which we had seen nothing.
    if (kind === 'fresh' && room.head === null && (room.isInbox || reply.id === undefined)) room.head = reply.seq;
    if (kind === 'fresh' && unread > 0 && room.name === this.current) room.divider = room.seen;
    if (room.outbox.some((entry) => entry.state === 'unknown' && isTooOldToRepeat(entry, this.#env.now()))) this.#lookForSent(room);
    this.#fillGaps(room);
    if (room.items.length === 0) this.loadOlder(room);
    if (!room.isInbox) this.#readUsers(room);
    this.#flush(room);
    this.#refreshRoomsSoon();
  }

  /** Whether the server knows the key of an old message cannot be known, so a page of history tells what it has. */
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
        const isNew = new Set(reply.messages.filter(({ seq }) => !has(room, seq)));
        done(reply);
        for (const message of reply.messages) settle(room, message, this.me, this.#env.now());
        if (room.isInbox) this.#pageOfInbox(room, reply.messages, isNew);
        this.#trim(room);
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
    const now = this.#env.now();
    for (const entry of sendable(room, now)) {
      entry.state = 'sent';
      entry.sentAt = now;
      this.connection.request(messageCommand(room, entry), (reply) => {
        if (reply.type === 'ok') this.#accepted(room, entry, reply);
        else if (reply.type === 'error') this.#sendRefused(room, entry, reply);
        this.#page.changed();
      });
    }
  }

  #accepted(room, entry, reply) {
    Object.assign(room, { refusals: 0, retryAt: 0 });
    if (room.peer === null) {
      accepted(room, this.me, entry, reply);
      return;
    }
    room.outbox = room.outbox.filter((other) => other !== entry);
    const { seq, timestamp, durable } = reply;
    const message = { to: room.peer, content: entry.content, key: entry.key, seq, timestamp, durable };
    addSent(room, this.me, message);
    this.#sent = [...this.#sent, message].slice(-SENT_MAX);
    this.#env.save(this.#storage, sentKey(this.me), this.#sent);
  }

  #sendRefused(room, entry, error) {
    if (room.membership === 'refused') {
      Object.assign(entry, { state: 'failed', error: error.message });
    } else if (this.connection.closing) {
      entry.state = 'queued';
    } else if (error.temporary && entry.refusals < REFUSALS_MAX) {
      Object.assign(entry, { state: 'queued', error: error.message, refusals: entry.refusals + 1 });
      this.#sendAgainLater(room);
    } else if (error.code === 'not_member' && !entry.enteredAgain && this.rooms.get(room.name) === room) {
      Object.assign(entry, { state: 'queued', enteredAgain: true });
      this.enterAgain(room);
    } else {
      Object.assign(entry, { state: 'failed', error: error.message });
    }
  }

  #sendAgainLater(room) {
    const now = this.#env.now();
    if (now < room.retryAt) return; // one refusal of several
    const wait = SEND_AGAIN_MS + backoffMs(room.refusals, this.#env.random());
    Object.assign(room, { refusals: room.refusals + 1, retryAt: now + wait });
    this.#env.later(wait, () => {
      this.#flush(room);
      this.#page.changed();
    });
  }

  #trim(room) {
    if (room.isInbox) trim(room, 'top', INBOX_MAX);
    else trim(room, this.#page.farSide(room.name));
  }

  #push(event) {
    if (event.type === 'error') {
      if ([...this.rooms.values()].some(({ membership, wasIn }) => membership === 'joining' && wasIn)) this.#joinTheRest();
      this.#page.told(event.message);
      return;
    }
    if (event.type === 'ok') {
      this.#resumed(event);
      this.#page.changed();
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
        if (room.isInbox) this.#directDeleted(room, event.seq);
        break;
      case 'receipt':
        received(room, event);
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
      case 'closed':
        this.#putOut(room, describePutOut(event));
        if (!room.isInbox) this.#page.told(`You are no longer in ${room.name}. ${room.why}`);
        this.#refreshRoomsSoon();
        break;
      default: // a later server's event
    }
  }

  #message(room, message) {
    const { placed, gap } = receive(room, message);
    settle(room, message, this.me, this.#env.now());
    room.typing.delete(message.sender);
    const news = placed && message.sender !== this.me && message.seq > room.quietUntil && !message.deleted;
    if (room.isInbox) this.#direct(message, news);
    else if (news && !this.#page.reading(room.name)) room.unread += 1;
    if (gap) this.#fillGaps(room);
    this.#trim(room);
    this.#flush(room);
  }

  /** A message of the inbox belongs to the conversation with its sender. */
  #direct(message, news) {
    if (message.sender === this.me) return;
    const room = this.#conversation(message.sender);
    addReceived(room, message);
    if (!news || this.#page.reading(room.name)) return;
    room.unread += 1;
    room.firstUnread = Math.min(room.firstUnread ?? message.seq, message.seq);
    if (room.unread === 1) {
      const seen = room.items.findLast(({ kind, sender, timestamp }) => kind === 'message' && sender === message.sender && timestamp < message.timestamp);
      room.seen = { gen: 0, seq: seen?.seq ?? 0 };
      if (room.name === this.current) room.divider = room.seen;
    }
  }

  /** Pages are read from the newest one backwards. */
  #pageOfInbox(room, messages, isNew) {
    const firstNew = messages.length - room.unreadBelow;
    room.unreadBelow = Math.max(0, room.unreadBelow - messages.length);
    for (const [at, message] of messages.entries()) {
      const isNews = isNew.has(message) && !message.deleted;
      this.#direct(message, isNews && (at >= firstNew || message.seq > room.quietUntil));
    }
  }

  #directDeleted(inbox, seq) {
    const item = inbox.items.find((other) => other.kind === 'message' && other.seq === seq);
    if (item) addReceived(this.#conversation(item.sender), item);
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

function sentKey(name) {
  return `hubbub.direct.${name}`;
}

function joinFields(room) {
  const since = sinceOf(room);
  if (room.isInbox) return since ? { since } : {};
  return { presence: true, ...(since ? { since } : { history: HISTORY_ON_JOIN }) };
}

function messageCommand(room, { content, key }) {
  if (room.peer !== null) return { type: 'direct', to: room.peer, content, key };
  return { type: 'message', room: room.name, content, key, receipt: true };
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
