// Pieces of the page: elements, rows of lists, and where the focus goes.

import { withTimes } from './access.js';
import { hueOf, initials } from './text.js';
import { epochOf } from './timeline.js';

const ICONS = { delete: '#i-trash', more: '#i-more', swap: '#i-swap' };

/** Whether there is something to tell of a room's people; while reconnecting, what was so before. */
export function isKnown(room) {
  return room !== null && room.peer === null && epochOf(room) !== null && room.membership !== 'refused';
}

/** Whether one may moderate a room. */
export function isHost(room) {
  return room !== null && room.peer === null && room.membership === 'in' && room.role === 'host';
}

export function roomRow({ name, peer, members, unread, current, out }) {
  const button = make('button', { class: 'room', type: 'button', 'data-room': name, 'data-act': 'open' });
  if (current) button.setAttribute('aria-current', 'page');
  button.classList.toggle('out', out);
  button.classList.toggle('loud', unread > 0);
  button.classList.toggle('direct', peer !== null);
  button.append(make('bdi', { class: 'room-name' }, peer ?? name));
  if (unread > 0) {
    button.append(make('span', { class: 'badge' }, unread > 99 ? '99+' : String(unread), make('span', { class: 'unseen' }, unread === 1 ? ' new message' : ' new messages')));
  } else if (peer === null) {
    button.append(membersOf(members));
  }
  return make('li', {}, button);
}

export function openRow(name, members, current) {
  const button = make('button', { class: 'room', type: 'button', 'data-room': name, 'data-act': 'open' });
  button.append(make('bdi', { class: 'room-name' }, name), membersOf(members));
  const row = make('li', {}, button);
  if (current) {
    const label = `Leave ${current} and enter ${name}`;
    row.append(make('button', { class: 'icon act', type: 'button', 'data-room': name, 'data-act': 'switch', 'aria-label': label, title: label }, icon('swap')));
  }
  return row;
}

export function newRow(name) {
  const button = make('button', { class: 'room fresh', type: 'button', 'data-room': name, 'data-act': 'open' });
  button.append(make('span', { class: 'start' }, 'Start'), make('bdi', { class: 'room-name' }, name), make('kbd', {}, '↵'));
  return make('li', {}, button);
}

function membersOf(members) {
  if (members === 0) return '';
  return make('span', { class: 'members' }, members.toLocaleString('en'), make('span', { class: 'unseen' }, members === 1 ? ' person' : ' people'));
}

export function paintAvatar(node, name) {
  node.textContent = name ? initials(name) : '';
  node.dataset.hue = hueOf(name);
}

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', ICONS[name]);
  svg.append(use);
  return svg;
}

/** An element with attributes and children; strings become text. */
export function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** The server's words as a sentence of the page, without marks of code. */
export function sentence(text) {
  const trimmed = withTimes(text.replaceAll('`', '').trim());
  if (trimmed === '') return '';
  return trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? '' : '.');
}

export function startOfDay(date) {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
}

/** Up, Down, Home and End move the focus among the elements that match. */
export function moveFocus(event, container, selector, entry = 'first') {
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
export function setTabStop(log, message) {
  for (const node of log.querySelectorAll('.act[tabindex="0"]')) node.setAttribute('tabindex', '-1');
  for (const node of message?.querySelectorAll('.act') ?? []) node.setAttribute('tabindex', '0');
}

/** Draws a list of buttons anew without losing the one that has the focus. */
export function keepFocus(container, draw) {
  const { room, act } = container.contains(document.activeElement) ? document.activeElement.dataset : {};
  draw();
  if (room === undefined) return;
  const again = [...container.querySelectorAll('button')].find((node) => node.dataset.room === room && node.dataset.act === act);
  again?.focus();
}

/** The first entry that is at least partly in sight, and where. */
export function firstInSight(log, entries) {
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
