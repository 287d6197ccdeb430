package simnet

// This file changes if the order of events, or how datagrams travel between endpoints, does.

import (
	"container/heap"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"hash/fnv"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

// Addresses of a world: where the client and the server live at first.
var (
	ClientAddr = netip.MustParseAddrPort("10.0.0.1:1000")
	ServerAddr = netip.MustParseAddrPort("10.0.0.2:2000")
)

// A Host is one endpoint and its users.
type Host struct {
	Name     string
	Endpoint *core.Endpoint
	world    *World
	timerAt  mono.Time
	out      *link
	users    []*User
	buf      []byte
}

type event struct {
	at   mono.Time
	seq  uint64
	host *Host // a datagram for it, or its timer if data is nil and do is nil
	path core.Path
	ecn  core.ECN
	data []byte
	do   func()
}

type events []*event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(*event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*e = old[:len(old)-1]
	return x
}

// World is two hosts, two links, and what happens.
type World struct {
	Now            mono.Time
	Client, Server *Host
	Rng            *rand.Rand
	Err            error // the first invariant that broke

	queue  events
	seq    uint64
	hash   uint64
	steps  int
	toward map[netip.AddrPort]*Host
	// nat maps the client's own address to what the server sees; back the reverse. An address that is
	// in neither is not translated.
	nat, back map[netip.AddrPort]netip.AddrPort
	dead      map[netip.AddrPort]bool // addresses that nothing reaches or leaves
	// Hook sees each datagram before it goes onto the link; false drops it.
	Hook func(from *Host, p core.Path, b []byte) bool
	// CheckEvery is after how many events the costlier checks run; 1: every.
	CheckEvery int
}

// Config sets up a world.
type Config struct {
	Seed           uint64
	Up, Down       LinkConfig // client to server, and back
	Client, Server core.Config
}

var serverCert = sync.OnceValue(func() tls.Certificate {
	// Ed25519: its signatures all have one size, so that packets have too.
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sim"}, DNSNames: []string{"sim"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// ServerTLS and ClientTLS are configurations that fit each other.
func ServerTLS() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{serverCert()}} }

// ClientTLS trusts anybody. Classical keys make the handshake small: one datagram each way.
func ClientTLS(postQuantum bool) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, ServerName: "sim"}
	if !postQuantum {
		c.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	return c
}

type seeded struct{ *rand.ChaCha8 }

// New makes a world. It begins at a time that is not zero.
func New(cfg Config) (*World, error) {
	w := &World{
		Now: mono.Time(time.Hour), Rng: rand.New(rand.NewPCG(cfg.Seed, 1)), hash: fnvOffset, CheckEvery: 1,
		toward: map[netip.AddrPort]*Host{}, nat: map[netip.AddrPort]netip.AddrPort{},
		back: map[netip.AddrPort]netip.AddrPort{}, dead: map[netip.AddrPort]bool{},
	}
	for i, side := range []struct {
		name string
		cfg  core.Config
		link LinkConfig
		host **Host
		addr netip.AddrPort
	}{
		{"client", cfg.Client, cfg.Up, &w.Client, ClientAddr},
		{"server", cfg.Server, cfg.Down, &w.Server, ServerAddr},
	} {
		c := side.cfg
		if c.TLS == nil {
			c.TLS = ServerTLS()
			if i == 0 {
				c.TLS = ClientTLS(cfg.Seed%4 == 0)
			}
		}
		var key [32]byte
		key[0], key[1] = byte(cfg.Seed), byte(cfg.Seed>>8)
		key[2], key[3], key[4] = byte(cfg.Seed>>16), byte(cfg.Seed>>24), byte(i)
		if c.Rand == nil {
			c.Rand = seeded{rand.NewChaCha8(key)}
		}
		c.WallClock = func() time.Time { return time.Unix(1<<30, 0).Add(time.Duration(w.Now)) }
		c.Tracer = tracer{w, byte(i)}
		e, err := core.NewEndpoint(&c, i == 1)
		if err != nil {
			return nil, err
		}
		h := &Host{Name: side.name, Endpoint: e, world: w, timerAt: mono.Never, buf: make([]byte, core.SendMax)}
		h.out = &link{LinkConfig: side.link, rng: rand.New(rand.NewPCG(cfg.Seed, uint64(10+i)))}
		*side.host = h
		w.toward[side.addr] = h
	}
	return w, nil
}

// Script sets the fate of the first datagrams that leave the host: bit i of lost is datagram i's.
func (h *Host) Script(lost uint, count int) {
	for i := range count {
		h.out.script = append(h.out.script, lost>>i&1 == 1)
	}
}

// Link returns the counters of the link that leaves the host.
func (h *Host) Link() LinkStats { return h.out.stats }

// SetLink changes the link that leaves the host from now on.
func (h *Host) SetLink(l LinkConfig) { h.out.LinkConfig = l }

const fnvOffset = 14695981039346656037

// tracer mixes each event into the world's hash.
type tracer struct {
	w    *World
	side byte
}

