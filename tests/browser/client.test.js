// The client without a page: what it shows of a room, when it reconnects, and what it sends.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { FakeEnv, chatOnline, client, enterLobby, message, messages, shown, welcome } from './fake.js';

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => `m${from + at}`);

/** A chat that is in the lobby, whose log is at `seq`, and was sent the messages from `first` on. */
function lobbyAt(seq, first = 1) {
  const setup = chatOnline();
  setup.chat.open('lobby');
  enterLobby(setup.env.socket, { seq });
  setup.room = setup.chat.rooms.get('lobby');
  for (const one of messages(first, seq)) setup.env.socket.push(one);
  return setup;
}

/** Lets time pass until the client dials; says how long that was. */
function waitForDial(env) {
  const { time, sockets: { length } } = env;
  while (env.sockets.length === length) env.pass(100);
  return env.time - time;
}

/** Loses the connection and has a new one welcomed. */
function reconnect(env, code) {
  env.socket.drop(code);
  waitForDial(env);
  welcome(env.socket);
  return env.socket;
}

describe('text', () => {
  test('only http and https become links, without the punctuation of the sentence', () => {
    const hrefs = (text) => client.splitLinks(text).filter((part) => part.href).map((part) => part.href);
    assert.deepEqual(hrefs('see https://a.example/x?y=1#z, or http://b.example.'), ['https://a.example/x?y=1#z', 'http://b.example']);
    assert.deepEqual(hrefs('(https://a.example/wiki/A_(b))'), ['https://a.example/wiki/A_(b)']);
    assert.deepEqual(hrefs(`(see [https://a.example/x]).${')'.repeat(60_000)}`), ['https://a.example/x']);
    assert.deepEqual(hrefs(`https://a.example/${')'.repeat(60_000)}`), ['https://a.example/']);
    assert.deepEqual(hrefs('javascript:alert(1) data:text/html,x ftp://a.example file:///etc/passwd'), []);
    assert.deepEqual(hrefs('<a href="https://a.example">'), ['https://a.example']);
    const text = 'before https://a.example/ü after https://';
    assert.equal(client.splitLinks(text).map((part) => part.text).join(''), text);
    assert.deepEqual(client.splitLinks(''), []);
  });

  test('sizes are counted in UTF-8', () => {
    assert.equal(client.utf8Length('aé€😀'), 1 + 2 + 3 + 4);
  });

  test('every name has initials and one of eight colours', () => {
    assert.equal(client.initials('Mara Lind'), 'ML');
    assert.equal(client.initials('li.wei'), 'LW');
    assert.equal(client.initials('😀'), '😀');
    assert.equal(client.initials('-'), '-');
    for (let at = 0; at < 500; at += 1) assert.ok([0, 1, 2, 3, 4, 5, 6, 7].includes(client.hueOf(`tomasz${at}`)));
  });

  test('a room in an address survives the way there and back', () => {
    for (const name of ['lobby', 'größe 1', '100%', '#', 'a/b?c']) assert.equal(client.roomOfHash(client.hashOfRoom(name)), name);
    assert.equal(client.roomOfHash('#%E0%A4%A'), '');
    assert.equal(client.roomOfHash(''), '');
  });
});

