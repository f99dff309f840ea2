// Verbatim relay rooms on Go and gorilla/websocket, as fast as we could make them: a benchmark opponent for hubbub.
//
// GET /relay/{room} upgrades to WebSocket; every text or binary message goes as it came to every connection on that
// path, the sender included, in one order. A goroutine per connection reads and another writes; a message is encoded
// once for all its receivers, and a writer sends all that waits in its queue with one write. No heartbeats, no limits
// but the outbox, no other endpoint.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/gorilla/websocket"
)

const (
	listenDefault   = "127.0.0.1:9100"
	messageBytesMax = 64 << 10
	// What may wait for a slow reader; past it the connection is closed.
	outboxBytesMax = 1 << 20
	// What a writer gathers before it writes.
	writeBytesMax = 64 << 10
	// As in hubbub: what the kernel holds hides slowness. The kernel doubles what it is given.
	sendBufferBytes = 128 << 10
	// Trades memory for fewer collections; Go's own default is 100.
	gcPercent = 400
)

func main() {
	address := listenDefault
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := serve(address); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(address string) error {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBufferBytes)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	listener, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr())
	hub := &hub{rooms: make(map[string]*room)}
	return http.Serve(gatheringListener{listener}, hub)
}

// hub holds all rooms of the process.
type hub struct {
	mu    sync.Mutex
	rooms map[string]*room
}

var upgrader = websocket.Upgrader{
	// Size 0 keeps the buffers that net/http has for the connection anyway. Writers share theirs.
	ReadBufferSize:  0,
	WriteBufferSize: 4096,
	WriteBufferPool: &sync.Pool{},
	CheckOrigin:     func(*http.Request) bool { return true },
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if !strings.HasPrefix(path, "/relay/") {
		http.NotFound(w, r)
		return
	}
	socket, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	socket.SetReadLimit(messageBytesMax)
	member := &member{socket: socket, wake: make(chan struct{}, 1)}
	member.room = h.join(path, member)
	go member.write()
	// In a goroutine of its own, so that what net/http holds for a request can be freed.
	go func() {
		member.read()
		h.leave(path, member)
	}()
}

func (h *hub) join(path string, m *member) *room {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := h.rooms[path]
	if found == nil {
		found = &room{}
		h.rooms[path] = found
	}
	found.mu.Lock()
	m.place = len(found.members)
	found.members = append(found.members, m)
	found.mu.Unlock()
	return found
}

func (h *hub) leave(path string, m *member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m.room.mu.Lock()
	last := len(m.room.members) - 1
	moved := m.room.members[last]
	m.room.members[m.place] = moved
	moved.place = m.place
	m.room.members[last] = nil
	m.room.members = m.room.members[:last]
	m.room.mu.Unlock()
	if last == 0 {
		delete(h.rooms, path)
	}
	m.close()
}
