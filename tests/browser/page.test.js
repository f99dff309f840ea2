// The whole client in headless Chromium, against the real server.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';

import { client } from './fake.js';
import { AdminKey, DESKTOP, Key, Line, PHONE, Person, Proxy, Server, accessibilityFaults, launchBrowser, until } from './harness.js';

let browser;
let server;
const leaving = []; // what a test opened, ended after it

async function arrive(name, options = {}) {
  const person = await Person.arrive(browser, options.port ?? server.port, name, options);
  leaving.push(() => person.context.close());
  return person;
}

async function line(name, ...rooms) {
  const talker = await Line.connect(server, name, ...rooms);
  leaving.push(() => talker.end());
  return talker;
}

async function proxyBefore() {
  const proxy = await Proxy.before(server);
  leaving.push(() => proxy.end());
  return proxy;
}

/** A server of other settings in place of the one that every test begins with. */
async function serverWith(...flags) {
  await server.end();
  server = await Server.start(...flags);
}

/** A server that wants tokens; gives the key that makes them. */
async function serverWithKey(...flags) {
  const key = new Key();
  leaving.push(() => key.end());
  await serverWith(...key.flags, ...flags);
  return key;
}

/** Someone who comes by a link with a token. */
async function arriveBy(token, { room = 'lobby', ...options } = {}) {
  const person = await Person.arrive(browser, server.port, null, { ...options, fragment: `token=${token}&room=${encodeURIComponent(room)}` });
  leaving.push(() => person.context.close());
  await person.page.locator('.app[data-phase="online"]').waitFor();
  return person;
}

function calm(...people) {
  for (const person of people) assert.deepEqual(person.complaints(), [], `what the browser of ${person.name} complained about`);
}

before(async () => {
  browser = await launchBrowser();
});

after(async () => {
  await browser?.close();
});

beforeEach(async () => {
  server = await Server.start();
});

afterEach(async () => {
  for (const end of leaving.splice(0).reverse()) await end();
  await server.end();
});

describe('two people', () => {
  test('talk, see each other come and go, and see each other typing', async () => {
    const ann = await arrive('ann');
    const bob = await arrive('bob');
    const people = ann.page.getByRole('complementary', { name: /2 people/ });
    await people.getByText('bob', { exact: true }).waitFor();
    await ann.say('Hello, Bob');
    await bob.sees('Hello, Bob');
    await bob.page.getByRole('article').filter({ hasText: 'Hello, Bob' }).getByText('ann', { exact: true }).waitFor();
    assert.match(await bob.page.locator('.message time').first().textContent(), /^\d\d:\d\d$/);

    await bob.composer.pressSequentially('Hel');
    await ann.page.getByText('bob is typing…').waitFor();
    await bob.composer.fill('');
    await ann.page.getByText('bob is typing…').waitFor({ state: 'hidden' });
    await bob.say('Hello, Ann');
    await bob.say('How are you?');
    await ann.sees('How are you?');
    assert.deepEqual(await ann.texts(), ['Hello, Bob', 'Hello, Ann', 'How are you?']);
    assert.equal(await ann.page.locator('.message.mine').count(), 1);
    assert.equal(await ann.page.locator('.message.theirs.first').count(), 1, 'what one person says in a row is one block');

    await bob.context.close();
    await ann.page.getByRole('complementary', { name: '1 person' }).waitFor();
    calm(ann, bob);
  });

  test('delete what they said, and nothing else', async () => {
    const ann = await arrive('ann');
    const bob = await arrive('bob');
    await bob.say('oops');
    await ann.say('kept');
    await bob.sees('kept');
    assert.equal(await bob.page.getByRole('button', { name: /^Delete this message/ }).count(), 1);
    await bob.page.getByRole('article').filter({ hasText: 'oops' }).hover();
    await bob.page.getByRole('button', { name: 'Delete this message' }).click();
    await bob.page.getByRole('dialog', { name: 'Delete this message for everyone?' }).getByRole('button', { name: 'Delete' }).click();
    for (const person of [ann, bob]) await person.page.getByText('This message was deleted.').waitFor();
    assert.deepEqual(await ann.texts(), ['kept']);
    const late = await arrive('late');
    await late.page.getByText('This message was deleted.').waitFor();
    calm(ann, bob, late);
  });

  test('cannot run anything in each other’s pages', async () => {
    const mallory = await line('<b>mallory</b>', 'lobby');
    const ann = await arrive('ann');
    const texts = ['<img src=x onerror="alert(1)">', '<script>alert(1)</script>', '"><svg/onload=alert(1)>', 'javascript:alert(1)', '[x](javascript:alert(1))'];
    await mallory.sayAll('lobby', [...texts, { html: '<i>no</i>' }, 'https://a.example/"onmouseover="alert(1) end']);
    await ann.page.locator('.log a').waitFor();
    assert.deepEqual((await ann.texts()).slice(0, texts.length), texts);
    assert.equal(await ann.page.locator('.text code').textContent(), '{"html":"<i>no</i>"}');
    assert.deepEqual(await ann.page.locator('.log a').evaluateAll((links) => links.map(({ href }) => href)), ['https://a.example/']);
    assert.equal(await ann.page.locator('.log :is(img, script, svg:not(.act svg), b, i)').count(), 0);
    await ann.page.getByRole('complementary').getByText('<b>mallory</b>').waitFor();
    calm(ann);
  });
});

