package tests

// The net door under seeded chance: pairs of connections whose ends write, read, move deadlines and
// close at any moment, and a model of what may arrive. VELOQ_SEED runs one seed again.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/internal/core"
)

// A chaosEnd is one end of a pair: its writers, its reader and what meddles with it.
type chaosEnd struct {
	c       fullConn
	out, in *chaosFlow
	rude    bool // may close at any moment
	storm   bool // writes little at a time, with as many others as there can be
	closed  atomic.Bool
}

// writeOnce makes one write of p by some way, and returns how much was accepted.
func (e *chaosEnd) writeOnce(r *rand.Rand, p []byte) (int, error) {
	c, way := e.c, r.IntN(12)
	if e.storm {
		way = 11
	}
	switch way {
	case 0:
		cut := r.IntN(len(p) + 1)
		v := net.Buffers{p[:cut], p[cut:]}
		if w, ok := c.(interface {
			WriteBuffers(v *net.Buffers) (int64, error)
		}); ok {
			n, err := w.WriteBuffers(&v)
			return int(n), err
		}
		n, err := v.WriteTo(c)
		return int(n), err
	case 1:
		if runtime.GOOS == "windows" {
			break
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return 0, err
		}
		n := 0
		var failed error
		err = raw.Write(func(fd uintptr) bool {
			for n < len(p) {
				var m int
				m, failed = rawWrite(fd, p[n:])
				if failed != nil {
					return !errors.Is(failed, syscall.EAGAIN)
				}
				n += m
			}
			return true
		})
		if err == nil {
			err = failed
		}
		return n, err
	}
	return c.Write(p)
}