describe('what a room shows', () => {
  test('a message that comes twice is shown once', () => {
    const { env, room } = lobbyAt(3);
    for (const one of [message(3), message(2), message(4), message(4)]) env.socket.push(one);
    assert.deepEqual(shown(room), range(1, 4));
  });

  test('a message whose key came before is the same message, however it is numbered', () => {
    const { env, room } = lobbyAt(0);
    env.socket.push(message(1, 'hi', { key: 'k' }));
    env.socket.push(message(2, 'hi', { key: 'k' }));
    env.socket.push(message(3, 'hi', { key: 'k', sender: 'eve' }));
    assert.deepEqual(room.items.map(({ sender, seq }) => [sender, seq]), [['bob', 1], ['eve', 3]]);
    assert.equal(room.head, 3);
  });

  test('a hole in the stream is marked and filled, each message once and in order', () => {
    const { env, room } = lobbyAt(2);
    env.socket.push(message(6));
    assert.deepEqual(shown(room), ['m1', 'm2', '[3-5 loading]', 'm6']);
    const history = env.socket.take('history');
    assert.deepEqual([history.before, history.limit], [6, 3]);
    env.socket.ok(history, { room: 'lobby', epoch: 'e1', messages: messages(3, 5), more: true });
    assert.deepEqual(shown(room), range(1, 6));
  });

  test('a gap that the server announces is filled as far as history is kept', () => {
    const { env, room } = lobbyAt(2);
    env.socket.push({ type: 'gap', room: 'lobby', from: 3, to: 8 });
    env.socket.push(message(9));
    env.socket.ok(env.socket.take('history'), { room: 'lobby', epoch: 'e1', messages: messages(6, 8), more: false });
    assert.deepEqual(shown(room), ['m1', 'm2', '[3-5 gone]', ...range(6, 9)]);
  });

  test('a jump that the server explains is no hole', () => {
    const { env, room } = lobbyAt(2);
    env.socket.push(message(4_099, 'after', { prev: 2 }));
    assert.deepEqual(shown(room), ['m1', 'm2', 'after']);
  });

  test('a deleted message leaves a tombstone, whether it was shown or comes so', () => {
    const { env, room } = lobbyAt(2);
    env.socket.push({ type: 'deleted', room: 'lobby', seq: 1 });
    env.socket.push(message(3, null, { deleted: true }));
    assert.deepEqual(shown(room), ['(deleted)', 'm2', '(deleted)']);
    assert.equal(room.items[0].content, null);
  });

  test('older pages join what is shown, until the first message is there', () => {
    const { env, chat, room } = lobbyAt(200, 151);
    chat.loadOlder(room);
    chat.loadOlder(room);
    const history = env.socket.take('history');
    assert.deepEqual([history.before, history.limit], [151, 100]);
    assert.ok(!env.socket.types().includes('history'), 'one page at a time');
    env.socket.ok(history, { room: 'lobby', epoch: 'e1', messages: messages(51, 150), more: true });
    chat.loadOlder(room);
    env.socket.ok(env.socket.take('history'), { room: 'lobby', epoch: 'e1', messages: messages(1, 50), more: false });
    assert.deepEqual(shown(room), range(1, 200));
    assert.equal(client.olderBefore(room), null);
  });

  test('a long room is cut at the far end and read again from there', () => {
    const { env, room } = lobbyAt(0);
    for (const one of messages(1, client.ITEMS_MAX + 200)) env.socket.push(one);
    assert.equal(room.items.length, client.ITEMS_MAX);
    assert.equal(room.items[0].seq, 201);
    assert.equal(client.olderBefore(room), 201);
    assert.equal(room.keys.size, 0);
  });

  test('a mark that has nothing above it is dropped, and what was before a restart is not looked for', () => {
    const { env, room } = lobbyAt(3);
    const socket = reconnect(env);
    enterLobby(socket, { seq: 0, epoch: 'e2', recovered: false });
    for (const one of messages(1, 4)) socket.push(one);
    client.trim(room, 'top', 6);
    assert.deepEqual(shown(room), ['m3', '|', ...range(1, 4)]);
    assert.equal(client.olderBefore(room), null);
    client.trim(room, 'top', 5);
    assert.deepEqual(shown(room), range(1, 4));
    client.trim(room, 'top', 2);
    assert.equal(client.olderBefore(room), 3);
  });

  test('cut at its end, a room goes on counting there and is filled when read down', () => {
    const { env, chat, room } = lobbyAt(0);
    for (const one of messages(1, 500)) env.socket.push(one);
    client.trim(room, 'bottom', 400);
    env.socket.push(message(501));
    assert.deepEqual(shown(room).slice(-2), ['m400', '[401-501 tail]']);
    chat.fill(room, client.tailOf(room));
    const history = env.socket.take('history');
    assert.deepEqual([history.after, history.limit], [400, 100]);
    env.socket.ok(history, { room: 'lobby', epoch: 'e1', messages: messages(401, 500), more: true });
    assert.deepEqual(shown(room).slice(-2), ['m500', '[501-501 tail]']);
    chat.fill(room, client.tailOf(room));
    env.socket.ok(env.socket.take('history'), { room: 'lobby', epoch: 'e1', messages: messages(501, 501), more: false });
    assert.deepEqual(shown(room), range(1, 501));
  });

  test('days, blocks of one sender, and where the news begin', () => {
    const room = client.createRoom('lobby');
    client.joined(room, { epoch: 'e1', seq: 0 });
    const noon = new Date(2026, 2, 3, 12).getTime();
    const say = (seq, sender, timestamp) => client.receive(room, { seq, sender, content: `m${seq}`, timestamp });
    say(1, 'bob', noon);
    say(2, 'bob', noon + 1_000);
    say(3, 'bob', noon + 600_000);
    say(4, 'ann', noon + 601_000);
    say(5, 'bob', noon + 86_400_000);
    room.divider = { gen: 0, seq: 2 };
    const rows = client.rowsOf(room, 'ann').map((row) => (row.type === 'message' ? `${row.item.content}${row.first ? '*' : ''}` : row.type));
    assert.deepEqual(rows, ['day', 'm1*', 'm2', 'new', 'm3*', 'm4*', 'day', 'm5*']);
    const ids = client.rowsOf(room, 'ann').map((row) => row.id);
    assert.equal(new Set(ids).size, ids.length);
  });
});

