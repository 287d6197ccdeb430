package veloq

// The mesh between workers: one bounded single-producer, single-consumer edge for each ordered pair,
// in one slab of C memory, and the Go values that travel beside its records.

import (
	"unsafe"

	"github.com/veloq/veloq/internal/core"
)

// meshCapacity is how many messages an edge holds. A sender that finds it full uses the receiver's
// inbox instead, so nothing internal is ever lost or waits.
const (
	meshCapacity = 1024
	meshSlots    = 2 * meshCapacity
	meshBatch    = 64
)

type messageKind uint64

const (
	messageStart messageKind = iota + 1 // a task, from SpawnTo
	messageWake                         // a task that waits for what ended here
	messageAdopt                        // an accepted socket for a server
	messageChild                        // a task that has ended, to the worker of its scope
)

// A message goes from worker to worker.
type message struct {
	kind messageKind
	t    *task
	at   *binding
	fd   int32
}

// meshEdge is one direction of the mesh. A record's token is the index of its value in values, which
// the sender fills before it pushes. There are twice as many slots as records, so that the receiver
// may still read the values of a batch when its records' places are the sender's again.
type meshEdge struct {
	edge   *core.Edge
	values []message
	sent   uint32 // sender's
}

// mesh is all edges: from worker i to worker j at [i*workers+j].
type mesh struct {
	workers int
	edges   []meshEdge
	slab    unsafe.Pointer
}

func newMesh(workers int) (*mesh, error) {
	m := &mesh{workers: workers, edges: make([]meshEdge, workers*workers)}
	size := core.EdgeSizeBytes(meshCapacity)
	m.slab = core.Alloc(size * uintptr(len(m.edges)))
	if m.slab == nil {
		return nil, core.Errno(core.ErrnoNOMEM)
	}
	for i := range m.edges {
		m.edges[i].edge = core.InitEdge(unsafe.Add(m.slab, uintptr(i)*size), meshCapacity)
		if i/workers != i%workers {
			m.edges[i].values = make([]message, meshSlots)
		}
	}
	return m, nil
}

// free gives the slab back. Every worker has ended.
func (m *mesh) free() { core.Free(m.slab) }

func (m *mesh) edge(from, to int) *meshEdge { return &m.edges[from*m.workers+to] }

// push sends one message; false when the edge is full. The sending worker only.
func (e *meshEdge) push(msg message) bool {
	if e.edge.Len() == meshCapacity {
		return false
	}
	slot := e.sent % meshSlots
	e.values[slot] = msg
	e.edge.Push([]core.Msg{{Kind: uint64(msg.kind), Token: uint64(slot)}})
	e.sent++
	return true
}

// send brings msg to w: over the mesh when from is another worker of the runtime and the caller,
// through the inbox otherwise. It reports false when w has ended.
func (w *worker) send(from *worker, msg message) bool {
	if from != nil && from != w && from.rt == w.rt && !w.ended.Load() {
		if w.rt.mesh.edge(from.id, w.id).push(msg) {
			from.knockLater(w)
			return true
		}
		from.stats.edgesFull++
	}
	return w.post(&note{do: func(w *worker) { w.receive(msg) }})
}

// knockLater rings the other worker once at the end of the turn, however much was sent to it.
func (w *worker) knockLater(other *worker) {
	if !w.knocks[other.id] {
		w.knocks[other.id] = true
		w.knocking = append(w.knocking, other)
	}
}

// knockNow rings the other worker at once, and reports whether it slept.
func (w *worker) knockNow(other *worker) (slept bool) {
	other.posters.Add(1)
	if !other.ended.Load() {
		slept = other.knock()
	}
	other.posters.Add(-1)
	return slept
}

// knockAll rings the workers that were sent something in this turn.
func (w *worker) knockAll() {
	for i, other := range w.knocking {
		w.knocking[i] = nil
		w.knocks[other.id] = false
		w.knockNow(other)
	}
	w.knocking = w.knocking[:0]
}

// drainMesh takes what the other workers sent, a bounded batch of each.
func (w *worker) drainMesh() {
	if w.rt.mesh == nil {
		return
	}
	var batch [meshBatch]core.Msg
	for from := range w.rt.workers {
		if from == w.id {
			continue
		}
		e := w.rt.mesh.edge(from, w.id)
		if e.edge.Len() == 0 {
			continue
		}
		n := e.edge.Pop(batch[:])
		for _, rec := range batch[:n] {
			value := &e.values[rec.Token]
			msg := *value
			*value = message{}
			w.receive(msg)
		}
	}
}

func (w *worker) meshWaiting() bool {
	if w.rt.mesh == nil {
		return false
	}
	for from := range w.rt.workers {
		if from != w.id && w.rt.mesh.edge(from, w.id).edge.Len() > 0 {
			return true
		}
	}
	return false
}

func (w *worker) receive(msg message) {
	switch msg.kind {
	case messageStart:
		w.arrive(msg.t)
	case messageWake:
		w.wake(msg.t)
	case messageChild:
		msg.t.scope.account(msg.t)
	case messageAdopt:
		w.load.Add(-msg.at.server.connLoad()) // adopt counts it again
		msg.at.adopt(w, msg.fd)
	}
}
