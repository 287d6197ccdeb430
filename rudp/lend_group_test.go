package rudp

// Leases of a runtime whose workers are endpoints too.

import (
	"bytes"
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// leaser is a server of TCP that hands out what it receives.
type leaser struct {
	veloq.HandlerBase
	leases chan veloq.Lease
}

func (h leaser) OnData(_ *veloq.Context, _ *veloq.Stream, l veloq.Lease) error {
	h.leases <- l.Retain()
	return nil
}

// received has rt receive data over TCP and returns the leases.
func received(t testing.TB, rt *veloq.Runtime, data []byte) (list []veloq.Lease) {
	t.Helper()
	h := leaser{leases: make(chan veloq.Lease, len(data))}
	server, err := (&veloq.ListenConfig{}).StartHandler(context.Background(), rt, "tcp", "127.0.0.1:0", h)
	require.NoError(t, err)
	defer server.Close()
	c, err := net.Dial("tcp", server.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	go func() { _, _ = c.Write(data) }()
	for n := 0; n < len(data); {
		l := <-h.leases
		n += l.Len()
		list = append(list, l)
	}
	return list
}

// allBack waits until no lease of rt is held.
func allBack(t testing.TB, rt *veloq.Runtime) {
	t.Helper()
	await(t, "the return of all leases", func() bool {
		for _, w := range rt.Stats() {
			if w.BuffersFree != w.Buffers {
				return false
			}
		}
		return true
	})
}

func TestGroup_WriteLease(t *testing.T) {
	g := group(t, 2)
	c, s := dialGroup(t, g)
	data := someBytes(3 << 20)
	go func() {
		for _, l := range received(t, g.rt, data) {
			n, err := s.WriteLease(l)
			assert.NoError(t, err)
			assert.Equal(t, l.Len(), n)
		}
		assert.NoError(t, s.CloseWrite())
	}()
	assert.True(t, bytes.Equal(data, readAll(t, c)))
	allBack(t, g.rt)
}

// Goal: a peer that doesn't read doesn't keep a worker's receive buffers.
func TestGroup_WriteLeasePeerDoesNotRead(t *testing.T) {
	g := group(t, 1)
	c, s := dialGroup(t, g)
	data := someBytes(900 << 10)
	for _, l := range received(t, g.rt, data) {
		_, err := s.WriteLease(l)
		require.NoError(t, err)
	}
	require.NoError(t, s.CloseWrite())
	allBack(t, g.rt)
	assert.Less(t, s.Stats().StreamSent, uint64(len(data)), "the window is less")
	assert.True(t, bytes.Equal(data, readAll(t, c)))
}

// Each end gives leases back.
func TestGroup_WriteLeaseEnds(t *testing.T) {
	for name, end := range map[string]func(g *Group, c, s *Stream){
		"reset":        func(_ *Group, _, s *Stream) { _ = s.Reset(1) },
		"peer's reset": func(_ *Group, c, _ *Stream) { _ = c.Reset(1) },
		"peer's close": func(_ *Group, c, _ *Stream) { _ = c.Close() },
		"shutdown": func(g *Group, _, _ *Stream) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = g.Shutdown(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := group(t, 1)
			c, s := dialGroup(t, g)
			list := received(t, g.rt, someBytes(600<<10))
			for i, l := range list {
				if i == len(list)/2 {
					end(g, c, s)
				}
				_, _ = s.WriteLease(l) // some are refused
			}
			allBack(t, g.rt)
		})
	}
}

// Goal: the end of the runtime takes the leases' memory; nobody looks at it after that.
func TestGroup_WriteLeaseRuntimeCloses(t *testing.T) {
	rt, err := veloq.New(veloq.Config{Workers: 2})
	if err != nil {
		t.Skip("no workers here: ", err)
	}
	g, err := ListenOn(rt, "udp4", "127.0.0.1:0", serverConfig())
	if err != nil {
		_ = rt.Close()
		t.Skip("no datagrams on workers here: ", err)
	}
	c, s := dialGroup(t, g)
	list := received(t, rt, someBytes(400<<10))
	last := list[len(list)-1]
	for _, l := range list[:len(list)-1] {
		_, err := s.WriteLease(l)
		require.NoError(t, err)
	}
	require.NoError(t, rt.Close())
	n, err := s.WriteLease(last)
	assert.Zero(t, n)
	is(t, err, "write", net.ErrClosed, false)
	require.NoError(t, c.Reset(0)) // else it waits for the other side until its idle timeout
}

// An endpoint that may outlive the lease's runtime copies, and gives the lease back at once.
func TestStream_WriteLeaseOfAnotherRuntime(t *testing.T) {
	rt, err := veloq.New(veloq.Config{Workers: 1})
	if err != nil {
		t.Skip("no workers here: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, rt.Close()) })
	w := newWorld(t, clientConfig(), serverConfig())
	c, s := w.connect(t)
	w.net.cut.Store(true) // nothing is acknowledged
	data := someBytes(300 << 10)
	for _, l := range received(t, rt, data) {
		n, err := c.WriteLease(l)
		require.NoError(t, err)
		require.Equal(t, l.Len(), n)
	}
	require.NoError(t, c.CloseWrite())
	allBack(t, rt)
	w.net.cut.Store(false)
	assert.True(t, bytes.Equal(data, readAll(t, s)))
	require.NoError(t, w.client.Close())
	require.NoError(t, w.server.Close())
}
