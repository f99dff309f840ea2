// The real server, a proxy that can cut connections, people with browsers, and one without.

import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

const root = fileURLToPath(new URL('../..', import.meta.url));
const WAIT_MS = 30_000; // for machines that are busy with other things

/** Waits until `probe` gives something truthy, which it returns. */
export async function until(probe, what) {
  const end = performance.now() + WAIT_MS;
  for (;;) {
    const found = await probe();
    if (found) return found;
    if (performance.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resume) => setTimeout(resume, 25));
  }
}

function serverBinary() {
  if (process.env.HUBBUB_BIN) return path.resolve(root, process.env.HUBBUB_BIN);
  const built = ['release', 'debug'].map((profile) => path.join(root, 'target', profile, 'hubbub')).filter(existsSync);
  built.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
  if (built.length === 0) throw new Error('no server: run `cargo build` first, or name one in HUBBUB_BIN');
  return built[0];
}

async function freePort() {
  const holder = net.createServer();
  await new Promise((listening) => holder.listen(0, '127.0.0.1', listening));
  const { port } = holder.address();
  await new Promise((closed) => holder.close(closed));
  return port;
}

/** A key pair of its own: `flags` have a server check tokens with it, `mint` makes them. */
export class Key {
  #folder = mkdtempSync(path.join(tmpdir(), 'hubbub-key-'));