describe('rooms', () => {
  test('are entered, left and switched, and counted for others', async () => {
    const ann = await arrive('ann');
    const bob = await arrive('bob', { room: 'den' });
    const rooms = ann.page.getByRole('navigation', { name: 'Rooms' });
    await ann.page.reload();
    await ann.online();
    await rooms.getByRole('button', { name: 'den 1 person' }).waitFor();

    await ann.room('den');
    await bob.page.getByRole('complementary', { name: /2 people/ }).waitFor();
    assert.equal(new URL(ann.page.url()).hash, '#den');
    await bob.say('for den');
    await ann.sees('for den');
    await ann.room('lobby');
    await bob.say('while you are elsewhere');
    await rooms.getByRole('button', { name: 'den 1 new message' }).waitFor();
    await until(async () => (await ann.page.title()) === '(1) lobby · hubbub', 'the title counts it');
    await ann.room('den');
    await ann.page.locator('.news').waitFor();
    await until(async () => (await ann.page.title()) === 'den · hubbub', 'it is read');

    await ann.page.getByRole('button', { name: 'Leave this room' }).click();
    await ann.page.getByRole('heading', { level: 1, name: 'lobby' }).waitFor();
    await bob.page.getByRole('complementary', { name: '1 person' }).waitFor();

    await rooms.getByRole('button', { name: /^den/ }).hover();
    await rooms.getByRole('button', { name: 'Leave lobby and enter den' }).click();
    await ann.page.getByRole('heading', { level: 1, name: 'den' }).waitFor();
    await bob.page.getByRole('complementary', { name: /2 people/ }).waitFor();
    assert.equal(await rooms.locator('#joined-list li').count(), 1);
    await ann.sees('while you are elsewhere');
    calm(ann, bob);
  });

  test('are found, started, linked to, and reached by the browser’s own back', async () => {
    const ann = await arrive('ann');
    const finder = ann.page.getByRole('textbox', { name: 'Find a room, or name a new one' });
    await finder.fill('größe 1');
    await ann.page.getByRole('button', { name: 'Start größe 1' }).waitFor();
    await finder.press('Enter');
    await ann.page.getByRole('heading', { level: 1, name: 'größe 1' }).waitFor();
    await ann.page.getByRole('heading', { name: 'It is quiet in here' }).waitFor();
    await ann.page.getByRole('button', { name: 'Copy a link to this room' }).click();
    await ann.page.getByText('Link copied.').waitFor();
    const link = await ann.page.evaluate(() => navigator.clipboard.readText());
    assert.equal(link, ann.page.url());

    const bob = await arrive('bob', { room: decodeURIComponent(new URL(link).hash.slice(1)) });
    await bob.say('found it');
    await ann.sees('found it');
    await ann.page.goBack();
    await ann.page.getByRole('heading', { level: 1, name: 'lobby' }).waitFor();

    await finder.fill('€'.repeat(50)); // 150 bytes
    await finder.press('Enter');
    await ann.page.getByText(/^You are not in this room\./).waitFor();
    assert.ok(await ann.composer.isDisabled());
    calm(ann, bob);
  });

  test('are named by a link in either form, also where the name has an equals sign', async () => {
    const ann = await arrive(null, { fragment: 'room=team-1' });
    assert.equal(await ann.page.locator('#room-input').inputValue(), 'team-1');
    await ann.enter('ann');
    const open = async (name, hash) => {
      await ann.page.getByRole('heading', { level: 1, name, exact: true }).waitFor();
      await until(() => new URL(ann.page.url()).hash === hash, `the address is ${hash}`);
    };
    await open('team-1', '#team-1');
    for (const [hash, name] of [['#room=den', 'den'], ['#lobby', 'lobby'], ['#room%3Dden', 'room=den']]) {
      await ann.page.evaluate((to) => location.assign(to), hash);
      await open(name, `#${encodeURIComponent(name)}`);
    }
    await ann.page.reload();
    await ann.online();
    await open('room=den', '#room%3Dden');
    assert.deepEqual(await ann.page.locator('#joined-list [data-act="open"]').evaluateAll((rows) => rows.map((row) => row.dataset.room)), ['team-1', 'den', 'lobby', 'room=den']);
    calm(ann);
  });

  test('with a long past are read page by page, and the page stays small', async () => {
    const talker = await line('talker', 'lobby');
    const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => `number ${from + at}`);
    await talker.sayAll('lobby', numbers(1, 900));
    const ann = await arrive('ann');
    await ann.sees('number 900');
    const scroll = (top) => ann.log.evaluate((log, to) => log.scrollTo(0, to), top);
    await until(async () => {
      await scroll(0);
      return (await ann.page.locator('#top').textContent()) === 'The beginning of lobby.';
    }, 'the beginning is reached');
    assert.deepEqual(await ann.texts(), numbers(1, 900));

    await talker.sayAll('lobby', numbers(901, 1_300));
    await ann.page.getByRole('button', { name: /400 new messages/ }).waitFor();
    assert.ok((await ann.page.locator('.message').count()) <= 1_000);
    await ann.page.getByRole('button', { name: /400 new messages/ }).click();
    await ann.sees('number 1300');
    await until(async () => (await ann.log.evaluate((log) => log.scrollHeight - log.clientHeight - log.scrollTop)) < 2, 'the end is in sight');
    const shown = await ann.texts();
    assert.ok(shown.length <= 1_000);
    assert.deepEqual(shown, numbers(1_300 - shown.length + 1, 1_300), 'in order, without a hole');
    await talker.say('lobby', 'one more');
    await ann.sees('one more');
    calm(ann);
  });

  test('do not jump while someone reads further up', async () => {
    const talker = await line('talker', 'lobby');
    await talker.sayAll('lobby', Array.from({ length: 120 }, (_, at) => `number ${at + 1}`));
    const ann = await arrive('ann');
    await ann.sees('number 120');
    const message = ann.page.locator('.message', { hasText: 'number 75' });
    await message.evaluate((node) => node.scrollIntoView({ block: 'start' }));
    await until(async () => (await ann.texts()).length > 70, 'older messages are there');
    const before = (await message.boundingBox()).y;
    await talker.say('lobby', 'news');
    await ann.page.getByRole('button', { name: '1 new message', exact: true }).waitFor();
    assert.ok(Math.abs((await message.boundingBox()).y - before) < 2);
    calm(ann);
  });
});

