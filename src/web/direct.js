// Conversations: direct messages as rooms of the page, one for each person. Pure.
//
// What others say to us is in our inbox, the room `@` and our name. What we say is in theirs, which we may not read, so a
// conversation is put together from the inbox and from what this browser remembers to have sent, by time.

import { createRoom, place } from './timeline.js';

/** Messages sent to others that a browser remembers. */
export const SENT_MAX = 500;

/** The room of a user's direct messages. */
export function inboxOf(user) {
  return `@${user}`;
}

/** With whom the room of that name is a conversation, or null. */
export function peerOf(name) {
  return name.startsWith('@') && name.length > 1 ? name.slice(1) : null;
}

/** A conversation with what is known of it: `inbox` is a room, `sent` what was sent to anyone. */
export function createConversation(peer, me, inbox, sent) {
  const room = Object.assign(createRoom(inboxOf(peer)), { peer, membership: 'in', epochs: ['direct'], head: 0 });
  for (const item of inbox?.items ?? []) if (item.kind === 'message' && item.sender === peer) addReceived(room, item);
  addAllSent(room, me, sent);
  return room;
}

/** A message of the inbox. Says whether it was new. */
export function addReceived(room, message) {
  return place(room, { ...message, seq: placeByTime(message, 0) });
}

/** A message that the peer's inbox has. */
export function addSent(room, me, message) {
  const { content, key, timestamp, durable } = message;
  place(room, { sender: me, content, key, timestamp, seq: placeByTime(message, 500) });
  const item = room.keys.get(`${me}\n${key}`);
  if (item) item.durable = durable;
}

/** What of `sent` went to the peer; the rest is of other conversations. */
export function addAllSent(room, me, sent) {
  for (const message of sent) if (message.to === room.peer) addSent(room, me, message);
}

/** What `/msg name text` asks for, with quotes round a name of several words; null when it is something else. */
export function parseDirect(text) {
  if (!/^\/msg(\s|$)/.test(text)) return null;
  const found = /^\/msg\s+(?:"([^"]+)"|@?(\S+))\s+(\S[^]*)$/.exec(text);
  return found ? { to: (found[1] ?? found[2]).trim(), text: found[3] } : { to: '', text: '' };
}

/** A number that orders messages of two inboxes by time; those of one inbox keep their order. */
function placeByTime({ timestamp, seq }, offset) {
  return timestamp * 1_000 + offset + (seq % 500);
}