func (t tracer) Trace(e *core.Event) {
	w := t.w
	for _, v := range [...]uint64{
		uint64(t.side), uint64(e.At), e.Conn, uint64(e.Kind), uint64(e.Space), e.PN, uint64(e.Size), e.A, e.B, e.C, e.D,
	} {
		w.hash = (w.hash ^ v) * 1099511628211
	}
}

// Hash is over everything that happened: times, packets, windows.
func (w *World) Hash() uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, w.hash, w.steps)
	return h.Sum64()
}

// After runs f d from now.
func (w *World) After(d time.Duration, f func()) { w.push(&event{at: w.Now.Add(d), do: f}) }

func (w *World) push(e *event) {
	w.seq++
	e.seq = w.seq
	heap.Push(&w.queue, e)
}

// Fail records the first error.
func (w *World) Fail(format string, args ...any) {
	if w.Err == nil {
		w.Err = fmt.Errorf("at %v: "+format, append([]any{time.Duration(w.Now) - time.Hour}, args...)...)
	}
}

// Inject puts a datagram in front of a host, as if it had come along path.
func (w *World) Inject(to *Host, path core.Path, b []byte) {
	w.push(&event{at: w.Now, host: to, path: path, data: b})
}

// Rebind gives the client's address another external one, as a NAT does: what the server sends to the old
// one is lost.
func (w *World) Rebind(own, external netip.AddrPort) {
	if old, ok := w.nat[own]; ok {
		delete(w.back, old)
	} else {
		w.back[own] = netip.AddrPort{}
	}
	w.nat[own], w.back[external] = external, own
}

// Home gives a host another address.
func (w *World) Home(h *Host, addr netip.AddrPort) { w.toward[addr] = h }

// Kill makes an address dead: whatever comes from it or goes to it is lost.
func (w *World) Kill(addr netip.AddrPort) { w.dead[addr] = true }

// transmit puts one datagram onto a host's link.
func (w *World) transmit(h *Host, p core.Path, ecn core.ECN, b []byte) {
	if w.Hook != nil && !w.Hook(h, p, b) {
		return
	}
	if w.dead[p.Local] || w.dead[p.Remote] {
		return
	}
	from, to := p.Local, p.Remote
	if external, ok := w.nat[from]; ok {
		from = external
	}
	if own, ok := w.back[to]; ok {
		to = own
	}
	dst := w.toward[to]
	if dst == nil {
		return
	}
	h.out.send(w.Now, append([]byte(nil), b...), func(at mono.Time, b []byte, marked bool) {
		mark := ecn
		if marked && ecn == core.ECT0 {
			mark = core.CE
		}
		w.push(&event{at: at, host: dst, path: core.Path{Local: to, Remote: from}, ecn: mark, data: b})
	})
}

// pump lets a host's users act, sends what its endpoint has, and sets its timer.
func (w *World) pump(h *Host) {
	for {
		h.act()
		sent := false
		for range 10000 {
			b := h.Endpoint.Send(w.Now, h.buf)
			if b.N == 0 {
				break
			}
			sent = true
			if b.Segment <= 0 || b.N > len(h.buf) {
				w.Fail("%s: batch of %d bytes in segments of %d", h.Name, b.N, b.Segment)
				return
			}
			for at := 0; at < b.N; at += b.Segment {
				w.transmit(h, b.Path, b.ECN, h.buf[at:min(at+b.Segment, b.N)])
			}
		}
		if !sent {
			break
		}
	}
	at := h.Endpoint.Deadline()
	if at < h.timerAt || h.timerAt <= w.Now && at != mono.Never {
		h.timerAt = max(at, w.Now+1)
		w.push(&event{at: h.timerAt, host: h})
	}
}

// Step handles one event; false if there is none.
func (w *World) Step() bool {
	if len(w.queue) == 0 || w.Err != nil {
		return false
	}
	e := heap.Pop(&w.queue).(*event)
	w.Now = e.at
	w.steps++
	switch {
	case e.do != nil:
		e.do()
		w.pump(w.Client)
		w.pump(w.Server)
	case e.data != nil:
		e.host.Endpoint.Recv(w.Now, e.path, e.ecn, e.data)
		w.pump(e.host)
	case e.at == e.host.timerAt:
		e.host.timerAt = mono.Never
		e.host.Endpoint.Tick(w.Now)
		w.pump(e.host)
	default:
		return true
	}
	if w.steps%w.CheckEvery == 0 {
		w.check()
	}
	return w.Err == nil
}

// Run goes on until until holds, d has passed, or an invariant breaks; it says whether until held.
func (w *World) Run(d time.Duration, until func() bool) bool {
	w.pump(w.Client)
	w.pump(w.Server)
	end := w.Now.Add(d)
	for w.Err == nil && !until() {
		if len(w.queue) == 0 || w.queue[0].at > end {
			w.Now = max(w.Now, end)
			return until()
		}
		w.Step()
	}
	return w.Err == nil
}

func (w *World) check() {
	for _, h := range [...]*Host{w.Client, w.Server} {
		for _, u := range h.users {
			if err := u.Conn.Check(); err != nil {
				w.Fail("%s: %v", h.Name, err)
			}
		}
	}
}
