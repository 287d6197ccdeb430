package main

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/veloq/veloq"
)

const (
	nameMax = 32   // bytes
	lineMax = 1024 // bytes, with its end
)

// hub is the whole chat: a room on each worker, and the names, which all of them share.
type hub struct {
	rooms    []*room // by worker; each is touched by that worker alone
	patience time.Duration

	// A mutex is fine on a worker as long as nobody parks (reads, writes, joins, sleeps) while
	// holding it: a second task of the same worker could never get it then.
	mu    sync.Mutex
	names map[string]bool
}

// room is what one worker knows: its own members, and the way to the other rooms.
type room struct {
	members map[*member]struct{}
	links   []*outbox // by worker; nil for its own
}

type member struct {
	name string
	out  *outbox
}

func newHub(workers int, patience time.Duration) *hub {
	h := &hub{patience: patience, names: map[string]bool{}}
	for range workers {
		r := &room{members: map[*member]struct{}{}, links: make([]*outbox, workers)}
		h.rooms = append(h.rooms, r)
	}
	for from, r := range h.rooms {
		for to := range h.rooms {
			if from != to {
				r.links[to] = newOutbox(h.carryTo(to))
			}
		}
	}
	return h
}

// carryTo returns the carrier of the link to another worker: a task there says the lines, and this
// one waits for it, so that at most one batch is under way.
func (h *hub) carryTo(worker int) carrier {
	return func(c *veloq.Context, lines []string, lost int) error {
		if lost > 0 {
			lines = append(lines, fmt.Sprintf("* %d lines were lost between workers\n", lost))
		}
		_, err := veloq.SpawnTo(c, worker, func(c *veloq.Context) (struct{}, error) {
			for _, line := range lines {
				h.rooms[worker].sayHere(c, line)
			}
			return struct{}{}, nil
		}).Join(c)
		return err
	}
}

// say brings a line to everybody. It never waits.
func (h *hub) say(c *veloq.Context, line string) {
	r := h.rooms[c.Worker()]
	r.sayHere(c, line)
	for _, link := range r.links {
		if link != nil {
			link.put(c, line)
		}
	}
}

func (r *room) sayHere(c *veloq.Context, line string) {
	for m := range r.members {
		m.out.put(c, line)
	}
}

// serve is a client's task.
func (h *hub) serve(c *veloq.Context, s *veloq.Stream) error {
	lines := bufio.NewReaderSize(s, lineMax)
	name, err := h.enter(s, lines)
	if err != nil {
		return err
	}
	defer h.release(name)

	m := &member{name: name, out: newOutbox(h.carryToClient(s))}
	r := h.rooms[c.Worker()]
	r.members[m] = struct{}{}
	h.say(c, "* "+name+" is here\n")
	defer func() {
		delete(r.members, m)
		h.say(c, "* "+name+" has left\n")
	}()
	for {
		line, err := readLine(lines)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			m.out.put(c, fmt.Sprintf("* a line has at most %d bytes; goodbye\n", lineMax-1))
			return m.out.flush(c)
		case err != nil:
			return err
		case line == "/quit":
			m.out.put(c, "* goodbye\n")
			return m.out.flush(c)
		case line == "/who":
			m.out.put(c, "* "+strings.Join(h.who(), " ")+"\n")
		case line != "":
			h.say(c, name+": "+line+"\n")
		}
	}
}

// carryToClient returns the carrier of a client's own lines. The write parks while the client does
// not read, which holds up this client's lines only.
func (h *hub) carryToClient(s *veloq.Stream) carrier {
	return func(_ *veloq.Context, lines []string, lost int) error {
		if lost > 0 {
			lines = append(lines, fmt.Sprintf("* %d lines were dropped: you read too slowly\n", lost))
		}
		if err := s.SetWriteDeadline(time.Now().Add(h.patience)); err != nil {
			return err
		}
		_, err := s.WriteString(strings.Join(lines, ""))
		if err != nil {
			_ = s.Close() // ends the client's task, which reads
		}
		return err
	}
}

// enter asks for a name until it gets a free one, and takes it.
func (h *hub) enter(s *veloq.Stream, lines *bufio.Reader) (string, error) {
	for {
		if _, err := s.WriteString("* your name?\n"); err != nil {
			return "", err
		}
		name, err := readLine(lines)
		if err != nil {
			return "", err
		}
		if name == "" || len(name) > nameMax || strings.ContainsAny(name, " /*:") {
			continue
		}
		if h.take(name) {
			return name, nil
		}
	}
}

func (h *hub) take(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.names[name] {
		return false
	}
	h.names[name] = true
	return true
}

func (h *hub) release(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.names, name)
}

func (h *hub) who() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.names))
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}
