// The client without a page: what it shows of a room, when it reconnects, and what it sends.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { FakeEnv, chatOnline, client, enterLobby, message, messages, shown, tokenOf, welcome } from './fake.js';

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

/** The rooms that a person sees. */
const entered = (chat) => [...chat.rooms.values()].filter(({ isInbox }) => !isInbox).map(({ name }) => name);

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

  test('a token says whose it is and when it ends, whatever the letters', () => {
    assert.deepEqual(client.claimsOf(tokenOf('zoë>?~😀', 1_700_000_060)), { user: 'zoë>?~😀', expires: 1_700_000_060_000 });
    assert.deepEqual(client.claimsOf(tokenOf('ann')), { user: 'ann', expires: null });
    for (const text of ['', 'a.b', 'a.b.c', 'a.!.c', tokenOf(''), tokenOf(7), `x${tokenOf('ann')}.`, 'a.bnVsbA.c']) assert.equal(client.claimsOf(text), null, text);
  });

  test('times in the words of the server are told as people do', () => {
    assert.match(client.withTimes('muted until 1795268800870 (Unix ms), for 600 s more'), /^muted until [^(]*2026[^(]*\d:\d\d[^(]*$/);
    assert.equal(client.withTimes('in room 1795268800870'), 'in room 1795268800870');
  });

  test('the token of an address is told from its room', () => {
    assert.deepEqual(client.tokenOfHash('#token=a.b-_.c'), { token: 'a.b-_.c', rest: '' });
    assert.deepEqual(client.tokenOfHash('#token=a.b.c&room=gr%C3%B6%C3%9Fe%201'), { token: 'a.b.c', rest: '#room=gr%C3%B6%C3%9Fe%201' });
    for (const hash of ['', '#', '#lobby', client.hashOfRoom('token=a.b.c'), '?token=a.b.c']) assert.equal(client.tokenOfHash(hash), null, hash);
  });

  test('a room in an address survives the way there and back', () => {
    for (const name of ['lobby', 'größe 1', '100%', '#', 'a/b?c', 'a=b', 'room=a', 'room']) assert.equal(client.roomOfHash(client.hashOfRoom(name)), name);
    assert.equal(client.roomOfHash('#%E0%A4%A'), '');
    const links = { '#team-1': 'team-1', '#room=team-1': 'team-1', '#room=gr%C3%B6%C3%9Fe%201': 'größe 1', '#room%3Da': 'room=a', '#room=room=a': 'room=a', '#a=room=b': 'a=room=b', '#rooms=a': 'rooms=a', '#room': 'room', '#room=': '' };
    for (const [hash, room] of Object.entries(links)) assert.equal(client.roomOfHash(hash), room, hash);
    assert.equal(client.roomOfHash(client.tokenOfHash('#token=a.b.c&room=room=a').rest), 'room=a');
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

  test('a session goes on in all its rooms at once, from where each was left', () => {
    const { env, chat, room } = lobbyAt(3);
    chat.open('den');
    env.socket.ok(env.socket.take('join'), { room: 'den', epoch: 'd', seq: 0, members: 1, role: 'host' });
    env.socket.drop();
    chat.open('new');
    waitForDial(env);
    const connect = welcome(env.socket, { resumed: true });
    assert.match(connect.resume.session, /^session-/);
    assert.deepEqual(connect.resume.rooms, { lobby: { epoch: 'e1', seq: 3 }, den: { epoch: 'd', seq: 0 }, '@ann': { epoch: 'inbox', seq: 0 } });
    assert.deepEqual(env.socket.sent.filter(({ type }) => type === 'join').map(({ room: name }) => name), ['new'], 'only what the session is not in');
    env.socket.push({ type: 'ok', room: 'lobby', epoch: 'e1', seq: 5, members: 2, role: 'member', recovered: true });
    for (const one of messages(4, 5)) env.socket.push(one);
    assert.deepEqual(shown(room), range(1, 5));
    assert.equal(room.membership, 'in');
    const first = connect.resume.session;
    env.socket.drop();
    waitForDial(env);
    assert.notEqual(welcome(env.socket, { resumed: true }).resume.session, first, 'each welcome has a new secret');
  });

  test('after a crash the head may lie beyond the last message, and nothing is missed or waited for', () => {
    const { env, chat, room } = lobbyAt(3);
    chat.send(room, 'again');
    env.socket.drop();
    waitForDial(env);
    welcome(env.socket, { resumed: true });
    env.socket.push({ type: 'ok', room: 'lobby', epoch: 'e1', seq: 4_100, members: 2, role: 'member', recovered: true });
    assert.equal(env.socket.take('message').key, 'key-1');
    env.socket.push(message(4_101, 'again', { sender: 'ann', key: 'key-1', prev: 3 }));
    assert.deepEqual(shown(room), [...range(1, 3), 'again']);
    assert.ok(!env.socket.types().includes('history'));
  });

  test('positions that were passed over are not taken for messages that are gone', () => {
    const { env, room } = lobbyAt(3);
    const socket = reconnect(env);
    enterLobby(socket, { seq: 4_100, recovered: false });
    while (socket.types().includes('history')) {
      socket.ok(socket.take('history'), { room: 'lobby', epoch: 'e1', messages: messages(2, 3), more: true });
    }
    assert.deepEqual(shown(room), range(1, 3));
  });

  test('a room that was left meanwhile is left once the session goes on, and one that refuses is tried again', () => {
    const { env, chat } = lobbyAt(1);
    chat.open('den');
    env.socket.ok(env.socket.take('join'), { room: 'den', epoch: 'd', seq: 0, members: 1, role: 'host' });
    env.socket.drop();
    chat.leave('den');
    waitForDial(env);
    welcome(env.socket, { resumed: true });
    env.socket.push({ type: 'ok', room: 'den', epoch: 'd', seq: 0, members: 1, role: 'host' });
    assert.equal(env.socket.take('leave').room, 'den');
    env.socket.push({ type: 'error', code: 'overloaded', message: 'busy', temporary: true });
    env.pass(2_000);
    assert.ok(env.socket.sent.some(({ type, room }) => type === 'join' && room === 'lobby'));
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

  test('a message whose ok was lost is sent again at once, with its key, and shown once', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'arrived');
    chat.send(room, 'lost');
    const socket = reconnect(env);
    enterLobby(socket, { seq: 3, recovered: true });
    const [first, second] = socket.sent.filter(({ type }) => type === 'message');
    assert.deepEqual([first.key, second.key], ['key-1', 'key-2']);
    socket.push(message(2));
    socket.push(message(3, 'arrived', { sender: 'ann', key: 'key-1' }));
    socket.ok(first, { room: 'lobby', seq: 3, timestamp: 1_700_000_003_000, durable: true, duplicate: true });
    socket.ok(second, { room: 'lobby', seq: 4, timestamp: 1_700_000_004_000, durable: true });
    socket.push(message(4, 'lost', { sender: 'ann', key: 'key-2' }));
    assert.deepEqual(shown(room), ['m1', 'm2', 'arrived', 'lost']);
    assert.deepEqual(ownText(room), []);
  });

  test('what came back but was not answered is sent again, for it may not be on the disk', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'hi');
    env.socket.push(message(2, 'hi', { sender: 'ann', key: 'key-1' }));
    assert.deepEqual(client.rowsOf(room, 'ann').filter(({ type }) => type === 'outgoing'), [], 'it is shown as a message');
    const socket = reconnect(env);
    enterLobby(socket, { seq: 4_099, recovered: true });
    const again = socket.take('message');
    assert.equal(again.key, 'key-1');
    socket.push(message(4_100, 'hi', { sender: 'ann', key: 'key-1', prev: 1 }));
    socket.ok(again, { room: 'lobby', seq: 4_100, timestamp: 1_700_000_009_000, durable: true });
    assert.deepEqual(shown(room), ['m1', 'hi']);
    assert.deepEqual(ownText(room), []);
  });

  test('what was sent so long ago that its key may be forgotten is searched before it is sent again', () => {
    for (const recovered of [true, false]) {
      const { env, chat, room } = lobbyAt(1);
      chat.send(room, 'arrived');
      chat.send(room, 'lost');
      env.socket.drop();
      env.pass(300_000);
      const { socket } = env;
      welcome(socket);
      enterLobby(socket, { seq: 2, recovered });
      assert.ok(!socket.types().includes('message'));
      while (socket.types().includes('history')) {
        socket.ok(socket.take('history'), { room: 'lobby', epoch: 'e1', messages: [message(1), message(2, 'arrived', { sender: 'ann', key: 'key-1' })], more: false });
      }
      assert.deepEqual(socket.sent.filter(({ type }) => type === 'message').map(({ key }) => key), ['key-2']);
      if (recovered) socket.push(message(2, 'arrived', { sender: 'ann', key: 'key-1' }));
      assert.deepEqual(shown(room), ['m1', 'arrived']);
    }
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

  test('a message that is refused for good waits for its writer to retry or discard', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'hi');
    const { id, key } = env.socket.take('message');
    env.socket.push({ type: 'error', id, code: 'too_large', message: 'too large', temporary: false });
    assert.deepEqual(ownText(room), ['hi: failed']);
    assert.equal(room.outbox[0].error, 'too large');
    reconnect(env);
    enterLobby(env.socket, { seq: 1, recovered: true });
    assert.ok(!env.socket.types().includes('message'), 'not by itself');
    chat.resend(room, room.outbox[0]);
    assert.equal(env.socket.take('message').key, key);
    chat.discard(room, room.outbox[0]);
    assert.deepEqual(ownText(room), []);
  });

  test('a message that is refused for now is sent again ever more rarely, in its place, and in the end its writer is asked', () => {
    const { env, chat, room } = lobbyAt(1);
    env.chance = 1;
    const refuse = () => env.socket.push({ type: 'error', id: env.socket.take('message').id, code: 'overloaded', message: 'the disk is full', temporary: true });
    chat.send(room, 'hi');
    refuse();
    chat.send(room, 'there');
    assert.ok(!env.socket.types().includes('message'), 'nothing overtakes it');
    env.pass(1_499);
    assert.ok(!env.socket.types().includes('message'));
    env.pass(1);
    assert.deepEqual(env.socket.sent.filter(({ type }) => type === 'message').map(({ content, key }) => [content, key]), [['hi', 'key-1'], ['there', 'key-2']]);
    refuse();
    refuse();
    env.pass(2_000);
    assert.ok(!env.socket.types().includes('message'), 'both wait, longer');
    env.pass(500);
    assert.equal(env.socket.types().filter((type) => type === 'message').length, 2, 'but no longer than for one refusal');
    refuse();
    refuse();
    for (let round = 0; round <= client.REFUSALS_MAX && room.outbox[0].state !== 'failed'; round += 1) {
      env.pass(30_000);
      refuse();
      refuse();
      env.socket.sent = env.socket.sent.filter(({ type }) => type !== 'ping');
      env.socket.push({ type: 'pong' });
    }
    assert.deepEqual(ownText(room), ['hi: failed', 'there: queued']);
    chat.resend(room, room.outbox[0]);
    const again = env.socket.sent.find(({ key }) => key === 'key-1');
    env.socket.ok(again, { room: 'lobby', seq: 2, timestamp: 1_700_000_002_000, durable: true });
    assert.deepEqual(shown(room), ['m1', 'hi']);
  });

  test('what is not with the server outlives the page, with its key', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'sent');
    env.socket.drop();
    chat.send(room, 'queued');
    const unsent = JSON.parse(JSON.stringify(chat.unsent()));
    const later = chatOnline(new FakeEnv(), unsent, 'lobby');
    enterLobby(later.env.socket, { seq: 1 });
    const sent = later.env.socket.sent.filter(({ type }) => type === 'message');
    assert.deepEqual(sent.map(({ content, key }) => [content, key]), [['sent', 'key-1'], ['queued', 'key-2']]);
    for (const command of sent) later.env.socket.ok(command, { room: 'lobby', seq: command.key === 'key-1' ? 2 : 3, timestamp: 1_700_000_002_000, durable: true });
    assert.deepEqual(later.chat.unsent(), {});
  });

  test('of the own message is known whether it is stored, and whom it reached', () => {
    const { env, chat, room } = lobbyAt(1);
    chat.send(room, 'hi');
    const command = env.socket.take('message');
    assert.equal(command.receipt, true);
    env.socket.push(message(2, 'hi', { sender: 'ann', key: command.key }));
    assert.equal(room.items.at(-1).durable, undefined);
    env.socket.push({ type: 'receipt', room: 'lobby', seq: 2, delivered: 1, members: 2 });
    env.socket.ok(command, { room: 'lobby', seq: 2, timestamp: 1_700_000_002_000, durable: true });
    assert.equal(room.items.at(-1).durable, true);
    assert.deepEqual(room.items.at(-1).reached, { delivered: 1, members: 2 });
    assert.equal(client.rowsOf(room, 'ann').at(-1).last, true);
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

  test('typing that is refused is passed over', () => {
    const { env, chat, room, told } = lobbyAt(0);
    chat.typing(room, true);
    const { id } = env.socket.take('signal');
    env.socket.push({ type: 'error', id, code: 'forbidden', message: 'muted', temporary: false });
    assert.deepEqual(told, []);
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
    assert.deepEqual(entered(chat), ['lobby']);
    chat.switch('lobby', 'den');
    env.socket.ok(env.socket.take('switch'), { room: 'den', epoch: 'd', seq: 0, members: 1, role: 'host' });
    assert.deepEqual(entered(chat), ['den']);
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
    assert.deepEqual(entered(chat), []);
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

  test('what was not read before is unread when a room is entered, and the news begin there', () => {
    const { env, chat } = chatOnline();
    chat.open('lobby');
    env.socket.ok(env.socket.take('join'), { room: 'lobby', epoch: 'e1', seq: 5, members: 2, role: 'member', unread: 2 });
    const room = chat.rooms.get('lobby');
    for (const one of messages(1, 6)) env.socket.push(one);
    assert.equal(room.unread, 3);
    const rows = client.rowsOf(room, 'ann').map((row) => (row.type === 'message' ? row.item.content : row.type));
    assert.deepEqual(rows.slice(-4), ['new', 'm4', 'm5', 'm6']);
  });

  test('the server is told what was read, at most once a second, unless it does not want to know', () => {
    const { env, chat, room } = lobbyAt(2);
    chat.markRead(room);
    env.socket.push(message(3));
    chat.markRead(room);
    assert.ok(!env.socket.types().includes('read'));
    env.pass(client.READ_AFTER_MS);
    const read = env.socket.take('read');
    assert.deepEqual([read.room, read.seq], ['lobby', 3]);
    assert.ok(!env.socket.types().includes('read'));
    env.socket.ok(read);
    chat.markRead(room);
    env.pass(client.READ_AFTER_MS);
    assert.ok(!env.socket.types().includes('read'), 'nothing new was read');
    env.socket.push(message(4));
    chat.markRead(room);
    env.pass(client.READ_AFTER_MS);
    env.socket.push({ type: 'error', id: env.socket.take('read').id, code: 'bad_request', message: 'no log', temporary: false });
    env.socket.push(message(5));
    chat.markRead(room);
    env.pass(client.READ_AFTER_MS);
    assert.ok(!env.socket.types().includes('read'));
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

describe('direct messages', () => {
  const direct = (seq, text, sender = 'bob') => ({ ...message(seq, text, { sender }), room: '@ann' });
  const conversation = (chat, peer = 'bob') => chat.rooms.get(client.inboxOf(peer));

  test('make a conversation with each person, of what both said, by time', () => {
    const { env, chat } = chatOnline();
    env.socket.push(direct(1, 'hello'));
    env.socket.push(direct(2, 'and I', 'eve'));
    assert.deepEqual(entered(chat), ['@bob', '@eve']);
    const room = conversation(chat);
    assert.deepEqual([room.unread, conversation(chat, 'eve').unread], [1, 1]);
    chat.send(room, 'hi bob');
    const command = env.socket.take('direct');
    assert.deepEqual([command.to, command.content, command.key, command.room], ['bob', 'hi bob', 'key-1', undefined]);
    env.socket.ok(command, { room: '@bob', seq: 9, timestamp: 1_700_000_003_000, durable: true });
    env.socket.push(direct(4, 'how are you?'));
    env.socket.push(direct(4, 'how are you?'));
    assert.deepEqual(shown(room), ['hello', 'hi bob', 'how are you?']);
    assert.equal(room.items[1].durable, true);
    assert.deepEqual(shown(conversation(chat, 'eve')), ['and I']);
  });

  test('that were sent from this browser are remembered, for nobody else may read them', () => {
    const { env, chat } = chatOnline();
    chat.open('@bob');
    chat.send(conversation(chat), 'hi');
    env.socket.ok(env.socket.take('direct'), { room: '@bob', seq: 1, timestamp: 1_700_000_003_000, durable: true });
    const later = new FakeEnv();
    later.stored = env.stored;
    const again = chatOnline(later, {}, '@bob');
    assert.deepEqual(shown(conversation(again.chat)), ['hi']);
    again.chat.start('eve');
    again.chat.open('@bob');
    welcome(later.socket);
    assert.deepEqual(shown(conversation(again.chat)), [], 'and only of who sent them');
  });

  test('that came while nobody was here are unread, each in its conversation', () => {
    const { env, chat } = chatOnline(new FakeEnv(), {}, 'lobby', { seq: 4_100, unread: 2 });
    const history = env.socket.take('history');
    assert.equal(history.room, '@ann');
    const page = [direct(1, 'old'), direct(2, 'older', 'eve'), direct(3, 'new'), direct(4, 'newer', 'eve')];
    env.socket.ok(history, { room: '@ann', epoch: 'inbox', messages: page, more: false });
    assert.deepEqual([conversation(chat).unread, conversation(chat, 'eve').unread], [1, 1]);
    env.socket.push({ ...direct(4_101, 'newest'), prev: 4 });
    assert.equal(conversation(chat).unread, 2);
    chat.markRead(conversation(chat));
    env.pass(client.READ_AFTER_MS);
    assert.equal(env.socket.take('read').seq, 3, 'what eve wrote is still to be read');
    chat.markRead(conversation(chat, 'eve'));
    env.pass(client.READ_AFTER_MS);
    assert.equal(env.socket.take('read').seq, 4_101);
  });

  test('of an inbox that was never read are all unread', () => {
    const { env, chat } = chatOnline(new FakeEnv(), {}, 'lobby', { seq: 2 });
    env.socket.ok(env.socket.take('history'), { room: '@ann', epoch: 'inbox', messages: [direct(1, 'a'), direct(2, 'b')], more: false });
    assert.equal(conversation(chat).unread, 2);
  });

  test('that wait for the connection are sent again with their keys, and read further back through the inbox', () => {
    const { env, chat } = chatOnline(new FakeEnv(), {}, '@bob', { seq: 150, unread: 0 });
    env.socket.ok(env.socket.take('history'), { room: '@ann', epoch: 'inbox', messages: Array.from({ length: 100 }, (_, at) => direct(at + 51, `b${at + 51}`)), more: true });
    const room = conversation(chat);
    assert.equal(room.items.length, 100);
    chat.loadOlder(room);
    const older = env.socket.take('history');
    assert.deepEqual([older.room, older.before], ['@ann', 51]);
    env.socket.ok(older, { room: '@ann', epoch: 'inbox', messages: Array.from({ length: 50 }, (_, at) => direct(at + 1, `b${at + 1}`)), more: false });
    assert.equal(room.items.length, 150);
    assert.equal(room.unread, 0);
    chat.send(room, 'lost');
    env.socket.drop();
    waitForDial(env);
    welcome(env.socket, { resumed: true });
    assert.equal(env.socket.take('direct').key, 'key-1');
    assert.ok(!env.socket.types().includes('leave'));
  });

  test('are written with /msg, to names of one word or in quotes', () => {
    assert.deepEqual(client.parseDirect('/msg bob hello there'), { to: 'bob', text: 'hello there' });
    assert.deepEqual(client.parseDirect('/msg @bob hello'), { to: 'bob', text: 'hello' });
    assert.deepEqual(client.parseDirect('/msg "Mara Lind" two\nlines'), { to: 'Mara Lind', text: 'two\nlines' });
    assert.deepEqual(client.parseDirect('/msg bob'), { to: '', text: '' });
    assert.equal(client.parseDirect('/message bob hello'), null);
    assert.equal(client.parseDirect('say /msg bob hello'), null);
  });

  test('to oneself are refused, and another name has other conversations', () => {
    const { env, chat, told } = chatOnline();
    chat.open('@ann');
    assert.deepEqual(told, ['That is you.']);
    env.socket.push(direct(1, 'hello'));
    chat.start('bob');
    assert.deepEqual(entered(chat), []);
    env.socket.accept();
    assert.equal(env.socket.take('connect').resume, undefined, 'nor its session');
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
    assert.match(after(4599, { reason: 'out of order' }).text, /out of order/);
    for (const code of [4501, 4502, 4503, 4505, 4506]) assert.doesNotMatch(after(code, { reason: 'jargon' }).text, /jargon|\d{4}/, `${code}`);
    for (const code of [4003, 4009]) assert.deepEqual([after(code, { random: 0 }).delayMs, after(code).delayMs], [5_000, 6_000], `${code}`);
    assert.deepEqual([4002, 4502, 4503, 4505, 4506].filter((code) => after(code).needsToken), [4002, 4503]);
    assert.deepEqual([4002, 4501, 4502, 4503, 4505, 4506].filter((code) => after(code).barred), [4502, 4505]);
    assert.match(after(4502).text, /withdrawn.*ban.*token/);
    assert.equal(after(4002).reconnect, false);
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

  test('a session that went on elsewhere is not taken back, but a new one may be begun', () => {
    const { env, chat } = lobbyAt(0);
    env.socket.drop(4501, 'session resumed elsewhere');
    env.pass(600_000);
    assert.deepEqual([chat.connection.phase, env.sockets.length], ['stopped', 1]);
    assert.match(chat.connection.text, /another place/);
    chat.connection.retryNow();
    assert.equal(welcome(env.socket).resume, undefined);
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

describe('tokens', () => {
  const NOW_S = 1_700_000_000;

  /** A chat of `ann` by token, in the lobby. */
  function withToken(token = tokenOf('ann', NOW_S + 90), room = {}) {
    const env = new FakeEnv();
    const told = [];
    const refused = [];
    const page = { changed() {}, told: (text) => told.push(text), refused: (text) => refused.push(text), reading: () => false, farSide: () => 'top' };
    const chat = new client.Chat(env, 'ws://fake/ws', page);
    chat.open('lobby');
    chat.start('ann', {}, token);
    const connect = welcome(env.socket, { name: 'Ann A.', expires: (NOW_S + 90) * 1_000 });
    env.socket.ok(env.socket.take('join'), { room: 'lobby', epoch: 'e1', seq: 0, members: 2, role: 'member', ...room });
    return { env, chat, told, refused, connect, room: chat.rooms.get('lobby') };
  }

  test('are shown in connect, without a name, and the welcome says who one is and for how long', () => {
    const token = tokenOf('ann', NOW_S + 90);
    const { chat, connect } = withToken(token);
    assert.equal(connect.token, token);
    assert.ok(!('name' in connect));
    assert.deepEqual([chat.me, chat.displayName, chat.connection.expires], ['ann', 'Ann A.', (NOW_S + 90) * 1_000]);
  });

  test('whose user the server names otherwise make one that user', () => {
    const env = new FakeEnv();
    const chat = new client.Chat(env, 'ws://fake/ws', { changed() {}, told() {}, refused() {} });
    chat.open('lobby');
    chat.start('ann', {}, tokenOf('ann'));
    env.socket.accept();
    env.socket.push({ type: 'welcome', id: env.socket.take('connect').id, user: 'anna', session: 's', limits: { message_bytes: 1_000 } });
    assert.deepEqual([chat.me, chat.displayName, env.socket.sent.filter(({ type }) => type === 'join').map(({ room }) => room)], ['anna', 'anna', ['lobby', '@anna']]);
  });

  test('are renewed on the live connection, which then lasts as long as the fresh one, also after a reconnect', () => {
    const { env, chat } = withToken();
    const answers = [];
    const bad = tokenOf('ann', NOW_S + 500);
    chat.renew(bad, (error) => answers.push(error));
    const refusedOne = env.socket.take('connect');
    assert.deepEqual(Object.keys(refusedOne).sort(), ['id', 'token', 'type']);
    env.socket.push({ type: 'error', id: refusedOne.id, code: 'unauthorized', message: 'the signature is wrong', temporary: false });
    assert.equal(chat.connection.expires, (NOW_S + 90) * 1_000, 'what is refused changes nothing');
    const fresh = tokenOf('ann', NOW_S + 900);
    chat.renew(fresh, (error) => answers.push(error));
    env.socket.ok(env.socket.take('connect'));
    assert.deepEqual(answers, ['the signature is wrong', '']);
    assert.equal(chat.connection.expires, (NOW_S + 900) * 1_000);
    assert.equal(env.sockets.length, 1);
    assert.equal(reconnect(env).closed, false);
    env.socket.drop();
    waitForDial(env);
    env.socket.accept();
    assert.equal(env.socket.take('connect').token, fresh);
  });

  test('that let one write make a reader enter again, from where it had read', () => {
    const { env, chat, room } = withToken(undefined, { role: 'guest' });
    env.socket.push(message(1));
    chat.renew(tokenOf('ann', NOW_S + 900), () => {});
    env.socket.ok(env.socket.take('connect'));
    assert.equal(env.socket.take('leave').room, 'lobby');
    const join = env.socket.take('join');
    assert.deepEqual(join.since, { epoch: 'e1', seq: 1 });
    env.socket.ok(join, { room: 'lobby', epoch: 'e1', seq: 1, members: 2, role: 'member', recovered: true });
    assert.deepEqual([room.membership, room.role, shown(room)], ['in', 'member', ['m1']]);
  });

  test('that have expired are asked for, and with a fresh one the session goes on', () => {
    const { env, chat, refused } = withToken();
    env.socket.push(message(1));
    env.socket.drop(4002, 'token expired');
    env.pass(600_000);
    assert.deepEqual([chat.connection.phase, chat.connection.needsToken, env.sockets.length], ['stopped', true, 1]);
    assert.match(chat.connection.text, /expired/);
    const fresh = tokenOf('ann', NOW_S + 9_000);
    chat.renew(fresh, () => {});
    const connect = welcome(env.socket, { resumed: true });
    assert.equal(connect.token, fresh);
    assert.deepEqual(connect.resume.rooms.lobby, { epoch: 'e1', seq: 1 });
    assert.deepEqual([chat.connection.phase, chat.connection.needsToken, refused], ['online', false, []]);
  });

  test('that are refused are asked for again, also where the server is not satisfied with a name', () => {
    for (const code of ['unauthorized', 'expired']) {
      const { env, chat, refused } = withToken();
      env.socket.drop();
      waitForDial(env);
      env.socket.accept();
      const { id } = env.socket.take('connect');
      env.socket.push({ type: 'error', id, code, message: 'connect with `token`', temporary: false });
      assert.deepEqual([refused, chat.connection.needsToken, chat.connection.phase], [['connect with `token`'], true, 'stopped'], code);
      chat.renew(tokenOf('ann'), () => {});
      env.socket.accept();
      assert.ok(env.socket.take('connect').resume, 'the session waits');
    }
  });

  test('are asked for in words for people where only a name was given', () => {
    const { env, chat, refused } = chatOnline();
    env.socket.drop();
    waitForDial(env);
    env.socket.accept();
    const { id } = env.socket.take('connect');
    env.socket.push({ type: 'error', id, code: 'unauthorized', message: 'connect with `token`', temporary: false });
    assert.equal(refused(), 'This server asks for a token. Paste the one you were given.');
    assert.deepEqual([chat.connection.text, chat.connection.needsToken], [refused(), true]);
  });

  test('of those who are kept out for now are shown again when they try again, and the server says why it refuses', () => {
    const token = tokenOf('ann');
    const { env, chat, refused } = withToken(token);
    env.socket.drop(4502, 'access revoked');
    env.pass(600_000);
    assert.deepEqual([chat.connection.phase, chat.connection.barred, chat.connection.needsToken, env.sockets.length], ['stopped', true, false, 1]);
    chat.connection.retryNow();
    assert.equal(chat.connection.barred, false);
    env.socket.accept();
    const connect = env.socket.take('connect');
    assert.equal(connect.token, token);
    env.socket.push({ type: 'error', id: connect.id, code: 'forbidden', message: 'you are banned', temporary: false });
    assert.deepEqual([chat.connection.text, refused, chat.connection.barred], ['you are banned', ['you are banned'], true]);
    chat.connection.retryNow();
    welcome(env.socket);
    assert.deepEqual([chat.connection.phase, chat.connection.barred], ['online', false]);
  });

  test('are forgotten with everything else when one signs out', () => {
    const { env, chat, room, told } = withToken();
    env.socket.drop();
    chat.send(room, 'never sent');
    chat.signOut();
    env.pass(600_000);
    assert.deepEqual([chat.me, chat.rooms.size, chat.connection.phase, env.sockets.length], ['', 0, 'idle', 1]);
    assert.deepEqual(told, ['1 message to lobby was not sent.']);
    chat.open('lobby');
    chat.start('bob');
    env.socket.accept();
    const { token, name, resume } = env.socket.take('connect');
    assert.deepEqual([token, name, resume], [undefined, 'bob', undefined]);
  });
});

describe('what was sent with a token', () => {
  const conversation = (chat) => chat.rooms.get('@bob');

  /** A chat with bob that was begun with a token of `ann`, about which the server has said nothing. */
  function begun(env) {
    const chat = new client.Chat(env, 'ws://fake/ws', { changed() {}, told() {}, refused() {}, reading: () => false, farSide: () => 'top' });
    chat.open('@bob');
    chat.start('ann', {}, tokenOf('ann'));
    return chat;
  }

  function say(env, chat, text, seq) {
    chat.send(conversation(chat), text);
    env.socket.ok(env.socket.take('direct'), { room: '@bob', seq, timestamp: 1_700_000_003_000, durable: true });
  }

  function sent(env) {
    const chat = begun(env);
    welcome(env.socket);
    say(env, chat, 'psst', 1);
    return chat;
  }

  test('is remembered by the tab alone, until one signs out', () => {
    const env = new FakeEnv();
    env.stored.set('localStorage hubbub.direct.ann', '[]');
    const chat = sent(env);
    assert.equal(env.stored.get('localStorage hubbub.direct.ann'), '[]');
    assert.match(env.stored.get('sessionStorage hubbub.direct.ann'), /psst/);
    chat.signOut();
    assert.deepEqual([...env.stored], [], 'of either storage');
  });

  test('is shown only when the server has said who one is', () => {
    const env = new FakeEnv();
    sent(env);
    const chat = begun(env);
    assert.deepEqual(shown(conversation(chat)), []);
    env.socket.accept();
    const { id } = env.socket.take('connect');
    env.socket.push({ type: 'error', id, code: 'unauthorized', message: 'the signature is wrong', temporary: false });
    assert.deepEqual(shown(conversation(chat)), []);
    chat.start('ann', {}, tokenOf('ann'));
    welcome(env.socket);
    assert.deepEqual(shown(conversation(chat)), ['psst']);
  });

  test('is not what was sent under the same name without one', () => {
    const env = new FakeEnv();
    const chat = sent(env);
    chat.start('ann');
    welcome(env.socket);
    say(env, chat, 'aloud', 2);
    const [tab, all] = ['sessionStorage', 'localStorage'].map((storage) => env.load(storage, 'hubbub.direct.ann').map(({ content }) => content));
    assert.deepEqual([tab, all], [['psst'], ['aloud']]);
  });
});

describe('being put out', () => {
  /** In the lobby with company, something on its way and something unsent. */
  function inCompany() {
    const setup = lobbyAt(1);
    setup.room.users = new Map([['ann', 1], ['bob', 2]]);
    setup.env.socket.push({ type: 'signal', room: 'lobby', sender: 'bob', content: { typing: true } });
    return setup;
  }

  test('says by whom, why and until when, and leaves nothing of the room open', () => {
    const until = 1_700_003_600_000;
    const cases = [
      [{ type: 'kicked', reason: 'kicked', by: 'bob' }, /^You were put out by bob\.$/],
      [{ type: 'kicked', reason: 'banned', by: 'bob', until }, /^You were banned by bob until .*2023/],
      [{ type: 'kicked', reason: 'banned' }, /^You were banned\.$/],
      [{ type: 'kicked', reason: 'forbidden' }, /^You may no longer be in this room\.$/],
      [{ type: 'kicked', reason: 'consumer_replaced' }, /Another program/],
      [{ type: 'closed' }, /host closed this room/],
    ];
    for (const [event, why] of cases) {
      const { env, told, room } = inCompany();
      env.socket.push({ ...event, room: 'lobby' });
      assert.match(room.why, why);
      assert.deepEqual(told, [`You are no longer in lobby. ${room.why}`]);
      assert.deepEqual([room.membership, room.users.size, room.usersKnown, room.typing.size], ['refused', 0, false, 0]);
      reconnect(env);
      assert.ok(!env.socket.types().includes('join'), 'it is not entered again by itself');
    }
  });

  test('is not undone by what was on its way there', () => {
    const { env, chat, room } = inCompany();
    chat.send(room, 'too late');
    const { id } = env.socket.take('message');
    env.socket.push({ type: 'kicked', room: 'lobby', reason: 'kicked', by: 'bob' });
    env.socket.push({ type: 'error', id, code: 'not_member', message: 'join the room first', temporary: false });
    assert.deepEqual([room.membership, room.outbox[0].state], ['refused', 'failed']);
    assert.ok(!env.socket.types().includes('join'));
  });

  test('at the door is told, and the room is not entered', () => {
    const { env, chat, told } = lobbyAt(0);
    chat.open('den');
    chat.send(chat.rooms.get('den'), 'let me in');
    const { id } = env.socket.take('join');
    env.socket.push({ type: 'error', id, code: 'forbidden', message: 'your token does not open it', temporary: false });
    const den = chat.rooms.get('den');
    assert.deepEqual([den.membership, den.outbox[0].state], ['refused', 'failed']);
    assert.deepEqual(told, ['You may not enter den: your token does not open it']);
  });

  test('of the inbox, which nobody chose to enter, is not told', () => {
    const setup = { env: new FakeEnv(), told: [] };
    const chat = new client.Chat(setup.env, 'ws://fake/ws', { changed() {}, told: (text) => setup.told.push(text) });
    chat.start('ann', {}, tokenOf('ann'));
    const { socket } = setup.env;
    socket.accept();
    socket.push({ type: 'welcome', id: socket.take('connect').id, user: 'ann', session: 's', limits: { message_bytes: 1_000 } });
    const join = socket.take('join');
    socket.push({ type: 'error', id: join.id, code: 'forbidden', message: 'no', temporary: false });
    assert.deepEqual([join.room, chat.rooms.get('@ann').membership, setup.told], ['@ann', 'refused', []]);
  });

  test('others is asked of the server, whose refusal is told', () => {
    const { env, chat, room } = lobbyAt(0);
    const answers = [];
    chat.moderate(room, { action: 'ban', user: 'eve', forMs: 60_000 }, (error) => answers.push(error));
    const ban = env.socket.take('ban');
    assert.deepEqual([ban.room, ban.user, ban.for_ms], ['lobby', 'eve', 60_000]);
    env.socket.push({ type: 'error', id: ban.id, code: 'forbidden', message: 'you may not moderate here', temporary: false });
    chat.moderate(room, { action: 'mute', user: 'eve', forMs: 0 }, (error) => answers.push(error));
    const mute = env.socket.take('mute');
    assert.ok(!('for_ms' in mute), 'for ever');
    env.socket.ok(mute);
    chat.moderate(room, { action: 'close' }, (error) => answers.push(error));
    assert.deepEqual(Object.keys(env.socket.take('close')).sort(), ['id', 'room', 'type']);
    env.socket.drop();
    chat.moderate(room, { action: 'kick', user: 'eve' }, (error) => answers.push(error));
    assert.deepEqual(answers, ['you may not moderate here', '', 'The connection was lost, so it may not be done.', 'That can be done when the connection is back.']);
  });
});
