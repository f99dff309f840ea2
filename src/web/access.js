// Access: what the page reads from tokens and from events that put it out of a room. Pure.
//
// A token is read to show whose it is and until when. Whether it is good is for the server to say, so nothing is checked here.

/** A token that ends this soon, in milliseconds, should be renewed now. */
export const EXPIRES_SOON_MS = 60_000;

/** Whose token it is and when it ends, in Unix ms, as `{user, expires}`; null when the text is no token. */
export function claimsOf(token) {
  const parts = token.split('.');
  if (parts.length !== 3) return null;
  try {
    const bytes = Uint8Array.from(atob(parts[1].replaceAll('-', '+').replaceAll('_', '/')), (char) => char.charCodeAt(0));
    const { sub, exp } = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof sub !== 'string' || sub === '') return null;
    return { user: sub, expires: typeof exp === 'number' ? exp * 1_000 : null };
  } catch {
    return null;
  }
}

/** The token that an address brings in its fragment, and the fragment that is left without it; null when there is none. */
export function tokenOfHash(hash) {
  const found = /^#token=([^&]*)(?:&(room=[^]*))?$/.exec(hash);
  return found && { token: found[1].trim(), rest: found[2] ? `#${found[2]}` : '' };
}

/** After a fresh token, or a changed rule: the server does not say which. */
export const MAY_NO_LONGER = 'You may no longer be in this room.';

/** Why one is no longer in a room, for people: of the events `kicked` and `closed`. */
export function describePutOut({ type, reason, by, until }) {
  if (type === 'closed') return 'A host closed this room.';
  const from = by ? ` by ${by}` : '';
  switch (reason) {
    case 'banned':
      return `You were banned${from}${until ? ` until ${describeTime(until)}` : ''}.`;
    case 'forbidden':
      return MAY_NO_LONGER;
    case 'consumer_replaced':
      return 'Another program of yours reads this room now.';
    default:
      return `You were put out${from}.`;
  }
}

/** The server's words with times as people write them: it says until when a ban or a mute lasts in Unix ms. */
export function withTimes(text) {
  return text.replace(/\buntil (\d{13}) \(Unix ms\)(, for \d+ s more)?/g, (_all, unixMs) => `until ${describeTime(Number(unixMs))}`);
}

function describeTime(unixMs) {
  return new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' }).format(unixMs);
}