describe('recovery', () => {
  test('the client asks for what came after its own last message, and goes on without a seam', () => {
    const { env, room } = lobbyAt(3);
    const socket = reconnect(env);
    const join = enterLobby(socket, { seq: 5, recovered: true });
    assert.deepEqual(join.since, { epoch: 'e1', seq: 3 });
    assert.equal(join.history, undefined);
    for (const one of messages(4, 6)) socket.push(one);
    assert.deepEqual(shown(room), range(1, 6));
  });

  test('what cannot be replayed is fetched page by page, and what is gone is marked', () => {
    const { env, room } = lobbyAt(3);
    const socket = reconnect(env);
    enterLobby(socket, { seq: 250, recovered: false });
    socket.push(message(251));
    const first = socket.take('history');
    assert.deepEqual([first.before, first.limit], [251, 100]);
    socket.ok(first, { room: 'lobby', epoch: 'e1', messages: messages(151, 250), more: true });
    socket.ok(socket.take('history'), { room: 'lobby', epoch: 'e1', messages: messages(101, 150), more: false });
    assert.deepEqual(shown(room), [...range(1, 3), '[4-100 gone]', ...range(101, 251)]);
  });

  test('after a long absence only the latest are fetched, the rest on request', () => {
    const { env, chat, room } = lobbyAt(1);
    const socket = reconnect(env);
    enterLobby(socket, { seq: 5_001, recovered: false });
    let pages = 0;
    while (socket.types().includes('history')) {
      const history = socket.take('history');
      socket.ok(history, { room: 'lobby', epoch: 'e1', messages: messages(history.before - history.limit, history.before - 1), more: true });
      pages += 1;
    }
    assert.equal(pages, client.GAP_BUDGET / client.PAGE);
    assert.deepEqual(shown(room).slice(0, 3), ['m1', '[2-4501 open]', 'm4502']);
    chat.fill(room, room.items[1]);
    assert.equal(socket.take('history').before, 4_502);
  });

  test('when the server forgot, what is shown stays, and the break is marked', () => {
    const { env, room } = lobbyAt(3);
    const socket = reconnect(env);
    enterLobby(socket, { seq: 2, epoch: 'e2', recovered: false });
    socket.push(message(3, 'new 3'));
    socket.ok(socket.take('history'), { room: 'lobby', epoch: 'e2', messages: [message(1, 'new 1'), message(2, 'new 2')], more: false });
    assert.deepEqual(shown(room), ['m1', 'm2', 'm3', '|', 'new 1', 'new 2', 'new 3']);
    assert.deepEqual(client.sinceOf(room), { epoch: 'e2', seq: 3 });
    assert.equal(client.olderBefore(room), null);
  });

  test('a page of the old epoch that comes late changes nothing', () => {
    const { env, chat, room } = lobbyAt(60, 51);
    chat.loadOlder(room);
    const history = env.socket.take('history');
    env.socket.ok(history, { room: 'lobby', epoch: 'e0', messages: messages(1, 50), more: false });
    assert.deepEqual(shown(room), range(51, 60));
  });

  test('a replay that breaks off is taken up where it broke off', () => {
    const { env, room } = lobbyAt(2);
    let socket = reconnect(env);
    enterLobby(socket, { seq: 6, recovered: true });
    socket.push(message(3));
    socket.push(message(4));
    socket = reconnect(env);
    const join = enterLobby(socket, { seq: 7, recovered: true });
    assert.equal(join.since.seq, 4);
    for (const one of messages(5, 7)) socket.push(one);
    assert.deepEqual(shown(room), range(1, 7));
  });

  test('every room is entered again, the one that is shown first; one that was refused is not', () => {
    const { env, chat } = lobbyAt(1);
    for (const name of ['a', 'b']) {
      chat.open(name);
      env.socket.ok(env.socket.take('join'), { room: name, epoch: name, seq: 0, members: 1, role: 'member' });
    }
    env.socket.push({ type: 'kicked', room: 'a' });
    const socket = reconnect(env);
    assert.deepEqual(socket.sent.filter(({ type }) => type === 'join').map(({ room }) => room), ['b', 'lobby']);
    assert.equal(chat.rooms.get('a').membership, 'refused');
  });
});