describe('when the connection fails', () => {
  test('killed and started again, the server has everything, once, and the page what was written meanwhile', async () => {
    const ann = await arrive('ann');
    const bob = await arrive('bob');
    for (const text of ['one', 'two', 'three']) await ann.say(text);
    await bob.sees('three');
    await ann.page.getByText(/^Stored/).waitFor();
    assert.equal(await server.stop(), 'SIGKILL');
    await ann.page.locator('.app[data-phase="waiting"]').waitFor();
    await ann.say('written while it was away');
    await server.start();
    const talker = await line('talker', 'lobby');
    await talker.say('lobby', 'first after it');
    for (const person of [ann, bob]) {
      await person.reconnect();
      await person.sees('written while it was away');
      await person.sees('first after it');
    }
    await bob.say('after');
    await ann.sees('after');
    for (const person of [ann, bob]) {
      const texts = await person.texts();
      assert.deepEqual(texts.slice(0, 3), ['one', 'two', 'three']);
      assert.deepEqual([...texts].sort(), ['after', 'first after it', 'one', 'three', 'two', 'written while it was away']);
      assert.equal(await person.page.locator('.break').count(), 0, 'positions that were passed over are no gap');
      assert.deepEqual(person.complaints({ connectionsFail: true }), []);
    }
    const late = await arrive('late');
    await late.sees('after');
    assert.deepEqual(await late.texts(), await ann.texts());
  });

  test('what has not been answered survives a reload, and is sent once', async () => {
    const ann = await arrive('ann');
    const bob = await arrive('bob');
    await ann.say('before');
    await bob.sees('before');
    await ann.page.evaluate(() => {
      WebSocket.prototype.send = () => {}; // as when the network takes what is written and loses it
    });
    await ann.say('on its way');
    await ann.say('and this');
    await ann.page.getByText('Sending…').first().waitFor();
    await ann.page.reload();
    await ann.online();
    await ann.sees('and this');
    await bob.sees('and this');
    for (const person of [ann, bob]) assert.deepEqual(await person.texts(), ['before', 'on its way', 'and this']);
    await ann.page.reload();
    await ann.sees('and this');
    assert.deepEqual(await ann.texts(), ['before', 'on its way', 'and this'], 'not once more');
    calm(ann, bob);
  });

  test('a restarted server that keeps nothing is found again, the break is marked, and talk goes on', async () => {
    await serverWith('--history', 'memory');
    const ann = await arrive('ann');
    const bob = await arrive('bob');
    await ann.say('before');
    await bob.sees('before');
    assert.equal(await server.stop(), 'SIGKILL');
    await ann.page.getByText(/Reconnecting in \d+ s\./).waitFor();
    await ann.page.getByRole('status').getByText('Connection lost. Reconnecting.').waitFor();
    await ann.say('written while it was away');
    await ann.page.getByText('Waiting to be sent').waitFor();
    await ann.picture('reconnecting');
    await server.start();
    for (const person of [ann, bob]) {
      await person.page.getByText('The server restarted. Messages sent in between may be missing.').waitFor();
      await person.sees('written while it was away');
      await person.online();
    }
    await bob.say('after');
    await ann.sees('after');
    for (const person of [ann, bob]) assert.deepEqual(await person.texts(), ['before', 'written while it was away', 'after']);
    for (const person of [ann, bob]) assert.deepEqual(person.complaints({ connectionsFail: true }), []);
  });

  test('a server that stops says so, and the pages come back when it does', async () => {
    const ann = await arrive('ann');
    await ann.say('before');
    await ann.sees('before');
    assert.equal(await server.stop('SIGTERM'), 0);
    await ann.page.getByText(/The server is restarting\. Reconnecting in \d+ s\./).waitFor();
    await server.start();
    await ann.page.getByRole('button', { name: 'Retry now' }).click();
    await ann.online();
    await ann.say('after');
    await ann.sees('after');
    assert.deepEqual(await ann.texts(), ['before', 'after']);
    assert.deepEqual(ann.complaints({ connectionsFail: true }), []);
  });

  test('what was said meanwhile is there once and in order, and nothing is marked', async () => {
    const proxy = await proxyBefore();
    const ann = await arrive('ann', { port: proxy.port });
    const bob = await arrive('bob');
    await bob.say('1');
    await ann.sees('1');
    for (let round = 0; round < 3; round += 1) {
      proxy.shut();
      await ann.page.locator('.app[data-phase="waiting"]').waitFor();
      await bob.say(`${round} missed`);
      await bob.say(`${round} missed too`);
      await bob.sees(`${round} missed too`);
      await ann.say(`${round} from ann`);
      proxy.reopen();
      await ann.reconnect();
      await ann.sees(`${round} from ann`);
      await bob.sees(`${round} from ann`);
    }
    const expected = ['1', ...[0, 1, 2].flatMap((round) => [`${round} missed`, `${round} missed too`, `${round} from ann`])];
    assert.deepEqual(await ann.texts(), expected);
    assert.deepEqual(await bob.texts(), expected);
    assert.equal(await ann.page.locator('.break').count(), 0);
    assert.deepEqual(ann.complaints({ connectionsFail: true }), []);
    calm(bob);
  });

  test('cut in the middle of a flood, nothing is lost, doubled or out of order', async () => {
    const proxy = await proxyBefore();
    const ann = await arrive('ann', { port: proxy.port });
    const talker = await line('talker', 'lobby');
    const expected = [];
    for (let burst = 0; burst < 8; burst += 1) {
      const texts = Array.from({ length: 40 }, (_, at) => `${burst}.${at}`);
      expected.push(...texts);
      const said = talker.sayAll('lobby', texts);
      proxy.cut();
      await said;
      await ann.reconnect();
    }
    await ann.sees('7.39');
    assert.deepEqual(await ann.texts(), expected);
    assert.deepEqual(ann.complaints({ connectionsFail: true }), []);
  });

  test('what is no longer kept is marked as gone', async () => {
    await serverWith('--history', 'memory');
    const proxy = await proxyBefore();
    const ann = await arrive('ann', { port: proxy.port });
    const talker = await line('talker', 'lobby');
    await talker.say('lobby', 'seen');
    await ann.sees('seen');
    proxy.shut();
    await ann.page.locator('.app[data-phase="waiting"]').waitFor();
    await talker.sayAll('lobby', Array.from({ length: 1_250 }, (_, at) => `number ${at + 1}`));
    proxy.reopen();
    await ann.reconnect();
    await ann.sees('number 1250');
    const gone = ann.page.getByText(/^[\d,]+ messages from here are no longer kept\.$/);
    await until(async () => {
      await ann.page.locator('.break:not(.quiet-break)').scrollIntoViewIfNeeded({ timeout: 500 }).catch(() => {}); // it may just be drawn anew
      if (await gone.isVisible()) return true;
      await ann.page.getByRole('button', { name: 'Load' }).click({ timeout: 500 }).catch(() => {}); // it may just be loading
      return false;
    }, 'all that is kept is there');
    assert.equal((await ann.texts())[0], 'seen');
    const numbers = (await ann.texts()).filter((text) => text !== 'seen').map((text) => Number(text.slice(7)));
    assert.deepEqual(numbers, Array.from({ length: numbers.length }, (_, at) => numbers[0] + at));
    assert.ok(numbers[0] > 1 && numbers.length > 500, `${numbers.length} from ${numbers[0]}`);
    await ann.page.getByRole('button', { name: 'Latest messages' }).click();
    await ann.sees('number 1250');
    assert.deepEqual(ann.complaints({ connectionsFail: true }), []);
  });
});

