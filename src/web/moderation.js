// The dialog with which hosts put people out of a room or silence them. It never writes markup.

import { make, sentence } from './elements.js';

export class Moderation {
  #nodes = new Map(); // id → element of the dialog
  #chat;
  #room = null;
  #user = '';
  #done;

  /** `page`: {told(text), closed(user)}, the latter when the dialog is gone and the focus needs a place. */
  constructor(chat, page) {
    this.#chat = chat;
    this.#done = page.told;
    const dialog = document.getElementById('moderation');
    this.#nodes.set('moderation', dialog);
    for (const node of dialog.querySelectorAll('[id]')) this.#nodes.set(node.id, node);
    for (const [value, { label, does }] of Object.entries(ACTIONS)) {
      const radio = make('input', { type: 'radio', name: 'action', value });
      radio.addEventListener('change', () => this.#fit());
      this.#$('moderation-actions').append(make('label', { class: 'choice' }, radio, make('span', {}, make('strong', {}, label), ` ${does}`)));
    }
    this.#$('moderation-time').append(...TIMES.map(([forMs, label]) => make('option', { value: forMs }, label)));
    this.#$('moderation-cancel').addEventListener('click', () => dialog.close());
    dialog.addEventListener('close', () => page.closed(this.#user));
    this.#$('moderation-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  #$(id) {
    return this.#nodes.get(id);
  }

  /** Asks what to do with a user of a room, and does it. */
  ask(room, user) {
    this.#room = room;
    this.#user = user;
    this.#$('moderation-user').textContent = user;
    this.#$('moderation-room').textContent = room.name;
    this.#$('moderation-error').textContent = '';
    this.#$('moderation-time').value = TIMES[1][0];
    this.#$('moderation-form').elements.action.value = 'kick';
    this.#fit();
    this.#$('moderation').showModal();
    this.#$('moderation-form').elements.action[0].focus();
  }

  #fit() {
    const { label, lasts } = ACTIONS[this.#$('moderation-form').elements.action.value];
    this.#$('moderation-for').hidden = !lasts;
    this.#$('moderation-do').textContent = label;
    this.#$('moderation-do').disabled = false;
  }

  #submit() {
    const user = this.#user;
    const room = this.#room;
    const action = this.#$('moderation-form').elements.action.value;
    const { lasts, done } = ACTIONS[action];
    const [forMs, time] = TIMES.find(([ms]) => ms === this.#$('moderation-time').value);
    this.#$('moderation-do').disabled = true; // until it is answered
    this.#chat.moderate(room, { action, user, forMs: lasts ? Number(forMs) : 0 }, (error) => {
      this.#$('moderation-do').disabled = false;
      if (error === '') {
        this.#$('moderation').close();
        this.#done(`${done} ${user}${lasts ? ` ${time}` : ''}.`);
      } else if (this.#$('moderation').open) {
        this.#$('moderation-error').textContent = sentence(error);
      } else {
        this.#done(`${ACTIONS[action].label} of ${user} in ${room.name}: ${error}`);
      }
    });
  }
}

const ACTIONS = {
  kick: { label: 'Kick', does: 'puts them out. They may come back at once.', lasts: false, done: 'Kicked' },
  ban: { label: 'Ban', does: 'puts them out and keeps them out.', lasts: true, done: 'Banned' },
  mute: { label: 'Mute', does: 'lets them read, but not write.', lasts: true, done: 'Muted' },
  unmute: { label: 'Unmute', does: 'lets them write again.', lasts: false, done: 'Unmuted' },
};

/** Milliseconds, 0 for no end, and how they are told. The second is offered first. */
const TIMES = [
  ['600000', 'for 10 minutes'],
  ['3600000', 'for 1 hour'],
  ['86400000', 'for 1 day'],
  ['604800000', 'for 1 week'],
  ['0', 'for ever'],
];