describe('sending', () => {
  const ownText = (room) => room.outbox.map((entry) => `${entry.content}: ${entry.state}`);

  test('ok and echo come in either order, and the message is shown once', () => {
    for (const echoFirst of [true, false]) {
      const { env, chat, room } = lobbyAt(1);
      chat.send(room, 'hi');
      assert.deepEqual(ownText(room), ['hi: sent']);
      const command = env.socket.take('message');
      const echo = () => env.socket.push(message(2, 'hi', { sender: 'ann', key: command.key }));
      if (echoFirst) echo();
      env.socket.ok(command, { room: 'lobby', seq: 2, timestamp: 1_700_000_002_000, durable: false });
      if (!echoFirst) echo();
      assert.deepEqual(shown(room), ['m1', 'hi']);
      assert.deepEqual(ownText(room), []);
      assert.equal(room.head, 2);
    }
  });

  test('an ok that overtakes the stream does not hide what the stream still brings', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'hi');
    env.socket.ok(env.socket.take('message'), { room: 'lobby', seq: 4, timestamp: 1_700_000_004_000 });
    assert.equal(room.head, 1);
    const socket = reconnect(env);
    assert.equal(enterLobby(socket, { seq: 4, recovered: true }).since.seq, 1);
    socket.push(message(2));
    socket.push(message(3));
    socket.push(message(4, 'hi', { sender: 'ann', key: 'key-1' }));
    assert.deepEqual(shown(room), ['m1', 'm2', 'm3', 'hi']);
  });

  test('a message written while offline is sent after reconnecting, with its key', () => {
    const { env, chat, room } = lobbyAt(1);
    env.socket.drop();
    chat.send(room, 'one');
    chat.send(room, 'two');
    assert.deepEqual(ownText(room), ['one: queued', 'two: queued']);
    waitForDial(env);
    welcome(env.socket);
    assert.ok(!env.socket.types().includes('message'), 'not before the room is entered');
    enterLobby(env.socket, { seq: 1, recovered: true });
    const sent = env.socket.sent.filter(({ type }) => type === 'message');
    assert.deepEqual(sent.map(({ content, key }) => [content, key]), [['one', 'key-1'], ['two', 'key-2']]);
  });

  test('a message whose ok was lost is not sent again when the replay has it', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'arrived');
    chat.send(room, 'lost');
    const socket = reconnect(env);
    enterLobby(socket, { seq: 3, recovered: true });
    socket.push(message(2));
    assert.ok(!socket.types().includes('message'), 'not before the replay is over');
    socket.push(message(3, 'arrived', { sender: 'ann', key: 'key-1' }));
    assert.deepEqual(socket.sent.filter(({ type }) => type === 'message').map(({ key }) => key), ['key-2']);
    assert.deepEqual(shown(room), ['m1', 'm2', 'arrived']);
  });

  test('without a replay, history is searched before anything is sent again', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'arrived');
    const socket = reconnect(env);
    enterLobby(socket, { seq: 2, recovered: false });
    assert.ok(!socket.types().includes('message'));
    socket.ok(socket.take('history'), { room: 'lobby', epoch: 'e1', messages: [message(2, 'arrived', { sender: 'ann', key: 'key-1' })], more: true });
    assert.ok(!socket.types().includes('message'));
    assert.deepEqual(shown(room), ['m1', 'arrived']);
    assert.deepEqual(ownText(room), []);
  });

  test('a room whose stream had not begun is searched as well', () => {
    const { env, chat } = chatOnline();
    chat.open('lobby');
    enterLobby(env.socket, { seq: 40 });
    const room = chat.rooms.get('lobby');
    chat.send(room, 'arrived');
    chat.send(room, 'lost');
    const socket = reconnect(env);
    assert.equal(enterLobby(socket, { seq: 41 }).since, undefined);
    const history = socket.take('history');
    assert.ok(!socket.types().includes('message'));
    socket.ok(history, { room: 'lobby', epoch: 'e1', messages: [message(41, 'arrived', { sender: 'ann', key: 'key-1' })], more: true });
    assert.deepEqual(socket.sent.filter(({ type }) => type === 'message').map(({ key }) => key), ['key-2']);
  });

  test('after a restart that forgot, what was not acknowledged is sent again', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'again');
    const socket = reconnect(env);
    enterLobby(socket, { seq: 0, epoch: 'e2', recovered: false });
    assert.equal(socket.take('message').key, 'key-1');
    socket.push(message(1, 'again', { sender: 'ann', key: 'key-1' }));
    assert.deepEqual(shown(room), ['m1', '|', 'again']);
  });

  test('a refused message waits for its writer to retry or discard', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'hi');
    const { id, key } = env.socket.take('message');
    env.socket.push({ type: 'error', id, code: 'rate_limited', message: 'too many messages', temporary: true });
    assert.deepEqual(ownText(room), ['hi: failed']);
    assert.equal(room.outbox[0].error, 'too many messages');
    reconnect(env);
    enterLobby(env.socket, { seq: 1, recovered: true });
    assert.ok(!env.socket.types().includes('message'), 'not by itself');
    chat.resend(room, room.outbox[0]);
    assert.equal(env.socket.take('message').key, key);
    chat.discard(room, room.outbox[0]);
    assert.deepEqual(ownText(room), []);
  });

  test('what the server refuses while it closes is sent on the next connection', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'hi');
    env.socket.push({ type: 'closing', reason: 'restart', retry_after_ms: 500 });
    env.socket.push({ type: 'error', id: env.socket.take('message').id, code: 'overloaded', message: 'closing', temporary: true });
    chat.send(room, 'there');
    assert.ok(!env.socket.types().includes('message'));
    const socket = reconnect(env, 1012);
    enterLobby(socket, { seq: 1, recovered: true });
    assert.deepEqual(socket.sent.filter(({ type }) => type === 'message').map(({ content }) => content), ['hi', 'there']);
  });

  test('the room left for text is counted in bytes of the whole command', () => {
    const { env, chat, room } = lobbyAt(0);
    const left = chat.bytesLeft(room, '');
    assert.equal(chat.bytesLeft(room, '€'), left - 3);
    assert.equal(chat.bytesLeft(room, '"'), left - 2);
    chat.send(room, 'x'.repeat(left));
    const bytes = Buffer.byteLength(JSON.stringify(env.socket.take('message')));
    assert.ok(bytes <= 1_000 && bytes > 900, `${bytes}`);
  });

  test('typing is told at most every three seconds, and taken back', () => {
    const { env, chat, room } = lobbyAt(0);
    chat.typing(room, true);
    chat.typing(room, true);
    env.pass(2_000);
    chat.typing(room, true);
    assert.deepEqual(env.socket.sent.filter(({ type }) => type === 'signal').map(({ content }) => content.typing), [true]);
    env.pass(1_000);
    chat.typing(room, true);
    chat.typing(room, false);
    chat.typing(room, false);
    assert.deepEqual(env.socket.sent.filter(({ type }) => type === 'signal').map(({ content }) => content.typing), [true, true, false]);
  });
});

