package veloq

// Seeing: what tasks and connections there are and what they do, for people and for programs.

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/veloq/veloq/internal/debugtag"
)

// TaskInfo describes a task at a moment between two turns of its worker.
type TaskInfo struct {
	Worker int
	Name   string        // of Context.SetName
	State  string        // "parked", "runnable" (waits for its turn), "new" (has not begun)
	Age    time.Duration // since it came to its worker
	// With the build tag veloq_debug: what it waits in, and where it was made.
	Op, Created string
}

// ConnInfo describes a connection, datagram socket or listener at a moment between two turns of its
// worker.
type ConnInfo struct {
	Worker        int
	Network       string
	Local, Remote string
	Door          string // "task", "handler"
	State         string // "open", "connecting", "starved", "paused", "half-closed", "closed", "listening"
	Unread        int    // bytes received and not read
	Unsent        int    // bytes written that the kernel has not taken
	InFlight      int    // operations in the kernel
	// With the build tag veloq_debug: where it was opened, empty for a server's, and whether the task
	// that did so has ended and left it open, and no other waits in it.
	Created string
	Left    bool
}

// Snapshot is a look at a runtime. Each worker's part is of one moment, the parts are not.
type Snapshot struct {
	Workers []WorkerStats
	Tasks   []TaskInfo
	Conns   []ConnInfo
	// Silent are the workers that did not answer in time: they stay in some task or handler. Their
	// parts are empty.
	Silent []int
	// Misuses are the last 64 of what Config.OnMisuse is for, the latest last.
	Misuses []*MisuseError
}

// snapshotPart is one worker's answer.
type snapshotPart struct {
	worker int
	stats  WorkerStats
	tasks  []TaskInfo
	conns  []ConnInfo
}

// Snapshot looks at every worker between two of its turns. A worker that has not answered when ctx is
// done is in Silent. It returns ErrClosed after Close. limit bounds the tasks and the connections of
// each worker that are listed, the counters count all; negative is no limit, 0 lists none. Any
// goroutine, never a task. Blocks.
func (rt *Runtime) Snapshot(ctx context.Context, limit int) (*Snapshot, error) {
	answers := make(chan snapshotPart, len(rt.workers)) // room for late ones
	for _, w := range rt.workers {
		if !w.post(&note{do: func(w *worker) { answers <- w.part(limit) }}) {
			return nil, ErrClosed
		}
	}
	snap := &Snapshot{Workers: make([]WorkerStats, len(rt.workers)), Misuses: rt.misuses.list()}
	parts := make([]*snapshotPart, len(rt.workers))
	for range rt.workers {
		select {
		case p := <-answers:
			parts[p.worker] = &p
			continue
		case <-ctx.Done():
		case <-rt.closed:
			return nil, ErrClosed
		}
		break
	}
	for i, p := range parts {
		if p == nil {
			snap.Silent = append(snap.Silent, i)
			continue
		}
		snap.Workers[i] = p.stats
		snap.Tasks = append(snap.Tasks, p.tasks...)
		snap.Conns = append(snap.Conns, p.conns...)
	}
	return snap, nil
}

func (w *worker) part(limit int) snapshotPart {
	p := snapshotPart{worker: w.id, stats: w.snapshot()}
	if limit < 0 {
		limit = int(^uint(0) >> 1)
	}
	for t := w.live; t != nil && len(p.tasks) < limit; t = t.liveNext {
		p.tasks = append(p.tasks, t.describe(w))
	}
	for i := range w.slots.slots {
		if s, ok := w.slots.slots[i].owner.(socket); ok && len(p.conns) < limit {
			info := s.describe()
			info.Created, info.Left = s.madeBy().created(), s.left()
			p.conns = append(p.conns, info)
		}
	}
	return p
}

// taskNotes is what is kept about a task only if somebody asked for it.
type taskNotes struct {
	name    string
	created []uintptr
	parkedn int
	parked  [16]uintptr
}