describe('the name', () => {
  test('is asked for once, remembered, and can be changed', async () => {
    const ann = await arrive(null);
    await ann.page.getByRole('button', { name: 'Enter' }).click();
    await ann.page.getByRole('alert').getByText('A name is needed').waitFor();
    await ann.enter('ann');
    await ann.page.reload();
    await ann.online();
    await ann.page.getByRole('button', { name: 'Change your name' }).click();
    await ann.page.getByRole('button', { name: 'Cancel' }).click();
    await ann.page.getByRole('button', { name: 'Change your name' }).click();
    await ann.enter('anna');
    await ann.page.getByRole('complementary').getByText('anna', { exact: true }).waitFor();
    calm(ann);
  });

  test('is asked for again in a second tab, so that two tabs can talk', async () => {
    const ann = await arrive('ann');
    const second = await ann.newTab();
    await second.goto(ann.page.url());
    await second.getByText('You are here in another tab.').waitFor();
    await second.getByRole('textbox', { name: 'Your name' }).fill('ann’s other self');
    await second.getByRole('button', { name: 'Enter' }).click();
    await second.getByText('2 people', { exact: true }).first().waitFor();
    await second.locator('#composer-input').fill('hello, me');
    await second.locator('#composer-input').press('Enter');
    await ann.sees('hello, me');
    calm(ann);
  });

  test('that the server refuses is asked for again, with the reason', async () => {
    const ann = await arrive(null);
    await ann.page.getByRole('textbox', { name: 'Your name' }).fill('a\u202eb');
    await ann.page.getByRole('button', { name: 'Enter' }).click();
    await ann.page.getByRole('alert').getByText(/control character/).waitFor();
    await ann.enter('ann');
    calm(ann);
  });
});