describe('people and rooms', () => {
  test('typing shows until it expires, is taken back, or the message is there', () => {
    const { env, room } = lobbyAt(0);
    const typing = (sender, on = true) => env.socket.push({ type: 'signal', room: 'lobby', sender, content: { typing: on } });
    for (const sender of ['bob', 'eve', 'joe', 'ann']) typing(sender);
    assert.deepEqual([...room.typing.keys()], ['bob', 'eve', 'joe']);
    env.socket.push(message(1));
    typing('eve', false);
    assert.deepEqual([...room.typing.keys()], ['joe']);
    env.pass(client.TYPING_EXPIRES_MS + 100);
    assert.deepEqual([...room.typing.keys()], []);
    env.socket.push({ type: 'signal', room: 'lobby', sender: 'bob', content: 'typing' });
    env.socket.push({ type: 'signal', room: 'lobby', sender: 'bob', content: null });
    assert.equal(room.typing.size, 0);
  });

  test('who is present is read in pages, with what changes meanwhile', () => {
    const { env, room } = lobbyAt(0);
    const first = env.socket.take('presence');
    env.socket.push({ type: 'presence', room: 'lobby', joined: ['zoe'], left: ['bob'], count: 3 });
    env.socket.ok(first, { users: [{ user: 'ann', since: 1 }, { user: 'bob', since: 1 }], count: 3, next: 'bob' });
    const second = env.socket.take('presence');
    assert.equal(second.after, 'bob');
    env.socket.ok(second, { users: [{ user: 'eve', since: 1 }], count: 3 });
    assert.deepEqual([...room.users.keys()], ['ann', 'eve', 'zoe']);
    env.socket.push({ type: 'presence', room: 'lobby', joined: [], left: ['eve'], count: 2 });
    assert.deepEqual([...room.users.keys()], ['ann', 'zoe']);
  });

  test('a list that does not match the count is read again', () => {
    const { env, room } = lobbyAt(0);
    env.socket.ok(env.socket.take('presence'), { users: [{ user: 'ann', since: 1 }], count: 1 });
    env.socket.push({ type: 'presence', room: 'lobby', joined: ['bob'], left: [], count: 3 });
    env.pass(3_000);
    env.socket.ok(env.socket.take('presence'), { users: ['ann', 'bob', 'eve'].map((user) => ({ user, since: 1 })), count: 3 });
    assert.deepEqual([...room.users.keys()], ['ann', 'bob', 'eve']);
  });

  test('a large room is a count', () => {
    const { env, room } = lobbyAt(0);
    env.socket.ok(env.socket.take('presence'), { users: [{ user: 'ann', since: 1 }], count: 1 });
    env.socket.push({ type: 'presence', room: 'lobby', joined: [], left: [], count: 1_001 });
    assert.equal(room.members, 1_001);
    assert.equal(room.usersKnown, false);
    env.pass(10_000);
    assert.ok(!env.socket.types().includes('presence'));
  });

  test('switch is one step, and refused leaves everything as it was', () => {
    const { env, chat } = lobbyAt(1);
    chat.switch('lobby', 'den');
    const first = env.socket.take('switch');
    assert.deepEqual([first.from, first.to, first.presence], ['lobby', 'den', true]);
    assert.equal(chat.current, 'lobby');
    env.socket.push({ type: 'error', id: first.id, code: 'room_full', message: 'full', temporary: false });
    assert.deepEqual([...chat.rooms.keys()], ['lobby']);
    chat.switch('lobby', 'den');
    env.socket.ok(env.socket.take('switch'), { room: 'den', epoch: 'd', seq: 0, members: 1, role: 'host' });
    assert.deepEqual([...chat.rooms.keys()], ['den']);
    assert.equal(chat.current, 'den');
  });

  test('leaving shows another room, and its pushes are no longer taken', () => {
    const { env, chat } = lobbyAt(1);
    chat.open('den');
    chat.leave('den');
    assert.equal(chat.current, 'lobby');
    env.socket.push({ ...message(1), room: 'den' });
    chat.leave('lobby');
    assert.equal(chat.current, null);
    assert.equal(chat.rooms.size, 0);
  });

  test('leaving with something unsent says so', () => {
    const { env, chat, room, told } = lobbyAt(1);
    env.socket.drop();
    chat.send(room, 'hi');
    chat.leave('lobby');
    assert.deepEqual(told, ['1 message to lobby was not sent.']);
  });

  test('a join that is refused for now is tried again, one that is refused for good is not', () => {
    const { env, chat } = chatOnline();
    chat.open('lobby');
    env.socket.push({ type: 'error', id: env.socket.take('join').id, code: 'overloaded', message: 'busy', temporary: true });
    env.pass(5_000);
    env.socket.push({ type: 'error', id: env.socket.take('join').id, code: 'forbidden', message: 'not for you', temporary: false });
    env.pass(60_000);
    assert.ok(!env.socket.types().includes('join'));
    assert.deepEqual([chat.rooms.get('lobby').membership, chat.rooms.get('lobby').why], ['refused', 'not for you']);
  });

  test('unread counts what others said since, not what was there before nor what is read', () => {
    const { env, chat } = chatOnline();
    chat.open('lobby');
    enterLobby(env.socket, { seq: 2 });
    const room = chat.rooms.get('lobby');
    for (const one of messages(1, 4)) env.socket.push(one);
    env.socket.push(message(5, 'mine', { sender: 'ann' }));
    assert.equal(room.unread, 2);
    chat.markRead(room);
    assert.equal(room.unread, 0);
  });

  test('the list of rooms is read page by page on request', () => {
    const { env, chat } = chatOnline();
    env.socket.ok(env.socket.take('rooms'), { rooms: [{ room: 'a', members: 2 }], next: 'a' });
    assert.equal(chat.directory.next, 'a');
    chat.moreRooms();
    env.socket.ok(env.socket.take('rooms'), { rooms: [{ room: 'a', members: 3 }], next: 'a' });
    const second = env.socket.take('rooms');
    assert.equal(second.after, 'a');
    env.socket.ok(second, { rooms: [{ room: 'b', members: 1 }] });
    assert.deepEqual(chat.directory, { rooms: [{ room: 'a', members: 3 }, { room: 'b', members: 1 }], next: null, known: true });
  });
});

