// The page. Only this file, its dialogs and `elements.js` touch the document, and none ever writes markup: text from others
// reaches the page as text nodes.

import { EXPIRES_SOON_MS, MAY_NO_LONGER, claimsOf, tokenOfHash } from './access.js';
import { browserEnv, forget, holdName, isHere, remember, remembered } from './browser.js';
import { Chat, USERS_MAX } from './chat.js';
import { inboxOf, parseDirect } from './direct.js';
import { firstInSight, icon, isHost, isKnown, keepFocus, make, moveFocus, newRow, openRow, paintAvatar, roomRow, sentence, setTabStop, startOfDay } from './elements.js';
import { Entrance } from './entrance.js';
import { Moderation } from './moderation.js';
import { count, describeContent, describeTyping, hashOfRoom, hueOf, roomOfHash, splitLinks, utf8Length } from './text.js';
import { createRoom, rowsOf, tailOf } from './timeline.js';

const ROOMS_EVERY_MS = 10_000;
/** This close to the end of the log, in pixels, the reader is at the end. */
const NEAR_END = 48;
/** This close to either end, more is read. */
const NEAR_EDGE = 400;
/** Longer text is shown in part until asked for. */
const TEXT_SHOWN_MAX = 3_000;
const DEFAULT_ROOM = 'lobby';