describe('a token', () => {
  test('is asked for where a name is not enough, opens a private room, and no other', async () => {
    const key = await serverWithKey();
    const ann = await arrive(null, { room: 'team-1' });
    await ann.page.getByRole('textbox', { name: 'Your name' }).fill('ann');
    await ann.page.getByRole('button', { name: 'Enter' }).click();
    await ann.page.getByRole('alert').getByText('This server asks for a token. Paste the one you were given.').waitFor();
    assert.ok(!(await ann.page.locator('body').innerText()).includes('`'), 'what programs are told is not shown');
    await ann.picture('token-asked-light');
    await ann.page.getByRole('textbox', { name: 'Token' }).fill('ann');
    await ann.page.getByRole('button', { name: 'Enter' }).click();
    await ann.page.getByRole('alert').getByText('This is no token.').waitFor();
    const other = new Key();
    leaving.push(() => other.end());
    await ann.show(other.mint('ann'));
    await ann.page.getByRole('alert').getByText(/signature is wrong|has no key/).waitFor();

    await ann.show(key.mint('ann', ['team-*=member'], '--name', 'Ann A.'));
    await ann.online();
    await ann.say('behind closed doors');
    await ann.sees('behind closed doors');
    assert.equal(await ann.page.locator('.toast').count(), 0, 'an inbox that the token does not open is no news');
    assert.deepEqual([await ann.page.locator('#self-name').textContent(), await ann.page.locator('#self-state').textContent()], ['Ann A.', 'ann · Online']);

    await ann.page.getByRole('textbox', { name: 'Find a room, or name a new one' }).fill('lobby');
    await ann.page.keyboard.press('Enter');
    await ann.page.locator('#banner').getByText(/^You are not in this room\. /).waitFor();
    await ann.page.locator('#toasts').getByText(/^You may not enter lobby: /).waitFor();
    assert.equal(await ann.composer.isDisabled(), true);
    assert.equal(await ann.page.locator('#people-list li').count(), 0);
    assert.equal(await ann.page.locator('#subtitle').textContent(), '');
    await ann.page.getByRole('button', { name: 'Leave this room' }).click();
    await ann.page.getByRole('heading', { level: 1, name: 'team-1' }).waitFor();
    await ann.page.reload();
    await ann.online();
    await ann.sees('behind closed doors');
    calm(ann);
  });

  test('comes by a link, leaves the address at once, stays in the tab, and is forgotten when one signs out', async () => {
    const key = await serverWithKey();
    const token = key.mint('ann', ['den=member', '@bob=member']);
    const ann = await arriveBy(token, { room: 'den' });
    await ann.online();
    assert.equal(new URL(ann.page.url()).hash, '#den');
    await ann.whisper('bob', 'psst, Bob');
    await ann.sees('psst, Bob');
    await ann.room('den');
    const remembered = () => ann.page.evaluate(() => [JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage })]);
    const secret = token.split('.')[2];
    for (const text of [secret, 'psst']) assert.deepEqual((await remembered()).map((all) => all.includes(text)), [false, true], text);
    await ann.page.reload();
    await ann.online();

    await ann.page.evaluate((hash) => location.assign(hash), `#token=${key.mint('bob', ['den=member'])}`);
    await ann.page.getByText('This link makes you bob.').waitFor();
    assert.ok(!ann.page.url().includes('token'), 'nor does it stay when the page is open already');
    await ann.page.getByRole('button', { name: 'Cancel' }).click();

    await ann.page.getByRole('button', { name: 'Your token' }).click();
    assert.deepEqual(await accessibilityFaults(ann.page), [], 'with the field for a token');
    await ann.picture('token-light');
    await ann.page.getByRole('button', { name: 'Sign out' }).click();
    await ann.page.getByRole('textbox', { name: 'Token' }).waitFor();
    assert.equal((await remembered()).some((text) => text.includes(secret) || text.includes('psst')), false);
    await ann.page.waitForFunction(() => document.querySelectorAll('#joined-list li').length === 0); // with the next frame
    await ann.page.reload();
    await ann.page.getByRole('dialog', { name: 'hubbub' }).waitFor();
    calm(ann);
  });

  test('of a link is asked about first where the browser knows someone else', async () => {
    const key = await serverWithKey();
    const linkOf = (user) => `http://127.0.0.1:${server.port}/#token=${key.mint(user, ['lobby=member'])}&room=lobby`;
    const self = (page) => page.locator('#self-name').textContent();
    const ann = await arriveBy(key.mint('ann', ['lobby=member']));
    await ann.online();
    const comeBy = async (page, link) => {
      await page.goto('about:blank'); // or the page that is there would go on
      await page.goto(link);
    };
    await comeBy(ann.page, linkOf('bob'));
    await ann.page.getByText('This link makes you bob.').waitFor();
    assert.ok(!ann.page.url().includes('token'));
    await ann.page.getByRole('button', { name: 'Cancel' }).click();
    await ann.online();
    assert.equal(await self(ann.page), 'ann', 'her tab goes on');
    await comeBy(ann.page, linkOf('ann'));
    await ann.online();
    await comeBy(ann.page, linkOf('bob'));
    await ann.page.getByText('This link makes you bob.').waitFor();
    await ann.page.getByRole('button', { name: 'Enter' }).click();
    await ann.online();
    assert.equal(await self(ann.page), 'bob');

    const eve = await arrive(null);
    await eve.page.getByRole('textbox', { name: 'Your name' }).fill('eve');
    await eve.page.getByRole('button', { name: 'Enter' }).click();
    await eve.page.getByRole('textbox', { name: 'Token' }).waitFor();
    const second = await eve.newTab();
    await second.goto(linkOf('bob'));
    await second.getByText('This link makes you bob.').waitFor();
    await second.keyboard.press('Escape');
    await second.getByText('You are here in another tab.').waitFor();
    calm(ann, eve);
  });

  test('that ends soon is renewed where one is; that has expired is asked for, and nothing is missed', async () => {
    const key = await serverWithKey();
    const mint = (ttl) => key.mint('ann', ['lobby=member'], '--ttl', ttl);
    const bob = await line({ token: key.mint('bob') }, 'lobby');
    const ann = await arriveBy(mint('50s'));
    await ann.online();
    await ann.page.evaluate(() => {
      globalThis.phases = new Set();
      const app = document.getElementById('app');
      new MutationObserver(() => globalThis.phases.add(app.dataset.phase)).observe(app, { attributeFilter: ['data-phase'] });
    });
    await ann.page.getByText(/^Your token ends in \d+ s\.$/).waitFor();
    await until(async () => (await ann.page.locator('#announcer').textContent()) === 'Your token ends within a minute.', 'it is announced');
    await ann.picture('token-ends-light');
    await ann.page.getByRole('button', { name: 'Use a fresh token' }).click();
    await ann.page.getByRole('textbox', { name: 'Token' }).fill(mint('50s').replace(/.{4}$/, 'AAAA'));
    await ann.page.getByRole('button', { name: 'Enter' }).click();
    await ann.page.getByRole('alert').getByText(/signature/).waitFor();
    await ann.show(mint('3m'));
    await ann.page.getByText('Your fresh token is in use.').waitFor();
    await ann.page.locator('#banner').waitFor({ state: 'hidden' });
    await ann.say('still here');
    await ann.sees('still here');
    assert.deepEqual(await ann.page.evaluate(() => [...globalThis.phases].filter((phase) => phase !== 'online')), [], 'the connection stayed');

    await ann.page.getByRole('button', { name: 'Your token' }).click();
    await ann.show(mint('2s'));
    await ann.page.locator('#banner').getByText('Your token has expired.').waitFor();
    await bob.say('lobby', 'while you were away');
    await ann.page.getByRole('button', { name: 'Use a fresh token' }).click();
    await ann.show(mint('1h'));
    await ann.sees('while you were away');
    await ann.online();
    assert.deepEqual(await ann.texts(), ['still here', 'while you were away']);
    calm(ann);
  });

  test('of a guest lets one read, and a fresh one write', async () => {
    const key = await serverWithKey();
    const ann = await arriveBy(key.mint('ann', ['lobby=guest']));
    await ann.online();
    assert.deepEqual([await ann.composer.isDisabled(), await ann.composer.getAttribute('placeholder')], [true, 'You may read here']);
    await ann.page.getByRole('button', { name: 'Your token' }).click();
    await ann.show(key.mint('ann', ['lobby=member']));
    await until(async () => !(await ann.composer.isDisabled()), 'she may write');
    await ann.say('my first words');
    await ann.sees('my first words');
    calm(ann);
  });
});

