// Text: names, sizes and links of what people write. Pure.

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

/** The room that an address names in its fragment, as `#ROOM` or as `#room=ROOM`, or ''. */
export function roomOfHash(hash) {
  try {
    return decodeURIComponent(hash.replace(/^#(room=)?/, '')).trim();
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
