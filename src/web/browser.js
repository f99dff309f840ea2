// What the browser lends to the client: sockets, time, chance, storage and locks.

export function browserEnv() {
  return {
    open: (url) => new WebSocket(url, 'hubbub.v1.json'),
    now: () => Date.now(),
    random: () => Math.random(),
    later: (ms, run) => setTimeout(run, ms),
    cancel: (handle) => clearTimeout(handle),
    uuid: randomUuid,
    load: remembered,
    save: remember,
    forget,
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
export function remember(storage, key, value) {
  try {
    window[storage].setItem(key, JSON.stringify(value));
  } catch {
    // As said.
  }
}

export function remembered(storage, key) {
  try {
    return JSON.parse(window[storage].getItem(key));
  } catch {
    return null;
  }
}

export function forget(storage, key) {
  try {
    window[storage].removeItem(key);
  } catch {
    // As said.
  }
}

/** Whether another tab of this browser is here under `name`. Only told on https and on this machine itself. */
export async function isHere(name) {
  const { held = [] } = (await navigator.locks?.query()) ?? {};
  return held.some((lock) => lock.name === `hubbub:${name}`);
}

export function holdName(name) {
  navigator.locks?.request(`hubbub:${name}`, { mode: 'shared' }, () => new Promise(() => {}));
}