func (t *task) noted() *taskNotes {
	if t.notes == nil {
		t.notes = &taskNotes{}
	}
	return t.notes
}

// noteCreation keeps the stack of who asked for the task, who called init by way of so many frames.
func (t *task) noteCreation(frames int) {
	const own = 3 // runtime.Callers, this function, init
	pcs := make([]uintptr, 32)
	t.noted().created = pcs[:runtime.Callers(own+frames, pcs)]
}

// notePark keeps the stack of what the task waits in.
func (t *task) notePark() {
	n := t.noted()
	n.parkedn = runtime.Callers(3, n.parked[:])
}

func (t *task) describe(w *worker) TaskInfo {
	info := TaskInfo{Worker: w.id, State: "parked", Age: time.Duration(w.timers.now - t.begun)}
	switch {
	case t.co == nil:
		info.State = "new"
	case t.queued:
		info.State = "runnable"
	}
	if n := t.notes; n != nil {
		info.Name = n.name
		if n.parkedn > 0 {
			info.Op = opName(n.parked[:n.parkedn])
		}
		if n.created != nil {
			info.Created = stackText(n.created)
		}
	}
	return info
}

const packagePrefix = "github.com/veloq/veloq."

// opName returns the outermost of this package's functions on a stack: what the task called.
func opName(pcs []uintptr) string {
	name := ""
	for frames := runtime.CallersFrames(pcs); ; {
		frame, more := frames.Next()
		rest, ours := strings.CutPrefix(frame.Function, packagePrefix)
		if !ours || strings.HasPrefix(rest, "(*coroutine)") || strings.HasSuffix(rest, ".runTask") {
			return name
		}
		name = rest
		if !more {
			return name
		}
	}
}

func stackText(pcs []uintptr) string {
	var b strings.Builder
	for frames := runtime.CallersFrames(pcs); ; {
		frame, more := frames.Next()
		fmt.Fprintf(&b, "%s\n\t%s:%d\n", frame.Function, frame.File, frame.Line)
		if !more {
			return b.String()
		}
	}
}

func (s *Stream) describe() ConnInfo {
	info := ConnInfo{
		Worker: s.w.id, Network: s.network.String(), Door: "task", State: "open",
		Unread: int(s.recv.bytes), Unsent: s.pending(), InFlight: int(s.inFlight),
	}
	if s.handled {
		info.Door = "handler"
	}
	switch {
	case s.closed:
		info.State = "closed"
	case s.connecting != nil:
		info.State = "connecting"
	case s.shutWanted:
		info.State = "half-closed"
	case s.starving:
		info.State = "starved"
	case s.paused:
		info.State = "paused"
	}
	if s.connecting == nil && !s.closed {
		if a := s.localAddr(); a != nil {
			info.Local = a.String()
		}
		if a := s.remoteAddr(); a != nil {
			info.Remote = a.String()
		}
	}
	return info
}

func (d *Datagram) describe() ConnInfo {
	info := ConnInfo{
		Worker: d.w.id, Network: d.network, Door: "task", State: "open",
		Unsent: int(d.out.bytes), InFlight: int(d.inFlight),
	}
	for i := d.recv.head; i < len(d.recv.unread); i++ {
		info.Unread += d.recv.unread[i].Data.Len()
	}
	if d.handled {
		info.Door = "handler"
	}
	switch {
	case d.closed:
		info.State = "closed"
	case d.recv.starving:
		info.State = "starved"
	case d.recv.paused:
		info.State = "paused"
	}
	if d.local != nil {
		info.Local = d.local.String()
	}
	if d.remote != nil {
		info.Remote = d.remote.String()
	}
	return info
}

func (l *Listener) describe() ConnInfo {
	info := ConnInfo{
		Worker: l.w.id, Network: l.network, Local: l.addr.String(), Door: "task", State: "listening",
		InFlight: int(boolInt(l.armed)),
	}
	if l.at != nil && l.at.server.handler != nil {
		info.Door = "handler"
	}
	if l.closed {
		info.State = "closed"
	}
	return info
}

