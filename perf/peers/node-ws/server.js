// Verbatim relay rooms on Node.js and ws, as fast as we could make them: a benchmark opponent for hubbub.
//
// A WebSocket upgrade of /relay/{room}: every text or binary message goes as it came to every connection on that path,
// the sender included, in one order. Messages of a room gather, encoded once, while the event loop hands out what all
// sockets brought; then each member gets them with one write, and all members share one buffer. No heartbeats, no
// limits but the outbox, no other endpoint.

import { createServer } from "node:http";
import { Sender, WebSocketServer } from "ws";

const LISTEN_DEFAULT = "127.0.0.1:9100";
const BACKLOG = 4096;
const MESSAGE_BYTES_MAX = 64 * 1024;
// What may wait for a slow reader in this process; past it the connection is dropped.
const OUTBOX_BYTES_MAX = 1024 * 1024;
const TEXT = 1;
const BINARY = 2;

const rooms = new Map();
// Rooms with messages that were not written yet.
let dirty = [];

class Room {
  members = new Set();
  pending = [];

  publish(data, isBinary) {
    // The public, if undocumented, encoder of ws: the head of the frame, and the payload as it lies.
    const frame = Sender.frame(data, { fin: true, opcode: isBinary ? BINARY : TEXT, mask: false, readOnly: true });
    if (this.pending.length === 0) {
      if (dirty.length === 0) setImmediate(flushAll);
      dirty.push(this);
    }
    this.pending.push(...frame);
  }

  flush() {
    if (this.pending.length === 0) return;
    const bytes = Buffer.concat(this.pending);
    this.pending = [];
    for (const socket of this.members) {
      socket.write(bytes);
      if (socket.writableLength > OUTBOX_BYTES_MAX) socket.destroy();
    }
  }
}

// Runs after every socket that was readable in this turn of the loop has been read.
function flushAll() {
  const batch = dirty;
  dirty = [];
  for (const room of batch) room.flush();
}

function join(path, socket) {
  let room = rooms.get(path);
  if (room === undefined) rooms.set(path, (room = new Room()));
  // What was said before is not for the newcomer.
  room.flush();
  room.members.add(socket);
  return room;
}

function leave(path, room, socket) {
  room.members.delete(socket);
  if (room.members.size === 0 && rooms.get(path) === room) rooms.delete(path);
}

const relay = new WebSocketServer({
  noServer: true,
  perMessageDeflate: false,
  maxPayload: MESSAGE_BYTES_MAX,
  clientTracking: false,
});

const server = createServer((_, response) => response.writeHead(404).end());

server.on("upgrade", (request, socket, head) => {
  const path = request.url;
  if (!path.startsWith("/relay/")) {
    socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    return;
  }
  relay.handleUpgrade(request, socket, head, (websocket) => {
    // Frames are written whole and at once, by ws (pong, close) and by the room, so the two may share the socket.
    const room = join(path, socket);
    websocket.on("message", (data, isBinary) => room.publish(data, isBinary));
    websocket.on("close", () => leave(path, room, socket));
    websocket.on("error", () => socket.destroy());
  });
});

server.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});

const [host, port] = (process.argv[2] ?? LISTEN_DEFAULT).split(":");
server.listen({ host, port: Number(port), backlog: BACKLOG }, () => console.log(`listening on ${host}:${port}`));
process.on("SIGTERM", () => process.exit(0));