describe('connection', () => {
  test('backoff doubles up to a bound, and jitter covers all of it', () => {
    assert.deepEqual([0, 1, 2, 3, 4, 5, 50].map((attempt) => client.backoffMs(attempt, 1)), [1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
    assert.equal(client.backoffMs(50, 0), 0);
    assert.equal(client.backoffMs(1, 0.25), 500);
  });

  test('close codes decide whether to come back, and when', () => {
    const after = (code, more) => client.afterClose({ code, attempt: 0, random: 1, ...more });
    for (const code of [1000, 1001, 1006, 1009, 1011, 1012, 1013, 4000, 4001, 4008, 4499]) assert.equal(after(code).reconnect, true, `${code}`);
    for (const code of [1002, 1003, 1007, 1008, 4500, 4503, 4999]) assert.equal(after(code).reconnect, false, `${code}`);
    assert.match(after(4503, { reason: 'banned' }).text, /banned/);
    assert.equal(after(1012, { retryAfterMs: 3_210 }).delayMs, 3_210);
    assert.equal(after(1012, { retryAfterMs: 3_210, attempt: 1 }).delayMs, 2_000);
  });

  test('the time that the server names is kept', () => {
    const { env, chat } = lobbyAt(0);
    env.socket.push({ type: 'closing', reason: 'restart', retry_after_ms: 4_000 });
    assert.equal(chat.connection.ready, false);
    env.socket.drop(1012);
    env.pass(3_999);
    assert.equal(env.sockets.length, 1);
    env.pass(1);
    assert.equal(env.sockets.length, 2);
  });

  test('a final close is final until asked', () => {
    const { env, chat } = lobbyAt(0);
    env.socket.drop(4500, 'not a hubbub client');
    env.pass(600_000);
    assert.deepEqual([chat.connection.phase, env.sockets.length], ['stopped', 1]);
    chat.connection.retryNow();
    welcome(env.socket);
    assert.equal(chat.connection.phase, 'online');
    assert.equal(env.socket.take('join').room, 'lobby');
  });

  test('attempts that fail are made ever more rarely, and a good connection forgets them', () => {
    const { env } = lobbyAt(0);
    env.chance = 1;
    env.pass(10_000);
    const waits = [];
    for (let attempt = 0; attempt < 6; attempt += 1) {
      env.socket.drop();
      waits.push(waitForDial(env));
    }
    assert.deepEqual(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 20_000]);
    welcome(env.socket);
    env.pass(6_000);
    env.socket.drop();
    assert.equal(waitForDial(env), 1_000);
  });

  test('a server that takes connections and drops them at once is not hammered', () => {
    const { env } = lobbyAt(0);
    env.chance = 1;
    const waits = [];
    for (let attempt = 0; attempt < 5; attempt += 1) {
      env.socket.drop();
      waits.push(waitForDial(env));
      welcome(env.socket);
    }
    assert.deepEqual(waits, [1_000, 2_000, 4_000, 8_000, 16_000]);
  });

  test('a server that does not answer is given up', () => {
    const env = new FakeEnv();
    const connection = new client.Connection(env, { phase() {}, welcome() {}, push() {}, refused() {} });
    connection.start('ws://fake/ws', 'ann');
    env.socket.accept();
    env.pass(9_999);
    assert.equal(connection.phase, 'connecting');
    env.pass(1);
    assert.equal(connection.phase, 'waiting');
    assert.ok(env.sockets[0].closed);
  });

  test('silence is followed by a ping, and silence after that by a new connection', () => {
    const { env, chat } = lobbyAt(0);
    env.pass(37_499);
    assert.ok(!env.socket.types().includes('ping'));
    env.pass(1);
    const ping = env.socket.take('ping');
    env.socket.push({ type: 'pong', id: ping.id });
    env.pass(37_500);
    env.socket.take('ping');
    env.socket.push(message(1));
    env.pass(10_000);
    assert.equal(chat.connection.phase, 'online', 'any traffic is a sign of life');
    env.pass(37_500);
    assert.equal(chat.connection.phase, 'waiting');
    assert.ok(env.sockets[0].closed);
  });

  test('waking up asks at once whether the connection still lives', () => {
    const { env, chat } = lobbyAt(0);
    chat.connection.wake();
    env.socket.take('ping');
    chat.connection.wake();
    assert.ok(!env.socket.types().includes('ping'), 'once');
    env.pass(4_000);
    assert.equal(chat.connection.phase, 'waiting');
    chat.connection.wake();
    assert.equal(chat.connection.phase, 'connecting');
  });

  test('the ping of the server is answered', () => {
    const { env } = lobbyAt(0);
    env.socket.push({ type: 'ping' });
    env.socket.take('pong');
  });

  test('a name that is refused ends the attempts and is asked again', () => {
    const setup = chatOnline();
    setup.chat.start('a\u202eb');
    setup.env.socket.accept();
    const { id } = setup.env.socket.take('connect');
    setup.env.socket.push({ type: 'error', id, code: 'bad_request', message: 'the name has a control character', temporary: false });
    assert.equal(setup.refused(), 'the name has a control character');
    setup.env.pass(60_000);
    assert.equal(setup.env.sockets.length, 2);
  });

  test('a close for an oversized message does not send that message again', () => {
    const { env, chat, room } = lobbyAt(0);
    chat.send(room, 'huge');
    const socket = reconnect(env, 1009);
    enterLobby(socket, { seq: 0, recovered: true });
    assert.ok(!socket.types().includes('message'));
    assert.equal(room.outbox[0].state, 'failed');
  });
});