// chaosReadFrom sends p by ReadFrom: out of a file, a connection or memory.
func chaosReadFrom(r *rand.Rand, c fullConn, p []byte) (int, error) {
	to, ok := c.(io.ReaderFrom)
	if !ok {
		return c.Write(p)
	}
	var src io.Reader
	switch r.IntN(3) {
	case 0:
		f, err := os.CreateTemp("", "veloq")
		if err != nil {
			return 0, err
		}
		defer func() { _ = f.Close(); _ = os.Remove(f.Name()) }()
		if _, err := f.Write(p); err != nil {
			return 0, err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		src = f
	case 1:
		a, b, err := chaosConnect(netPackages[r.IntN(2)], netPackages[r.IntN(2)], "tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = a.Write(p)
			_ = a.Close()
		}()
		defer func() { _ = b.Close(); <-done }()
		src = b
	default:
		src = bytes.NewReader(p)
	}
	n, err := to.ReadFrom(io.LimitReader(src, int64(len(p))))
	return int(n), err
}

// chaosSize is a size of up to limit, mostly small.
func chaosSize(r *rand.Rand, limit int64, storm bool) int {
	size := 1 + r.IntN(300)
	kind := 19
	if !storm {
		kind = r.IntN(20)
	}
	switch kind {
	case 0:
		size = 1 + r.IntN(1_000_000)
	case 1, 2, 3:
		size = 1 + r.IntN(20_000)
	case 4, 5, 6:
		size = 1 + r.IntN(2100)
	}
	return int(min(int64(size), limit))
}

// goesOn reports whether after err the same call may be made again: a deadline passed, or will have
// been moved.
func (e *chaosEnd) goesOn(r *rand.Rand, err error, lift func(time.Time) error) bool {
	if err == nil {
		return true
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if r.IntN(2) == 0 {
		return lift(time.Time{}) == nil
	}
	runtime.Gosched()
	return !e.closed.Load()
}

// write is one writer. Of a flow of the pattern there is one.
func (e *chaosEnd) write(r *rand.Rand, at *pattern) error {
	f := e.out
	for !e.closed.Load() {
		left := f.left.Load()
		if left <= 0 {
			return nil
		}
		size := chaosSize(r, left, e.storm)
		var n int
		var err error
		if f.frames {
			size += chaosHeader
			i, p := f.begin(size)
			n, err = e.writeOnce(r, p)
			f.end(i, n)
		} else {
			begun := *at
			p := at.next(size)
			if !e.storm && r.IntN(25) == 0 {
				n, err = chaosReadFrom(r, e.c, p)
			} else {
				n, err = e.writeOnce(r, p)
			}
			*at = begun
			at.next(n)
		}
		if n < 0 || n > size || (n < size && err == nil) {
			return fmt.Errorf("%d of %d written, and the error %v", n, size, err)
		}
		f.sent.Add(int64(n))
		f.left.Add(-int64(n))
		if !e.goesOn(r, err, e.c.SetWriteDeadline) {
			return err
		}
	}
	return nil
}

// read reads to the end, or until what it returns says why not.
func (e *chaosEnd) read(r *rand.Rand, slow bool) error {
	buf := make([]byte, 64<<10)
	for {
		var err error
		w, writes := e.c.(io.WriterTo)
		switch {
		case writes && r.IntN(40) == 0:
			if _, err = w.WriteTo(e.in); err == nil {
				err = io.EOF
			}
		default:
			p := buf[:1+r.IntN(len(buf))]
			if r.IntN(3) == 0 {
				p = buf[:1+r.IntN(100)]
			}
			var n int
			n, err = e.c.Read(p)
			_, _ = e.in.Write(p[:n])
		}
		if err == io.EOF {
			return nil
		}
		if !e.goesOn(r, err, e.c.SetReadDeadline) {
			return err
		}
		if slow && r.IntN(8) == 0 {
			time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
		}
	}
}

// chaosDeadline is past, near, far or none.
func chaosDeadline(r *rand.Rand) time.Time {
	switch r.IntN(8) {
	case 0:
		return time.Unix(0, 0)
	case 1:
		return time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	case 2:
		return time.Now().Add(-time.Second)
	case 3, 4, 5:
		return time.Now().Add(time.Duration(r.IntN(3000)) * time.Microsecond)
	}
	return time.Time{}
}

// meddle does what others may do with the connection, and in the end lifts the deadlines.
func (e *chaosEnd) meddle(r *rand.Rand) {
	for range r.IntN(25) {
		switch r.IntN(12) {
		case 0, 1:
			_ = e.c.SetDeadline(chaosDeadline(r))
		case 2, 3, 4:
			_ = e.c.SetWriteDeadline(chaosDeadline(r))
		case 5, 6:
			_ = e.c.SetReadDeadline(chaosDeadline(r))
		case 7:
			if raw, err := e.c.SyscallConn(); err == nil {
				_ = raw.Control(func(uintptr) {})
			}
		case 8:
			if r.IntN(4) == 0 {
				if f, err := e.c.File(); err == nil {
					_ = f.Close()
				}
			}
		default:
			if e.rude && r.IntN(6) == 0 {
				_ = [...]func() error{e.c.CloseRead, e.c.CloseWrite, e.linger}[r.IntN(3)]()
			}
		}
		time.Sleep(time.Duration(r.IntN(500)) * time.Microsecond)
	}
	_ = e.c.SetDeadline(time.Time{})
}

func (e *chaosEnd) linger() error {
	if c, ok := e.c.(interface{ SetLinger(sec int) error }); ok {
		return c.SetLinger(0)
	}
	return nil
}

// close closes, from several goroutines at once now and then.
func (e *chaosEnd) close(r *rand.Rand) error {
	e.closed.Store(true)
	var wg sync.WaitGroup
	if r.IntN(3) == 0 {
		wg.Go(func() { _ = e.c.Close() })
	}
	if r.IntN(3) == 0 {
		at := chaosDeadline(r)
		wg.Go(func() { _ = e.c.SetDeadline(at) })
	}
	_ = e.c.Close()
	wg.Wait()
	for what, call := range map[string]func([]byte) (int, error){"Read": e.c.Read, "Write": e.c.Write} {
		if _, err := call([]byte{1}); !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("%s after Close: %w", what, err)
		}
	}
	return nil
}

// chaosConnect connects a pair, whose ends are of those packages.
func chaosConnect(dialer, listener netPackage, network, address string) (a, b fullConn, err error) {
	ln, err := listener.listen(network, address)
	if err != nil {
		return nil, nil, err
	}
	type result struct {
		c   net.Conn
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := ln.Accept()
		accepted <- result{c, err}
	}()
	c, err := dialer.dial(network, ln.Addr().String())
	if err != nil {
		_ = ln.Close()
		<-accepted
		return nil, nil, err
	}
	s := <-accepted
	if err := errors.Join(s.err, ln.Close()); err != nil {
		return nil, nil, err
	}
	return c.(fullConn), s.c.(fullConn), nil
}

// A chaosRun is one seed's.
type chaosRun struct {
	packages [3]netPackage // package net, the runtime's, veloq's own
	storm    bool          // many that write little at a time, for large batches
	network  string
	address  string
}

// fresh connects a pair right after a close, and sees that it gets nothing but its own bytes.
func (cr *chaosRun) fresh(r *rand.Rand) error {
	a, b, err := chaosConnect(netPackages[0], netPackages[0], "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = a.Close(); _ = b.Close() }()
	if r.IntN(2) == 0 {
		time.Sleep(time.Duration(r.IntN(500)) * time.Microsecond)
	}
	for _, c := range [2][2]fullConn{{a, b}, {b, a}} {
		out, in := newPattern(99), newPattern(99)
		if _, err := c[0].Write(out.next(64)); err != nil {
			return err
		}
		if err := c[0].CloseWrite(); err != nil {
			return err
		}
		got, err := io.ReadAll(c[1])
		if err == nil && len(got) != 64 {
			err = fmt.Errorf("%d bytes instead of 64", len(got))
		}
		if err = errors.Join(err, in.check(got)); err != nil {
			return fmt.Errorf("a pair after a close: %w", err)
		}
	}
	return nil
}

// pair is the life of one pair.
func (cr *chaosRun) pair(seed uint64, number int) error {
	r := rand.New(rand.NewPCG(seed, uint64(number)))
	kinds := [2]netPackage{cr.packages[r.IntN(3)], cr.packages[1+r.IntN(2)]}
	if r.IntN(2) == 0 {
		kinds[0], kinds[1] = kinds[1], kinds[0]
	}
	address := cr.address
	if cr.network == "unix" {
		address = fmt.Sprint(address, number)
	}
	a, b, err := chaosConnect(kinds[0], kinds[1], cr.network, address)
	if err != nil {
		return err
	}
	var flows [2]*chaosFlow
	for i := range flows {
		flows[i] = &chaosFlow{tag: uint32(2*number+i) | 0xc4a00000, frames: r.IntN(2) == 0}
		flows[i].left.Store(r.Int64N([...]int64{2000, 100_000, 3_000_000}[r.IntN(3)]))
		if cr.storm {
			flows[i].left.Store(50_000)
		}
	}
	proper := cr.storm || r.IntN(2) == 0
	ends := [2]*chaosEnd{
		{c: a, out: flows[0], in: flows[1], storm: cr.storm, rude: !proper && r.IntN(2) == 0},
		{c: b, out: flows[1], in: flows[0], storm: cr.storm, rude: !proper},
	}
	if r.IntN(3) == 0 {
		for _, e := range ends {
			_ = e.c.SetWriteBuffer(4 << 10) // a small window as well would wait for TCP's timers
		}
	}
	var errs [2]error
	var wg sync.WaitGroup
	for i, e := range ends {
		mine := rand.New(rand.NewPCG(r.Uint64(), uint64(i)))
		wg.Go(func() { errs[i] = e.live(cr, mine, proper) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("end %d (%s to %s, %s): %w", i, kinds[0].name, kinds[1].name, cr.network, err)
		}
	}
	return errors.Join(append(errs[:], flows[0].verify(proper), flows[1].verify(proper))...)
}

// live runs an end until everything of it is over.
func (e *chaosEnd) live(cr *chaosRun, r *rand.Rand, proper bool) error {
	var writing, others sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	note := func(what string, err error) {
		if err != nil {
			mu.Lock()
			failed = append(failed, fmt.Errorf("%s: %w", what, err))
			mu.Unlock()
		}
	}
	another := func() *rand.Rand { return rand.New(rand.NewPCG(r.Uint64(), 0)) }
	writers := 1
	if e.out.frames {
		writers += r.IntN(6)
	}
	for range writers {
		mine := another()
		writing.Go(func() { note("write", e.write(mine, newPattern(int(e.out.tag)))) })
	}
	reader, slow, meddler := another(), r.IntN(3) == 0, another()
	if !e.rude || r.IntN(4) > 0 {
		others.Go(func() { note("read", e.read(reader, slow)) })
	}
	others.Go(func() { e.meddle(meddler) })
	if e.rude {
		time.Sleep(time.Duration(r.IntN(4000)) * time.Microsecond)
		err := errors.Join(e.close(r), cr.fresh(r))
		writing.Wait()
		others.Wait()
		return err
	}
	writing.Wait()
	switch r.IntN(4) {
	case 0:
		_ = e.c.SetWriteDeadline(time.Unix(1, 0)) // what was accepted goes out all the same
	case 1:
		if !proper {
			break
		}
		_ = e.c.SetWriteDeadline(time.Now().Add(time.Duration(r.IntN(2000)) * time.Microsecond))
		for end := time.Now().Add(patience); e.out.received.Load() < e.out.sent.Load(); {
			if time.Now().After(end) {
				note("delivery", fmt.Errorf("%d of %d bytes", e.out.received.Load(), e.out.sent.Load()))
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
	note("CloseWrite", e.c.CloseWrite())
	others.Wait()
	err := errors.Join(e.close(r), cr.fresh(r))
	if proper {
		err = errors.Join(append(failed, err)...)
	}
	return err
}

// Goal: whatever the ends of many connections do at once, with every mode of staging: bytes are a
// beginning of what was written, all of it after a proper end, no write is mixed with another, every
// call returns, and nothing is left.
func TestNetdoorChaos(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, mode := range []veloq.StageMode{veloq.StageAuto, veloq.StageOn, veloq.StageOff} {
			t.Run(network+"/"+mode.String(), func(t *testing.T) {
				needNetwork(t, network)
				if mode != veloq.StageAuto {
					needDriver(t) // what stages
				}
				end := time.Now().Add(time.Duration(sized(60_000, 250, 250)) * time.Millisecond)
				for seed, once := firstSeed(t); ; seed++ {
					chaosOnce(t, network, mode, seed)
					if once || time.Now().After(end) {
						return
					}
				}
			})
		}
	}
}

func chaosOnce(t *testing.T, network string, mode veloq.StageMode, seed uint64) {
	t.Helper()
	t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
		noLeak(t)
		cr := &chaosRun{packages: [3]netPackage{netPackages[0], netPackages[1], netPackages[1]}, network: network}
		if core.Available && (mode != veloq.StageAuto || os.Getenv("VELOQ_STAGE") == "") {
			rt := newRuntime(t, veloq.Config{Workers: 1, Stage: mode})
			cr.packages[1] = netPackage{name: "runtime", listen: rt.Listen, dial: rt.Dial}
		}
		cr.address = anyAddress(t, network)
		cr.storm = seed%3 == 0
		pairs := 12
		if cr.storm {
			pairs = 32
		}
		results := make(chan error, pairs)
		for i := range pairs {
			go func() {
				err := cr.pair(seed, i)
				if err != nil {
					err = fmt.Errorf("pair %d: %w", i, err)
				}
				results <- err
			}()
		}
		for range pairs {
			require.NoError(t, await(t, "a pair", results), "VELOQ_SEED=%d", seed)
		}
	})
}