  constructor() {
    this.#run('keygen', '--out', path.join(this.#folder, 'app'));
    this.flags = ['--auth', 'token', '--token-key-files', path.join(this.#folder, 'app.pub.pem'), '--token-leeway', '0s'];
  }

  /** A token of `user`: who may do what in which rooms, as in `lobby=host`. */
  mint(user, rooms = [], ...more) {
    return this.#run('mint', '--key', path.join(this.#folder, 'app.pem'), '--sub', user, ...rooms.flatMap((room) => ['--room', room]), ...more).trim();
  }

  #run(...args) {
    return execFileSync(serverBinary(), ['token', ...args], { encoding: 'utf8', stdio: 'pipe' });
  }

  end() {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** A key to the admin API: `flags` have a server take it. */
export class AdminKey {
  #folder = mkdtempSync(path.join(tmpdir(), 'hubbub-admin-'));
  #secret = randomBytes(24).toString('hex');

  constructor() {
    const file = path.join(this.#folder, 'keys');
    writeFileSync(file, `ops:${this.#secret}\n`, { mode: 0o600 });
    this.flags = ['--admin-key-file', file];
  }

  async post(server, to, body = {}) {
    const headers = { authorization: `Bearer ${this.#secret}`, 'content-type': 'application/json' };
    const answer = await fetch(`http://127.0.0.1:${server.adminPort}/api/v1/${to}`, { method: 'POST', headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${to}: ${await answer.text()}`);
  }

  end() {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** A server of its own ports and data, which can be killed and started again on the same. */
export class Server {
  #process = null;
  #data = mkdtempSync(path.join(tmpdir(), 'hubbub-browser-'));
  #output = '';
  #flags;

  constructor(flags) {
    this.#flags = flags;
  }

  /** `flags`: what the server is told beside its ports and data. */
  static async start(...flags) {
    const server = new Server(flags);
    server.port = await freePort();
    server.tcpPort = await freePort();
    server.adminPort = await freePort();
    await server.start();
    return server;
  }

  async start() {
    const flags = { listen: this.port, 'tcp-listen': this.tcpPort, 'admin-listen': this.adminPort };
    const addresses = Object.entries(flags).flatMap(([flag, port]) => [`--${flag}`, `127.0.0.1:${port}`]);
    const child = spawn(serverBinary(), ['serve', ...addresses, '--data-dir', this.#data, '--shards', '2', ...this.#flags], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#process = child;
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (this.#output += text));
    let exited = null;
    child.on('exit', (code, signal) => (exited = signal ?? code));
    child.on('error', (error) => (exited = error.message));
    await until(async () => {
      if (exited !== null) throw new Error(`the server ended with ${exited}:\n${this.#output}`);
      const answer = await fetch(`http://127.0.0.1:${this.port}/healthz`).catch(() => null);
      return answer?.ok;
    }, 'the server is healthy');
  }

  /** Ends the server; says how it exited. */
  async stop(signal = 'SIGKILL') {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return null;
    const exit = new Promise((exited) => child.once('exit', (code, by) => exited(by ?? code)));
    child.kill(signal);
    return exit;
  }

  async end() {
    await this.stop();
    rmSync(this.#data, { recursive: true, force: true });
  }
}

/** Stands between a browser and the server; `cut` ends what is connected, `shut` also refuses what is new. */
export class Proxy {
  #sockets = new Set();
  #open = true;
  #listener;

  static async before(server) {
    const proxy = new Proxy();
    proxy.#listener = net.createServer((near) => proxy.#join(near, server.port));
    await new Promise((listening) => proxy.#listener.listen(0, '127.0.0.1', listening));
    proxy.port = proxy.#listener.address().port;
    return proxy;
  }

  #join(near, port) {
    if (!this.#open) {
      near.destroy();
      return;
    }
    const far = net.connect(port, '127.0.0.1');
    for (const [one, other] of [[near, far], [far, near]]) {
      this.#sockets.add(one);
      one.on('error', () => {});
      one.on('close', () => {
        this.#sockets.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  }

  cut() {
    for (const socket of this.#sockets) socket.destroy();
  }

  shut() {
    this.#open = false;
    this.cut();
  }

  reopen() {
    this.#open = true;
  }

  async end() {
    this.shut();
    await new Promise((closed) => this.#listener.close(closed));
  }
}

/** Someone who talks over TCP, a line at a time. */
export class Line {
  #socket;
  #events = [];
  #rest = '';
  #ids = 0;

  /** `who`: a name, or `{token}`. */
  static async connect(server, who, ...rooms) {
    const line = new Line();
    line.#socket = net.connect(server.tcpPort, '127.0.0.1');
    line.#socket.on('error', () => {});
    line.#socket.setEncoding('utf8');
    line.#socket.on('data', (text) => line.#read(text));
    await line.ask({ type: 'connect', ...(typeof who === 'string' ? { name: who } : who) });
    for (const room of rooms) await line.ask({ type: 'join', room });
    return line;
  }

  #read(text) {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop();
    for (const line of lines.filter(Boolean)) {
      const event = JSON.parse(line);
      if (event.type === 'ping') this.#write({ type: 'pong' });
      this.#events.push(event);
    }
  }

  #write(command) {
    this.#socket.write(`${JSON.stringify(command)}\n`);
  }

  /** Sends a command and waits for its ok. */
  async ask(command) {
    const id = (this.#ids += 1);
    this.#write({ ...command, id });
    const reply = await until(() => this.#events.find((event) => event.id === id), `${command.type} is answered`);
    if (reply.type === 'error') throw new Error(`${command.type}: ${reply.message}`);
    return reply;
  }

  say(room, content) {
    return this.ask({ type: 'message', room, content });
  }

  /** Says many things at once and waits for the last to be accepted. */
  async sayAll(room, contents) {
    for (const content of contents.slice(0, -1)) this.#write({ type: 'message', room, content });
    await this.say(room, contents.at(-1));
  }

  end() {
    this.#socket.destroy();
  }
}

export const DESKTOP = { viewport: { width: 1280, height: 800 } };
export const PHONE = { viewport: { width: 360, height: 680 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

export async function launchBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', ...(process.env.WEB ? ['--disable-features=LocalNetworkAccessChecks'] : [])],
  });
}

/** Has the page get the files of a folder, under the server's headers. */
async function serveFrom(page, folder) {
  await page.route((url) => /^\/([a-z]+\.(js|css))?$/.test(url.pathname), async (route) => {
    const { pathname } = new URL(route.request().url());
    const file = path.join(folder, pathname === '/' ? 'index.html' : pathname);
    const home = await route.fetch({ url: new URL('/', route.request().url()).href, headers: {} }).catch(() => null);
    if (!home) {
      await route.abort('connectionrefused');
      return;
    }
    const type = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' }[path.extname(file)];
    const { 'content-length': _length, etag: _etag, 'content-encoding': _encoding, ...headers } = home.headers();
    await route.fulfill({ path: file, headers: { ...headers, 'content-type': `${type}; charset=utf-8` } });
  });
}

/** A person with a browser of their own. `problems` gathers whatever the browser complains about. */
export class Person {
  problems = [];

  static async arrive(browser, port, name, { room = 'lobby', fragment = encodeURIComponent(room), ...options } = {}) {
    const person = new Person();
    person.name = name;
    person.context = await browser.newContext({ ...DESKTOP, locale: 'en-GB', ...options });
    await person.context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: `http://127.0.0.1:${port}` });
    person.page = await person.newTab();
    await person.page.goto(`http://127.0.0.1:${port}/#${fragment}`);
    if (name) await person.enter(name);
    return person;
  }

  async newTab() {
    const page = await this.context.newPage();
    page.setDefaultTimeout(WAIT_MS);
    page.on('pageerror', (error) => this.problems.push(`error: ${error.message}`));
    if (process.env.WEB) await serveFrom(page, path.resolve(root, process.env.WEB));
    page.on('dialog', (dialog) => {
      if (dialog.type() === 'beforeunload') {
        dialog.accept().catch(() => {});
        return;
      }
      this.problems.push(`dialog: ${dialog.message()}`);
      dialog.dismiss().catch(() => {});
    });
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') this.problems.push(`${message.type()}: ${message.text()}`);
    });
    return page;
  }

  /** A direct message, by the command. */
  async whisper(name, text) {
    await this.say(`/msg ${name} ${text}`);
    await this.page.getByRole('heading', { level: 1, name }).waitFor();
  }

  async enter(name) {
    await this.page.getByRole('textbox', { name: 'Your name' }).fill(name);
    await this.page.getByRole('button', { name: 'Enter' }).click();
    await this.online();
  }

  /** Shows a token to the dialog that is open. */
  async show(token) {
    await this.page.getByRole('textbox', { name: 'Token' }).fill(token);
    await this.page.getByRole('button', { name: 'Enter' }).click();
  }

  async online() {
    await this.page.locator('.app[data-phase="online"]').waitFor();
    await this.page.locator('#subtitle', { hasText: /pe(rson|ople)/ }).waitFor();
  }

  /** Comes back online without waiting for the next attempt, as when the network is back. */
  async reconnect() {
    await until(() => this.page.evaluate(() => {
      const { phase } = document.getElementById('app').dataset;
      if (phase === 'waiting') dispatchEvent(new Event('online'));
      return phase === 'online';
    }), 'the page is online again');
    await this.online();
  }

  get composer() {
    return this.page.locator('#composer-input');
  }

  get log() {
    return this.page.getByRole('log', { name: 'Messages' });
  }

  async say(text) {
    await this.composer.fill(text);
    await this.composer.press('Enter');
  }

  /** Waits until a message of exactly that text is shown and, for one's own, accepted. */
  async sees(text) {
    await this.page.locator('.message:not(.outgoing) .text').getByText(text, { exact: true }).first().waitFor();
  }

  /** The texts shown, top to bottom. */
  texts() {
    return this.page.locator('.message .text').allTextContents();
  }

  async room(name) {
    await this.page.getByRole('navigation', { name: 'Rooms' }).locator(`button[data-room="${name}"][data-act="open"]`).click();
    await this.page.getByRole('heading', { level: 1, name }).waitFor();
  }

  /** Complaints, but for those about connections that the test itself made fail. */
  complaints({ connectionsFail = false } = {}) {
    return this.problems.filter((text) => !(connectionsFail && /WebSocket connection to .* failed|ERR_CONNECTION|ERR_EMPTY_RESPONSE/.test(text)));
  }

  async picture(name) {
    if (!process.env.SHOTS) return;
    mkdirSync(process.env.SHOTS, { recursive: true });
    await this.page.screenshot({ path: path.join(process.env.SHOTS, `${name}.png`), animations: 'disabled' });
  }
}

const axe = readFileSync(new URL('./node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');

/** What axe finds wrong with the page as it is now. */
export async function accessibilityFaults(page) {
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, { resultTypes: ['violations'] });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, any }) => `${html.slice(0, 120)} ${any.map(({ message }) => message).join(' ')}`).join(' | ')}`);
  });
}
