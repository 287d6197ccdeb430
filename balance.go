package veloq

// Balancers: which worker serves a connection.

import (
	"math/rand/v2"
	"net/netip"
	"sync/atomic"

	"github.com/veloq/veloq/internal/core"
)

// A Balancer chooses the worker that serves a connection; see ListenConfig.Balancer. RoundRobin,
// SourceHash, LeastConnections and PowerOfTwo are some; the kernel's own choice is AcceptReusePort.
type Balancer interface {
	// Choose returns the index of a worker; one that there is none of means the worker that accepted.
	// It is called there, for one connection of a server after another, and must not block. a is
	// valid until it returns.
	Choose(a *Accepted) int
}

// Accepted is a connection whose worker is to be chosen. Its methods are for Balancer.Choose, while it
// runs.
type Accepted struct {
	server *Server
	w      *worker
	fd     int32
}

// Workers returns how many workers there are.
func (a *Accepted) Workers() int { return len(a.server.rt.workers) }

// Worker returns the worker that accepted.
func (a *Accepted) Worker() int { return a.w.id }

// Conns returns how many connections the server has on that worker.
func (a *Accepted) Conns(worker int) int { return int(a.server.placed[worker].n.Load()) }

// Load returns how many tasks and streams that worker has, of all servers and of none.
func (a *Accepted) Load(worker int) int { return int(a.server.rt.workers[worker].load.Load()) }

// Source returns the peer's address, the zero AddrPort where it can't be told. It costs a system call.
func (a *Accepted) Source() netip.AddrPort {
	addr, err := core.PeerAddr(a.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	if tcp := tcpAddr(&addr); tcp != nil {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

// RoundRobin gives each worker a connection in turn. Any goroutine.
func RoundRobin() Balancer { return &roundRobin{} }

type roundRobin struct{ next atomic.Uint64 }

func (b *roundRobin) Choose(a *Accepted) int {
	return int((b.next.Add(1) - 1) % uint64(a.Workers()))
}

// SourceHash gives all connections of a client's address, whatever their ports, to the same worker, as
// long as there are as many. Any goroutine.
func SourceHash() Balancer { return sourceHash{} }

type sourceHash struct{}

func (sourceHash) Choose(a *Accepted) int {
	return hashOf(a.Source().Addr(), a.Workers())
}

// hashOf spreads addresses over n by 64-bit FNV-1a, whose low bits alone would show patterns of the
// last byte.
func hashOf(addr netip.Addr, n int) int {
	h := uint64(14695981039346656037)
	for _, b := range addr.Unmap().AsSlice() {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return int((h ^ h>>32) % uint64(n))
}

// LeastConnections gives a connection to the worker that has the fewest of the server's; the
// one that accepted wins a tie. Any goroutine.
func LeastConnections() Balancer { return leastConnections{} }

type leastConnections struct{}

func (leastConnections) Choose(a *Accepted) int {
	best := a.Worker()
	for i := range a.Workers() {
		if a.Conns(i) < a.Conns(best) {
			best = i
		}
	}
	return best
}

// PowerOfTwo gives a connection to the less loaded of two workers taken at random (Accepted.Load): near
// the best choice, at a cost that does not grow with their number. Any goroutine.
func PowerOfTwo() Balancer { return powerOfTwo{} }

type powerOfTwo struct{}

func (powerOfTwo) Choose(a *Accepted) int { return a.server.rt.choose() }

// lessLoaded returns the less loaded of two of n workers, of which at least two, taken at random.
func lessLoaded(n int, load func(int) int64) int {
	i := rand.IntN(n)
	j := (i + 1 + rand.IntN(n-1)) % n
	if load(j) < load(i) {
		return j
	}
	return i
}
