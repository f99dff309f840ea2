package main

import (
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// room is a set of members. Its lock gives the messages their one order.
type room struct {
	mu      sync.Mutex
	members []*member
}

// member is one connection in its room.
type member struct {
	room   *room
	socket *websocket.Conn
	// Where it is among the room's members; guarded by the room's lock.
	place int

	mu     sync.Mutex
	queue  []outgoing
	queued int
	closed bool
	// Holds one token when the queue is not empty.
	wake chan struct{}
}

// outgoing is a message on its way. A room of one gets it as it is: there, preparing costs more than it saves.
type outgoing struct {
	prepared *websocket.PreparedMessage
	kind     int
	data     []byte
}

func (m *member) read() {
	for {
		kind, reader, err := m.socket.NextReader()
		if err != nil {
			return
		}
		data, err := readAll(reader)
		if err != nil || m.room.publish(kind, data) != nil {
			return
		}
	}
}

// readAll is io.ReadAll with a first guess that fits the messages of a chat.
func readAll(reader io.Reader) ([]byte, error) {
	data := make([]byte, 0, 256)
	for {
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
		n, err := reader.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (r *room) publish(kind int, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	message := outgoing{kind: kind, data: data}
	if len(r.members) > 1 {
		prepared, err := websocket.NewPreparedMessage(kind, data)
		if err != nil {
			return err
		}
		message.prepared = prepared
	}
	for _, member := range r.members {
		member.push(message)
	}
	return nil
}

func (m *member) push(message outgoing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.queued += len(message.data)
	if m.queued > outboxBytesMax {
		m.closed = true
		// Frees the writer from its write and the reader from its read; leaving follows.
		m.socket.Close()
		return
	}
	m.queue = append(m.queue, message)
	if len(m.queue) == 1 {
		m.wake <- struct{}{}
	}
}

// write sends what gathers in the queue, all with one write of the socket, until the connection ends.
func (m *member) write() {
	gathering := m.socket.UnderlyingConn().(*gatheringConn)
	var spare []outgoing
	for range m.wake {
		// Those who are ready to read may add to the queue first.
		runtime.Gosched()
		m.mu.Lock()
		batch := m.queue
		m.queue = spare[:0]
		m.queued = 0
		m.mu.Unlock()
		gathering.begin()
		failed := m.send(batch)
		if gathering.end() != nil || failed != nil {
			m.socket.Close()
			return
		}
		for i := range batch {
			batch[i] = outgoing{}
		}
		spare = batch
		if cap(spare) > 64 {
			spare = nil
		}
	}
}

func (m *member) send(batch []outgoing) error {
	for _, message := range batch {
		var err error
		if message.prepared != nil {
			err = m.socket.WritePreparedMessage(message.prepared)
		} else {
			err = m.socket.WriteMessage(message.kind, message.data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// close ends the member; its room knows it no more, so nobody pushes after it.
func (m *member) close() {
	m.mu.Lock()
	m.closed = true
	close(m.wake)
	m.mu.Unlock()
	m.socket.Close()
}

// gatheringListener hands out connections that can gather.
type gatheringListener struct{ net.Listener }

func (l gatheringListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &gatheringConn{Conn: conn}, nil
}

// gatheringConn puts several writes into one. gorilla writes each frame by itself; this is the place below it at which
// frames can be batched. Pongs and close frames come from the reading goroutine, hence the lock.
type gatheringConn struct {
	net.Conn
	mu        sync.Mutex
	gathering bool
	buffer    []byte
}

// buffers are lent to connections while they gather.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func (c *gatheringConn) begin() {
	c.mu.Lock()
	c.gathering = true
	c.buffer = (*buffers.Get().(*[]byte))[:0]
	c.mu.Unlock()
}

func (c *gatheringConn) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gathering = false
	err := c.flush()
	lent := c.buffer
	c.buffer = nil
	buffers.Put(&lent)
	return err
}

func (c *gatheringConn) Write(frame []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gathering {
		return c.Conn.Write(frame)
	}
	if len(c.buffer) > 0 && len(c.buffer)+len(frame) > writeBytesMax {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	c.buffer = append(c.buffer, frame...)
	return len(frame), nil
}

func (c *gatheringConn) flush() error {
	if len(c.buffer) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.buffer)
	c.buffer = c.buffer[:0]
	return err
}

// SetWriteDeadline does nothing: gorilla calls it before each frame, and slow readers are told by their queue.
func (c *gatheringConn) SetWriteDeadline(time.Time) error { return nil }
