// The dialog that asks who is there: by a name or by a token. It never writes markup.

import { claimsOf } from './access.js';
import { utf8Length } from './text.js';

/** Longer tokens are refused by every server. */
const TOKEN_MAX = 8_192;

export class Entrance {
  #nodes = new Map(); // id → element of the dialog
  #byToken = false;
  #cancelled = null; // what follows when the dialog is left without an answer
  #page;

  /** `page`: {enter({name, token, room}), signOut()}; of name and token one is null. */
  constructor(page) {
    this.#page = page;
    const dialog = document.getElementById('entrance');
    this.#nodes.set('entrance', dialog);
    for (const node of dialog.querySelectorAll('[id]')) this.#nodes.set(node.id, node);
    dialog.addEventListener('cancel', (event) => {
      if (this.#$('entrance-cancel').hidden) event.preventDefault();
    });
    dialog.addEventListener('close', () => {
      this.#$('token-input').value = '';
      const cancelled = this.#cancelled;
      this.#cancelled = null;
      cancelled?.();
    });
    this.#$('entrance-cancel').addEventListener('click', () => dialog.close());
    this.#$('entrance-other').addEventListener('click', () => {
      this.#say('');
      this.#askBy(!this.#byToken);
    });
    this.#$('entrance-out').addEventListener('click', () => page.signOut());
    this.#$('entrance-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  #$(id) {
    return this.#nodes.get(id);
  }

  get isOpen() {
    return this.#$('entrance').open;
  }

  /**
   * Opens the dialog: with a `lead`, an `error` to tell, fields that hold `name`, `token` and `room`, one of them first. `room`
   * null asks for none; `cancellable` and `signsOut` offer these ways out, and `cancelled` is called when the first is taken.
   */
  ask({ lead, error = '', byToken = false, name = '', token = '', room = null, cancellable = false, cancelled = null, signsOut = false }) {
    this.#$('entrance-lead').textContent = lead;
    this.#$('name-input').value = name;
    this.#$('token-input').value = token;
    this.#$('room-input').value = room ?? '';
    this.#$('entrance-room').hidden = room === null;
    this.#$('entrance-cancel').hidden = !cancellable;
    this.#$('entrance-out').hidden = !signsOut;
    this.#cancelled = cancelled;
    if (!this.isOpen) this.#$('entrance').showModal();
    this.#askBy(byToken);
    this.#say(error);
  }

  /** The token was refused. */
  refuse(error) {
    this.#say(error);
    this.#$('token-input').focus();
  }

  close() {
    this.#cancelled = null;
    this.#$('entrance').close();
  }

  #askBy(byToken) {
    this.#byToken = byToken;
    this.#$('entrance-name').hidden = byToken;
    this.#$('entrance-token').hidden = !byToken;
    this.#$('entrance-other').textContent = byToken ? 'Use a name' : 'Use a token';
    const field = this.#$(byToken ? 'token-input' : 'name-input');
    field.focus();
    field.select();
  }

  #say(error) {
    this.#$('entrance-error').textContent = error;
  }

  #submit() {
    const name = this.#$('name-input').value.trim();
    const token = this.#$('token-input').value.trim();
    const problem = this.#byToken ? problemOfToken(token) : problemOfName(name);
    if (problem) {
      this.#say(problem);
      this.#$(this.#byToken ? 'token-input' : 'name-input').focus();
      return;
    }
    this.#say('');
    const room = this.#$('room-input').value.trim();
    this.#page.enter(this.#byToken ? { name: null, token, room } : { name, token: null, room });
  }
}

function problemOfName(name) {
  if (name === '') return 'A name is needed, so that others know who is talking.';
  return utf8Length(name) > 64 ? 'That name is too long.' : '';
}

function problemOfToken(token) {
  if (token === '') return 'Paste the token that you were given.';
  return token.length > TOKEN_MAX || !claimsOf(token) ? 'This is no token. Paste all of it: three parts with dots between them.' : '';
}