// dumpPatience is how long Dump waits for a worker.
const dumpPatience = time.Second

// Dump writes every task and connection to out, a line each; with the build tag veloq_debug also
// what each task waits in, where it was made, where each connection was opened, and the last misuses.
// Workers that don't answer within a second are named, and with a watchdog or that tag also who keeps
// them. Any goroutine, never a task. Blocks.
func (rt *Runtime) Dump(out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), dumpPatience)
	defer cancel()
	snap, err := rt.Snapshot(ctx, -1)
	if err != nil {
		return err
	}
	var b strings.Builder
	for i, w := range snap.Workers {
		fmt.Fprintf(&b, "worker %d: %d tasks, %d streams, %d runnable, %d not begun, %d turns\n",
			i, w.Tasks, w.Streams, w.Runnable, w.Unbegun, w.Turns)
	}
	for _, i := range snap.Silent {
		number, name := rt.workers[i].who()
		fmt.Fprintf(&b, "worker %d: no answer within %v: it stays in a task or a handler %q\n",
			i, dumpPatience, name)
		if number != 0 { // with a watchdog or veloq_debug
			writeStack(&b, "now in", string(stackOf(number)))
		}
	}
	for _, t := range snap.Tasks {
		fmt.Fprintf(&b, "task worker=%d state=%s age=%v", t.Worker, t.State, t.Age.Round(time.Millisecond))
		if t.Name != "" {
			fmt.Fprintf(&b, " name=%q", t.Name)
		}
		if t.Op != "" {
			fmt.Fprintf(&b, " op=%s", t.Op)
		}
		b.WriteByte('\n')
		writeStack(&b, "made by", t.Created)
	}
	for _, c := range snap.Conns {
		fmt.Fprintf(&b, "conn worker=%d %s %s<-%s door=%s state=%s unread=%d unsent=%d in-flight=%d",
			c.Worker, c.Network, c.Local, c.Remote, c.Door, c.State, c.Unread, c.Unsent, c.InFlight)
		if c.Left {
			b.WriteString(" left open by a task that has ended")
		}
		b.WriteByte('\n')
		writeStack(&b, "opened by", c.Created)
	}
	for _, m := range snap.Misuses {
		fmt.Fprintf(&b, "misuse of %s: %s\n", m.Of, m.What)
		writeStack(&b, "at", m.Before)
	}
	if !debugtag.Enabled {
		b.WriteString("(what tasks wait in, where they and connections come from, and what was lost: " +
			"build with -tags veloq_debug)\n")
	}
	_, err = io.WriteString(out, b.String())
	return err
}

// writeStack writes a stack below a line of Dump, if there is one.
func writeStack(b *strings.Builder, what, stack string) {
	if stack != "" {
		fmt.Fprintf(b, "  %s\n    %s\n", what, strings.ReplaceAll(strings.TrimSpace(stack), "\n", "\n    "))
	}
}

// SetName names the task in Dump, Snapshot and OnHog, and labels its samples in CPU profiles (pprof label
// "task"; the worker's number is the label "worker"). Worker only: elsewhere it does nothing.
func (c *Context) SetName(name string) {
	if c.t == nil || c.t.co == nil || !c.w.here() || c.w.running != c.t {
		return
	}
	c.t.noted().name = name
	c.t.label(pprof.WithLabels(c.w.labels, pprof.Labels("task", name)))
	c.t.co.name.Store(&name)
}

// label labels the task's samples until it ends.
func (t *task) label(labels context.Context) {
	t.co.labelled = true
	pprof.SetGoroutineLabels(labels)
}

// unlabel takes the ended task's labels off its coroutine.
func (co *coroutine) unlabel() {
	if co.labelled {
		co.labelled = false
		co.name.Store(nil)
		pprof.SetGoroutineLabels(co.w.labels)
	}
}