export class View {
  #chat;
  #entrance;
  #moderation;
  #token = null; // what proves who one is; null where names are enough
  #expiryTold = null; // the end of which token was announced
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
      refused: (text) => this.#refused(text),
      reading: (name) => this.#isReading(name),
      farSide: (name) => (name === this.#chat.current && this.#upperHalf ? 'bottom' : 'top'),
    });
    this.#listenToRooms();
    this.#listenToLog();
    this.#listenToComposer();
    this.#listenToDrawers();
    this.#entrance = new Entrance({ enter: (who) => this.#introduced(who), signOut: () => this.#signOut() });
    this.#moderation = new Moderation(this.#chat, { told: (text) => this.#toast(text), closed: (user) => this.#focusPerson(user) });
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

  #begin() {
    this.#$('rename').addEventListener('click', () => this.#askWho({}));
    if (!this.#takeToken()) this.#goOn();
  }

  /** Whom this browser knows: who came to this tab with a `token` or without, and the `name` last used in any. */
  #known() {
    const tab = remembered('sessionStorage', 'hubbub.tab');
    const token = remembered('sessionStorage', 'hubbub.token');
    const claims = typeof token === 'string' ? claimsOf(token) : null;
    const name = remembered('localStorage', 'hubbub.name');
    return { tab, token, claims, name, user: claims?.user ?? tab?.name ?? name ?? '' };
  }

  /** A tab goes on as whom it was; a new one as the person last here, unless that one is here already. */
  async #goOn() {
    const { tab, token, claims, name } = this.#known();
    if (claims) {
      this.#enter(claims.user, { token, rooms: tab?.name === claims.user ? tab.rooms : [] });
    } else if (tab) {
      this.#enter(tab.name, { rooms: tab.rooms });
    } else if (name && !(await isHere(name))) {
      this.#enter(name);
    } else {
      this.#askWho({ taken: Boolean(name) });
    }
  }

  #enter(name, { token = null, rooms = [], current = roomOfHash(location.hash) || rooms[0] || DEFAULT_ROOM } = {}) {
    this.#keepToken(token);
    if (token === null) {
      remember('localStorage', 'hubbub.name', name);
      holdName(name);
    }
    for (const room of rooms) this.#chat.open(room);
    this.#chat.open(current);
    const unsent = remembered('sessionStorage', 'hubbub.unsent');
    this.#chat.start(name, unsent?.name === name ? unsent.rooms : {}, token);
    this.#$('composer-input').focus();
  }

  /** Only the tab remembers a token. */
  #keepToken(token) {
    this.#token = token;
    if (token === null) forget('sessionStorage', 'hubbub.token');
    else remember('sessionStorage', 'hubbub.token', token);
  }

  /**
   * Takes up the token that the address brings, and takes it out of the address. Says whether there was one. Anyone can make such
   * a link, so whoever is here as someone else is asked first.
   */
  #takeToken() {
    const found = tokenOfHash(location.hash);
    if (!found) return false;
    history.replaceState(null, '', `${location.pathname}${location.search}${found.rest}`);
    const { token } = found;
    const claims = claimsOf(token);
    const { me } = this.#chat;
    const known = me || this.#known().user;
    const goOn = me === '' ? () => this.#goOn() : null;
    if (!claims) this.#askWho({ error: 'The token of this link is damaged.', byToken: true });
    else if (known !== '' && known !== claims.user) this.#askWho({ token, byToken: true, lead: `This link makes you ${claims.user}.`, goOn });
    else this.#introduced({ name: null, token, room: roomOfHash(location.hash) });
    return true;
  }

  /** Asks who is there. Once that is known, or where one can `goOn` without an answer, it can be cancelled. */
  #askWho({ error = '', taken = false, byToken = this.#token !== null, token = '', lead = null, goOn = null }) {
    const { me } = this.#chat;
    const here = me !== '' && !error;
    const leads = here
      ? byToken ? `You are ${me}. A fresh token lets you stay; that of someone else makes you enter your rooms anew.` : 'Under another name you enter your rooms anew.'
      : taken
        ? 'You are here in another tab. Under a second name you can talk to yourself.'
        : byToken ? 'Show your token and start talking.' : 'Pick a name and start talking.';
    this.#entrance.ask({
      lead: lead ?? leads,
      error,
      byToken,
      name: (this.#token === null && me) || remembered('localStorage', 'hubbub.name') || '',
      token,
      room: me === '' ? roomOfHash(location.hash) || DEFAULT_ROOM : null,
      cancellable: here || goOn !== null,
      cancelled: goOn,
      signsOut: this.#token !== null && me !== '',
    });
  }

  /** Someone has said who they are: a name, or a token. */
  #introduced({ name, token, room }) {
    const { me, current, connection } = this.#chat;
    const user = token === null ? name : claimsOf(token).user;
    if (token !== null && this.#token !== null && user === me) {
      this.#renew(token);
      return;
    }
    this.#entrance.close();
    const same = user === me && (token !== null) === (this.#token !== null);
    if (same && connection.phase === 'online') return;
    this.#enter(user, { token, current: (me === '' ? room : current ?? room) || DEFAULT_ROOM });
  }

  #renew(token) {
    if (this.#chat.connection.ready) {
      this.#chat.renew(token, (error) => {
        if (error === '') {
          this.#keepToken(token);
          this.#entrance.close();
          this.#toast('Your fresh token is in use.');
        } else if (this.#entrance.isOpen) {
          this.#entrance.refuse(sentence(error));
        } else {
          this.#askWho({ byToken: true });
          this.#entrance.refuse(sentence(error));
        }
      });
      return;
    }
    this.#keepToken(token);
    this.#entrance.close();
    this.#chat.renew(token, () => {});
  }

  /** The server does not take this name or this token. */
  #refused(text) {
    const { needsToken, barred } = this.#chat.connection;
    if (barred && this.#token !== null) return; // the banner says it: the token may be good again later
    if (needsToken) forget('sessionStorage', 'hubbub.token');
    this.#askWho({ error: sentence(text), byToken: needsToken });
  }

  #signOut() {
    this.#keepToken(null);
    forget('sessionStorage', 'hubbub.tab');
    forget('sessionStorage', 'hubbub.unsent');
    this.#chat.signOut();
    this.#shown.clear();
    this.#askWho({ byToken: true });
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
    addEventListener('pagehide', () => this.#rememberUnsent());
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
    if (this.#takeToken()) return;
    const name = roomOfHash(location.hash);
    if (this.#chat.me !== '' && name !== '' && name !== this.#chat.current) this.#chat.open(name);
  }

  #everySecond() {
    const { phase, expires } = this.#chat.connection;
    const ends = this.#endsSoon();
    if (phase === 'waiting' || ends) this.#drawBanner();
    if (!ends || this.#expiryTold === expires) return;
    this.#expiryTold = expires;
    this.#$('announcer').textContent = 'Your token ends within a minute.';
  }

  /** Whether the token of the connection should be renewed now. */
  #endsSoon() {
    const { ready, expires } = this.#chat.connection;
    return ready && expires !== null && expires - Date.now() < EXPIRES_SOON_MS;
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
    this.#rememberUnsent();
    const entered = [...rooms.values()].filter(({ membership, isInbox }) => membership !== 'refused' && !isInbox).map(({ name }) => name);
    if (me === '' || !this.#isStale('memory', [me, entered, current])) return;
    remember('sessionStorage', 'hubbub.tab', { name: me, rooms: entered });
    const address = current === null ? location.pathname : hashOfRoom(current);
    const named = roomOfHash(location.hash);
    if (current === null || location.hash !== address) {
      history[named !== current && rooms.has(named) ? 'pushState' : 'replaceState'](null, '', address);
    }
  }

  /** What is not with the server yet outlives the page, as long as the tab does. */
  #rememberUnsent() {
    const { me } = this.#chat;
    if (me === '') return;
    const unsent = { name: me, rooms: this.#chat.unsent() };
    if (this.#isStale('unsent', unsent)) remember('sessionStorage', 'hubbub.unsent', unsent);
  }

  #drawPhase() {
    const { phase, text } = this.#chat.connection;
    const names = { idle: '', connecting: 'Connecting…', online: 'Online', waiting: 'Reconnecting…', stopped: 'Disconnected' };
    const { me, displayName } = this.#chat;
    if (!this.#isStale('phase', [phase, text, me, displayName, this.#token !== null])) return;
    this.#$('app').dataset.phase = phase;
    this.#$('self-state').textContent = [displayName === me ? '' : me, names[phase]].filter(Boolean).join(' · ');
    this.#$('self-name').textContent = displayName;
    paintAvatar(this.#$('self-avatar'), me);
    const rename = this.#token === null ? 'Change your name' : 'Your token';
    this.#$('rename').setAttribute('aria-label', rename);
    this.#$('rename').title = rename;
    const steady = phase === 'connecting' ? this.#phase : phase; // one attempt more is no news
    if (steady === this.#phase) return;
    const told = { online: 'Connected.', waiting: 'Connection lost. Reconnecting.', stopped: `Disconnected. ${sentence(text)}` }[steady];
    if (told) this.#$('announcer').textContent = told;
    this.#phase = steady;
  }

  #drawBanner() {
    const { text, action, other } = this.#bannerNow();
    this.#$('banner').hidden = text === '';
    if (text === '' || !this.#isStale('banner', [text, action?.label, other?.label])) return;
    this.#$('banner-text').textContent = text;
    for (const [id, offer] of Object.entries({ 'banner-action': action, 'banner-other': other })) {
      this.#$(id).hidden = !offer;
      this.#$(id).textContent = offer?.label ?? '';
      this.#$(id).onclick = () => offer?.run();
    }
  }

  /** What stands between the reader and the room just now. */
  #bannerNow() {
    const { connection } = this.#chat;
    const room = this.#room;
    const retry = () => connection.retryNow();
    if (connection.phase === 'connecting') return { text: this.#phase === '' ? 'Connecting…' : 'Reconnecting…' };
    const freshToken = { label: 'Use a fresh token', run: () => this.#askWho({ byToken: true, lead: 'Paste a fresh token to go on where you were.' }) };
    if (connection.phase === 'stopped') {
      const text = sentence(connection.text);
      if (connection.barred) return { text, action: { label: 'Try again', run: retry }, other: this.#token === null ? null : freshToken };
      if (connection.needsToken && this.#token !== null) return { text, action: freshToken };
      return { text, action: { label: 'Connect again', run: retry } };
    }
    if (connection.phase === 'waiting') {
      const seconds = Math.max(1, Math.ceil((connection.retryAt - Date.now()) / 1_000));
      const why = navigator.onLine ? connection.text : 'This device is offline.';
      return { text: `${why} Reconnecting in ${seconds} s.`, action: { label: 'Retry now', run: retry } };
    }
    if (connection.closing) return { text: connection.text };
    if (this.#endsSoon()) {
      const seconds = Math.max(0, Math.ceil((connection.expires - Date.now()) / 1_000));
      return { text: `Your token ends in ${seconds} s.`, action: freshToken };
    }
    if (room?.membership === 'refused') {
      const text = room.why === MAY_NO_LONGER ? room.why : `You are not in this room. ${sentence(room.why)}`;
      return { text, action: { label: 'Try again', run: () => this.#chat.enterAgain(room) } };
    }
    if (room?.membership === 'joining' && room.why) return { text: `Waiting to enter. ${sentence(room.why)}` };
    return { text: '' };
  }

  #drawHead() {
    const room = this.#room;
    const elsewhere = [...this.#chat.rooms.values()].some((other) => other !== room && other.unread > 0);
    const entering = room?.membership === 'joining' && this.#chat.connection.ready;
    const known = isKnown(room);
    if (!this.#isStale('head', [room?.name, room?.members, room?.role, room?.membership, entering, known, elsewhere])) return;
    const { peer = null } = room ?? {};
    this.#$('title').textContent = room ? (peer ?? room.name) : 'hubbub';
    this.#$('title').classList.toggle('room-name', Boolean(room) && peer === null);
    const parts = [];
    if (known) parts.push(count(room.members, 'person', 'people'));
    if (known && room.role !== 'member') parts.push(room.role === 'host' ? 'you are the host' : 'you may read along');
    if (entering && !known) parts.push('Entering…');
    if (peer !== null) parts.push('Between the two of you');
    this.#$('subtitle').textContent = parts.join(' · ');
    this.#fitDrawers();
    this.#$('leave').hidden = !room;
    this.#$('close-room').hidden = !isHost(room);
    for (const id of ['copy-link', 'open-people']) this.#$(id).hidden = !room || peer !== null;
    const leave = peer === null ? 'Leave this room' : 'Close this conversation';
    this.#$('leave').setAttribute('aria-label', leave);
    this.#$('leave').title = leave;
    this.#$('people-badge').textContent = known ? String(room.members) : '';
    this.#$('open-people').setAttribute('aria-label', known ? `People: ${room.members}` : 'People');
    this.#$('elsewhere').hidden = !elsewhere;
    this.#$('open-rooms').setAttribute('aria-label', elsewhere ? 'Rooms, with new messages' : 'Rooms');
  }

  #drawTitle() {
    const unread = [...this.#chat.rooms.values()].reduce((sum, room) => sum + room.unread, 0);
    const title = `${unread > 0 ? `(${unread}) ` : ''}${this.#chat.current ? `${this.#room?.peer ?? this.#chat.current} · ` : ''}hubbub`;
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
    this.#$('people-list').addEventListener('click', (event) => {
      const { peer, moderate } = event.target.closest('button')?.dataset ?? {};
      if (peer !== undefined) this.#openFromList(inboxOf(peer));
      if (moderate !== undefined) this.#moderation.ask(this.#room, moderate);
    });
    this.#$('close-room').addEventListener('click', () => this.#confirmClose(this.#room));
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
    const all = [...rooms.values()].filter(({ isInbox }) => !isInbox);
    const entries = all.filter(({ name }) => fits(name)).map((room) => {
      const members = room.membership === 'in' ? room.members : (counts.get(room.name) ?? 0);
      return { name: room.name, peer: room.peer, members, unread: room.unread, current: room.name === current, out: room.membership === 'refused' };
    });
    const mine = entries.filter(({ peer }) => peer === null);
    const direct = entries.filter(({ peer }) => peer !== null);
    const open = directory.rooms.filter(({ room }) => !rooms.has(room) && fits(room));
    const isNew = wanted !== '' && !rooms.has(wanted) && !counts.has(wanted);
    const canSwitch = this.#room?.membership === 'in' && this.#room.peer === null;
    if (!this.#isStale('rooms', [mine, direct, open, isNew && wanted, directory.next, directory.known, current, canSwitch, wanted === ''])) return;
    keepFocus(this.#$('room-lists'), () => {
      this.#$('joined-list').replaceChildren(...mine.map((room) => roomRow(room)));
      this.#$('direct-list').replaceChildren(...direct.map((room) => roomRow(room)));
      const rows = open.map(({ room, members }) => openRow(room, members, canSwitch ? current : null));
      this.#$('open-list').replaceChildren(...(isNew ? [newRow(wanted)] : []), ...rows);
    });
    this.#$('joined-empty').hidden = all.some(({ peer }) => peer === null);
    this.#$('joined').hidden = mine.length === 0 && wanted !== '';
    this.#$('direct').hidden = direct.length === 0;
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
    const host = isHost(room);
    if (!this.#isStale('people', [names, room?.members, large, known, me, host])) return;
    names.sort((a, b) => (b === me) - (a === me) || a.localeCompare(b));
    this.#$('people-title').textContent = known ? count(room.members, 'person', 'people') : 'People';
    this.#$('people-list').replaceChildren(...names.map((name) => {
      const avatar = make('span', { class: 'avatar', 'aria-hidden': 'true' });
      paintAvatar(avatar, name);
      const person = make('bdi', { class: 'person' }, name);
      if (name === me) return make('li', {}, avatar, person, make('span', { class: 'you' }, 'you'));
      const write = make('button', { class: 'write', type: 'button', 'data-peer': name, title: `Write to ${name}` }, avatar, person, make('span', { class: 'unseen' }, ': write a direct message'));
      const label = `Kick, ban or mute ${name}`;
      return make('li', {}, write, ...(host ? [make('button', { class: 'icon moderate', type: 'button', 'data-moderate': name, 'aria-label': label, title: label }, icon('more'))] : []));
    }));
    this.#$('people-hint').hidden = !large;
    this.#$('people-hint').textContent = large ? 'Too many to list; large rooms show how many people are there.' : '';
  }

  #focusPerson(user) {
    const button = [...this.#$('people-list').querySelectorAll('[data-moderate]')].find(({ dataset }) => dataset.moderate === user);
    (button ?? this.#$('open-people')).focus();
  }

  #confirmClose(room) {
    this.#confirm({
      title: `Close ${room.name} for everyone?`,
      quote: 'Everybody is put out. What was said stays, and the room can be entered again.',
      keep: 'Keep it open',
      label: 'Close the room',
      run: () => this.#chat.moderate(room, { action: 'close' }, (error) => error && this.#toast(`${room.name} is not closed: ${error}`)),
      after: () => this.#$('close-room').focus(),
    });
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
      if (row.type === 'message' && row.mine) this.#drawKept(node, row.last ? this.#keptNote(row.item) : '');
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
        return [entry.state, entry.error, entry.sentAt > 0, row.first, this.#chat.connection.ready, this.#expanded.has(row.id)];
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

  /** Drawn into the message that is there, so that it is not read out once more. */
  #drawKept(node, text) {
    const note = node.querySelector('.kept');
    if (text === '') note?.remove();
    else if (!note) node.querySelector('.said').append(make('p', { class: 'note kept', 'aria-live': 'off' }, text));
    else if (note.textContent !== text) note.textContent = text;
  }

  /** What became of our last message, as far as it is known. */
  #keptNote({ durable, reached, deleted }) {
    if (durable === undefined || deleted) return '';
    const kept = durable ? 'Stored' : 'Sent';
    return reached?.members > 0 ? `${kept} · reached ${reached.delivered} of ${reached.members}` : kept;
  }

  #outgoingNote(entry) {
    const later = entry.error === '' ? 'Waiting to be sent' : `Not sent yet: ${entry.error}`;
    const notes = { queued: later, unknown: 'Waiting to be sent', sent: 'Sending…', failed: `Not sent. ${sentence(entry.error)}` };
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
    const current = item.gen === room.epochs.length - 1 && room.peer === null;
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
    const { text, code } = describeContent(row.item.content);
    this.#confirm({
      title: 'Delete this message for everyone?',
      quote: (text ?? code).slice(0, 300),
      keep: 'Keep it',
      label: 'Delete',
      run: () => this.#chat.delete(room, row.item.seq),
      after: () => this.#entries.get(row.id)?.node.focus(),
    });
  }

  /** Asks before something is done that cannot be undone. */
  #confirm({ title, quote, keep, label, run, after }) {
    const dialog = this.#$('confirm');
    this.#$('confirm-title').textContent = title;
    this.#$('confirm-quote').textContent = quote;
    this.#$('confirm-keep').textContent = keep;
    this.#$('confirm-do').textContent = label;
    dialog.returnValue = 'cancel';
    dialog.onclose = () => {
      if (dialog.returnValue === 'do') run();
      after();
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
    if (room && this.#chat.sourceOf(room)?.loadingOlder) text = 'Loading earlier messages…';
    else if (room && room.peer !== null) text = first && this.#chat.sourceOf(room)?.topReached ? `The beginning of your messages with ${room.peer}.` : '';
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
    const [title, text, action] = room && room.peer !== null
      ? [`You and ${room.peer}`, 'Nobody else can read what you write here.', '']
      : !room
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
    const direct = parseDirect(text);
    if (direct?.to === '' || direct?.to === this.#chat.me) {
      this.#toast(direct.to === '' ? 'Write it like this: /msg name text' : 'That is you.');
      return;
    }
    room.draft = '';
    room.divider = null;
    this.#following = true;
    this.#upperHalf = false;
    if (direct) this.#chat.open(inboxOf(direct.to));
    this.#chat.send(direct ? this.#room : room, direct ? direct.text : text);
  }

  /** Whether one may write here, and what the field says when it is empty. */
  #composerState(room) {
    if (!room) return { blocked: true, placeholder: 'Open a room to write' };
    if (room.membership === 'refused') return { blocked: true, placeholder: 'You are not in this room' };
    if (room.role === 'guest') return { blocked: true, placeholder: 'You may read here' };
    return { blocked: false, placeholder: `Write to ${room.peer ?? room.name}` };
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
    this.#$('composer-label').textContent = room ? `Message to ${room.peer ?? room.name}` : 'Message';
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
    const hidden = this.#peopleHidden || Boolean(this.#room?.peer); // of a conversation everyone knows who is in it
    this.#$('app').dataset.drawer = open ?? '';
    this.#$('app').dataset.people = hidden ? 'hidden' : 'shown';
    this.#$('scrim').hidden = !open;
    this.#$('talk').inert = open !== null;
    this.#$('rooms').inert = open === 'people' || (this.#narrow.matches && open !== 'rooms');
    this.#$('people').inert = open === 'rooms' || (this.#medium.matches ? open !== 'people' : hidden);
    this.#$('open-rooms').setAttribute('aria-expanded', String(open === 'rooms'));
    this.#$('open-people').setAttribute('aria-expanded', String(this.#medium.matches ? open === 'people' : !this.#peopleHidden));
  }

  #toast(text) {
    const node = make('p', { class: 'toast' }, sentence(text));
    this.#$('toasts').append(node);
    setTimeout(() => node.remove(), 6_000);
  }
}