describe('whoever is kept out', () => {
  test('of a room by a fresh token is told so', async () => {
    const key = await serverWithKey();
    const ann = await arriveBy(key.mint('ann', ['lobby=member']));
    await ann.online();
    await ann.page.getByRole('button', { name: 'Your token' }).click();
    await ann.show(key.mint('ann', ['den=member']));
    await ann.page.locator('#banner-text').getByText('You may no longer be in this room.', { exact: true }).waitFor();
    await ann.picture('no-longer-light');
    calm(ann);
  });

  test('of the server by token may try again with it, is told why not, and comes back once the ban is lifted', async () => {
    const admin = new AdminKey();
    leaving.push(() => admin.end());
    const key = await serverWithKey(...admin.flags);
    const ann = await arriveBy(key.mint('ann', ['lobby=member']));
    await ann.online();
    await admin.post(server, 'users/ann/ban', { for_ms: 3_600_000, reason: 'no `spam`' });
    const banner = ann.page.locator('#banner');
    await banner.getByText('Your access was withdrawn (a ban, or a revoked token).').waitFor();
    await banner.getByRole('button', { name: 'Use a fresh token' }).waitFor();
    await ann.picture('withdrawn-light');
    assert.deepEqual(await accessibilityFaults(ann.page), []);
    await banner.getByRole('button', { name: 'Try again' }).click();
    await banner.getByText(/^You are banned from this server until [^(`]*\d\d:\d\d: no spam\.$/).waitFor();
    await ann.picture('banned-from-server-light');
    await ann.page.reload();
    await banner.getByText(/^You are banned from this server/).waitFor();
    await admin.post(server, 'users/ann/unban');
    await banner.getByRole('button', { name: 'Try again' }).click();
    await ann.online();
    calm(ann);
  });

  test('of the server by name may try again under it, and is told why not', async () => {
    const admin = new AdminKey();
    leaving.push(() => admin.end());
    await serverWith(...admin.flags);
    const ann = await arrive('ann', PHONE);
    await admin.post(server, 'users/ann/ban');
    const banner = ann.page.locator('#banner');
    await banner.getByText(/^Your access was withdrawn/).waitFor();
    assert.deepEqual(await banner.getByRole('button').allTextContents(), ['Try again'], 'tokens are not spoken of');
    await ann.picture('withdrawn-phone-light');
    await banner.getByRole('button', { name: 'Try again' }).click();
    await ann.page.getByRole('alert').getByText('You are banned from this server until someone lifts it.').waitFor();
    await admin.post(server, 'users/ann/unban');
    await ann.page.getByRole('button', { name: 'Enter' }).click();
    await ann.online();
    calm(ann);
  });
});

describe('a host', () => {
  test('kicks, mutes and bans, closes the room, and is told what was refused', async () => {
    const key = await serverWithKey();
    const ann = await arriveBy(key.mint('ann', ['lobby=host']));
    const eve = await arriveBy(key.mint('eve', ['lobby=member', 'den=member']));
    for (const person of [ann, eve]) await person.online();
    assert.equal(await eve.page.getByRole('button', { name: /^(Kick|Close this room)/ }).count(), 0, 'members do not moderate');
    const moderate = async (act, time) => {
      await ann.page.getByRole('button', { name: 'Kick, ban or mute eve' }).click();
      const dialog = ann.page.getByRole('dialog', { name: 'eve in lobby' });
      await dialog.getByRole('radio', { name: new RegExp(`^${act} `) }).check();
      if (time) await dialog.getByRole('combobox', { name: 'How long' }).selectOption(time);
      if (act === 'Ban') assert.deepEqual(await accessibilityFaults(ann.page), [], 'with the dialog');
      if (act === 'Ban') await ann.picture('moderation-light');
      await dialog.getByRole('button', { name: act, exact: true }).click();
      return dialog;
    };

    await moderate('Mute', 'for 10 minutes');
    await ann.page.getByText('Muted eve for 10 minutes.').waitFor();
    await eve.say('can you hear me?');
    await eve.page.getByText(/^Not sent\. .*muted.* until [^(]*\d\d:\d\d\./).waitFor();
    await moderate('Unmute');
    await ann.page.getByText('Unmuted eve.').waitFor();
    await eve.page.getByRole('button', { name: 'Retry' }).click();
    await ann.sees('can you hear me?');

    await moderate('Kick');
    await ann.page.getByText('Kicked eve.').waitFor();
    await eve.page.locator('#banner').getByText('You are not in this room. You were put out by ann.').waitFor();
    assert.equal(await eve.composer.isDisabled(), true);
    await eve.page.getByRole('button', { name: 'Try again' }).click();
    await eve.online();

    await moderate('Ban', 'for 1 hour');
    await eve.page.locator('#banner').getByText(/You were banned by ann until /).waitFor();
    await eve.picture('banned-light');
    await eve.page.getByRole('button', { name: 'Try again' }).click();
    await eve.page.locator('#toasts').getByText(/^You may not enter lobby: .*bann/).waitFor();

    await ann.page.getByRole('button', { name: 'Close this room for everyone' }).click();
    await ann.page.getByRole('dialog', { name: 'Close lobby for everyone?' }).getByRole('button', { name: 'Keep it open' }).click();
    await ann.say('last words');
    await ann.sees('last words');
    await ann.page.getByRole('button', { name: 'Close this room for everyone' }).click();
    await ann.page.getByRole('dialog', { name: 'Close lobby for everyone?' }).getByRole('button', { name: 'Close the room' }).click();
    await ann.page.locator('#banner').getByText('You are not in this room. A host closed this room.').waitFor();
    calm(ann, eve);
  });

  test('is told in the dialog when the server refuses', async () => {
    const key = await serverWithKey();
    const zoe = await line({ token: key.mint('zoe', ['lobby=host']) }, 'lobby');
    const ann = await arriveBy(key.mint('ann', ['lobby=host']), { ...PHONE, colorScheme: 'dark' });
    await ann.online();
    await ann.page.getByRole('button', { name: /^People/ }).click();
    await ann.page.getByRole('button', { name: 'Kick, ban or mute zoe' }).waitFor();
    await ann.page.getByRole('button', { name: 'Kick, ban or mute zoe' }).click();
    await ann.picture('moderation-phone-dark');
    assert.deepEqual(await accessibilityFaults(ann.page), [], 'on a phone, in the dark');
    await zoe.ask({ type: 'leave', room: 'lobby' });
    const dialog = ann.page.getByRole('dialog', { name: 'zoe in lobby' });
    await dialog.getByRole('button', { name: 'Kick', exact: true }).click();
    await dialog.getByRole('alert').getByText('This user is not in the room.').waitFor();
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    await ann.page.getByRole('button', { name: 'Close the list of people' }).click();
    await ann.picture('host-phone-dark');
    assert.ok(await ann.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing is wider than the screen');
    calm(ann);
  });
});

describe('unread messages', () => {
  test('are counted from where one stopped reading, also after the page was gone', async () => {
    const ann = await arrive('ann');
    const talker = await line('talker', 'lobby', 'den');
    await talker.say('den', 'read');
    await ann.page.goto(`${ann.page.url().split('#')[0]}#den`);
    await ann.sees('read');
    await until(async () => {
      const reader = await line('ann');
      return (await reader.ask({ type: 'join', room: 'den' })).unread === 0;
    }, 'the server knows what was read');
    await ann.room('lobby');
    await ann.page.goto('about:blank');
    await talker.sayAll('den', ['unread', 'unread too']);
    await ann.page.goBack();
    const rooms = ann.page.getByRole('navigation', { name: 'Rooms' });
    await rooms.getByRole('button', { name: 'den 2 new messages' }).waitFor();
    await ann.picture('unread');
    await ann.room('den');
    await ann.page.locator('.news').waitFor();
    const order = await ann.page.locator('.news, .message .text').allTextContents();
    assert.deepEqual(order, ['read', 'New', 'unread', 'unread too']);
    await rooms.getByRole('button', { name: /^den 2 new/ }).waitFor({ state: 'hidden' });
    calm(ann);
  });
});

describe('direct messages', () => {
  test('are between two, whether by a click or by a command, and wait for those who are away', async () => {
    const ann = await arrive('ann');
    const bob = await arrive('bob');
    const eve = await arrive('eve');
    await ann.page.getByRole('complementary').getByRole('button', { name: 'bob : write a direct message' }).click();
    await ann.page.getByRole('heading', { level: 1, name: 'bob' }).waitFor();
    await ann.say('psst, Bob');
    await ann.page.getByText('Stored').waitFor();
    const conversation = bob.page.getByRole('navigation', { name: 'Rooms' }).getByRole('button', { name: 'ann 1 new message' });
    await conversation.waitFor();
    await bob.picture('direct-arrived');
    await conversation.click();
    await bob.sees('psst, Bob');
    await bob.say('yes?');
    await ann.sees('yes?');
    await eve.whisper('ann', 'it is me, eve');
    await ann.page.getByRole('button', { name: 'eve 1 new message' }).waitFor();
    assert.deepEqual(await accessibilityFaults(ann.page), []);
    await ann.picture('direct');
    for (const person of [ann, bob]) assert.deepEqual(await person.texts(), ['psst, Bob', 'yes?']);
    assert.deepEqual(await eve.texts(), ['it is me, eve']);
    await ann.page.reload();
    await ann.sees('psst, Bob');
    assert.deepEqual(await ann.texts(), ['psst, Bob', 'yes?'], 'also what this browser sent');

    await bob.page.goto('about:blank');
    await ann.say('are you there?');
    await ann.page.getByText('Stored').waitFor();
    await bob.page.goBack();
    await bob.sees('are you there?');
    assert.deepEqual(await bob.texts(), ['psst, Bob', 'yes?', 'are you there?']);
    await bob.room('lobby');
    assert.deepEqual(await bob.texts(), [], 'nothing of it is in the room');
    calm(ann, bob, eve);
  });
});

describe('writing', () => {
  test('Enter sends, Shift+Enter begins a line, and drafts stay with their rooms', async () => {
    const ann = await arrive('ann');
    await ann.composer.pressSequentially('two');
    await ann.composer.press('Shift+Enter');
    await ann.composer.pressSequentially('lines');
    await ann.composer.press('Enter');
    await ann.sees('two\nlines');
    assert.equal(await ann.composer.inputValue(), '');
    await ann.composer.press('ArrowUp');
    assert.equal(await ann.composer.inputValue(), '');
    await ann.composer.fill('half a thought');
    await ann.page.goto(`${ann.page.url().split('#')[0]}#den`);
    await ann.page.getByRole('heading', { level: 1, name: 'den' }).waitFor();
    assert.equal(await ann.composer.inputValue(), '');
    await ann.room('lobby');
    assert.equal(await ann.composer.inputValue(), 'half a thought');
    calm(ann);
  });

  test('too much is not sent, and says by how much', async () => {
    const ann = await arrive('ann');
    await ann.composer.fill('€'.repeat(22_000));
    await ann.page.getByText(/^Too long by [\d,]+ bytes\.$/).waitFor();
    assert.ok(await ann.page.getByRole('button', { name: 'Send' }).isDisabled());
    await ann.composer.press('Enter');
    assert.equal(await ann.page.locator('.message').count(), 0);
    const long = '€'.repeat(21_000);
    await ann.composer.fill(long);
    await ann.page.getByText(/^[\d,]+ bytes left\.$/).waitFor();
    await ann.composer.press('Enter');
    await ann.page.getByRole('button', { name: 'Show all (21,000 characters)' }).click();
    await until(async () => (await ann.page.locator('.message:not(.outgoing) .text').textContent()) === long, 'all of it is shown');
    calm(ann);
  });
});

describe('everyone', () => {
  test('on a phone: nothing is wider than the screen, and the drawers open and close', async () => {
    const talker = await line(`talker-${'x'.repeat(50)}`, 'lobby');
    await talker.sayAll('lobby', ['w'.repeat(400), `https://a.example/${'path/'.repeat(60)}`, { long: 'j'.repeat(300) }, 'short']);
    const ann = await arrive('ann', PHONE);
    await ann.sees('short');
    await ann.say('m'.repeat(200));
    await ann.sees('m'.repeat(200));
    const overflow = () => ann.page.evaluate(() => {
      const wide = [...document.querySelectorAll('body *')].filter((node) => node.closest('.log') && node.getBoundingClientRect().right > innerWidth + 0.5);
      return { page: document.documentElement.scrollWidth - innerWidth, log: document.getElementById('log').scrollWidth - document.getElementById('log').clientWidth, wide: wide.map(({ className }) => className) };
    });
    assert.deepEqual(await overflow(), { page: 0, log: 0, wide: [] });
    await ann.picture('phone');

    const opener = ann.page.getByRole('button', { name: 'Rooms', exact: true });
    assert.equal(await ann.page.getByRole('navigation', { name: 'Rooms' }).count(), 0, 'closed, it is not there for anyone');
    await opener.click();
    const rooms = ann.page.getByRole('navigation', { name: 'Rooms' });
    await rooms.getByRole('button', { name: 'lobby' }).waitFor();
    assert.ok(await ann.page.getByRole('main').evaluate((main) => main.inert), 'what is behind cannot be reached');
    assert.deepEqual(await accessibilityFaults(ann.page), []);
    await ann.page.keyboard.press('Escape');
    await until(() => opener.evaluate((node) => node === document.activeElement), 'the focus is back');
    await ann.page.getByRole('button', { name: 'People: 2' }).click();
    await ann.page.getByRole('complementary', { name: '2 people' }).getByRole('button', { name: 'Close the list of people' }).click();
    await ann.page.getByRole('complementary').waitFor({ state: 'hidden' });
    assert.equal((await overflow()).page, 0);
    calm(ann);
  });

  test('with the keyboard alone: from the top of the page to a deleted message', async () => {
    const ann = await arrive('ann');
    for (const text of ['one', 'two', 'three']) await ann.say(text);
    await ann.sees('three');
    await ann.page.getByRole('link', { name: 'Skip to the message box' }).focus();
    await ann.page.keyboard.press('Enter');
    const focused = () => ann.page.evaluate(() => document.activeElement.id || document.activeElement.textContent);
    assert.equal(await focused(), 'composer-input', 'by the skip link');
    await ann.page.keyboard.press('Shift+Tab');
    assert.equal(await focused(), 'log');
    await ann.page.keyboard.press('ArrowUp');
    assert.match(await focused(), /three/);
    await ann.page.keyboard.press('ArrowUp');
    assert.match(await focused(), /two/);
    await ann.page.keyboard.press('Tab');
    assert.equal(await ann.page.evaluate(() => document.activeElement.getAttribute('aria-label')), 'Delete this message');
    await ann.page.keyboard.press('Enter');
    await ann.page.getByRole('dialog').getByRole('button', { name: 'Delete' }).focus();
    await ann.page.keyboard.press('Enter');
    await ann.page.getByText('This message was deleted.').waitFor();
    assert.deepEqual(await ann.texts(), ['one', 'three']);
    await ann.page.keyboard.press('Escape');
    assert.equal(await focused(), 'composer-input');
    calm(ann);
  });

  for (const colorScheme of ['light', 'dark']) {
    test(`in ${colorScheme} colours: names, roles and contrast are right in every state`, async () => {
      const ann = await arrive(null, { ...DESKTOP, colorScheme });
      assert.deepEqual(await accessibilityFaults(ann.page), [], 'at the entrance');
      await ann.picture(`entrance-${colorScheme}`);
      await ann.enter('ann');
      assert.deepEqual(await accessibilityFaults(ann.page), [], 'in an empty room');
      const talkers = ['Tess', 'Finn', 'Mara Lind', 'Jun', 'Cleo', 'Zoë', 'Ada', 'Ben'];
      assert.equal(new Set(talkers.map(client.hueOf)).size, 8, 'every colour of names is tried');
      for (const name of talkers) await (await line(name, 'lobby', 'den')).say('lobby', `I am ${name}, see https://a.example/`);
      await ann.say('Nice to meet you all');
      await ann.sees('Nice to meet you all');
      await ann.page.getByRole('complementary', { name: '9 people' }).waitFor();
      await ann.page.getByRole('button', { name: /^den/ }).waitFor();
      assert.deepEqual(await accessibilityFaults(ann.page), [], 'in a room of many');
      await ann.picture(`room-${colorScheme}`);
      await server.stop();
      await ann.page.getByText(/Reconnecting in/).waitFor();
      await ann.say('not yet sent');
      await ann.page.getByText('Waiting to be sent').waitFor();
      assert.deepEqual(await accessibilityFaults(ann.page), [], 'without a connection');
    });
  }

  test('gets the page with headers that forbid what is not its own', async () => {
    const answer = await fetch(`http://127.0.0.1:${server.port}/`);
    assert.match(answer.headers.get('content-security-policy'), /^default-src 'self'; connect-src 'self' ws: wss:/);
    assert.equal(answer.headers.get('x-content-type-options'), 'nosniff');
    assert.equal(answer.headers.get('referrer-policy'), 'no-referrer');
    const again = await fetch(`http://127.0.0.1:${server.port}/`, { headers: { 'if-none-match': answer.headers.get('etag') } });
    assert.equal(again.status, 304);
    const ann = await arrive('ann');
    const ran = await ann.page.evaluate(() => {
      const script = document.createElement('script');
      try {
        script.textContent = 'globalThis.ran = true';
        document.body.append(script);
      } catch {
        // Refused already when it was written, by Trusted Types.
      }
      return globalThis.ran ?? false;
    });
    assert.equal(ran, false);
  });
});
