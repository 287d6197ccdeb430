package tests

// Datagram servers: one socket a worker, handlers and tasks, how they end.

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

type spreadHandler struct {
	veloq.DatagramHandlerBase
	opened, closed atomic.Int32
	packets        [2]atomic.Int32 // by worker
	why            atomic.Value
}

func (h *spreadHandler) OnOpen(*veloq.Context, *veloq.Datagram) { h.opened.Add(1) }

func (h *spreadHandler) OnPackets(c *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	h.packets[c.Worker()].Add(int32(len(ps)))
	for i := range ps {
		_ = d.SendTo(ps[i].Data.Bytes(), ps[i].From)
	}
}

func (h *spreadHandler) OnClose(_ *veloq.Context, _ *veloq.Datagram, err error) {
	h.closed.Add(1)
	h.why.Store(err)
}

// Goal: a server has a socket on each worker, all get senders, and each sender has its one.
func TestDatagram_ServerSpreads(t *testing.T) {
	noLeak(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 2})
	h := &spreadHandler{}
	s, err := (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt, "udp", "127.0.0.1:0", h)
	require.NoError(t, err)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		for i := range 64 {
			d, err := c.DialDatagram("udp", s.Addr().String())
			if err != nil {
				return err
			}
			b := []byte{byte(i)}
			if err := errors.Join(d.Send(b), expect(d, b), d.Close()); err != nil {
				return err
			}
		}
		return nil
	}))
	if h.opened.Load() == 2 {
		assert.NotZero(t, h.packets[0].Load())
		assert.NotZero(t, h.packets[1].Load())
	}
	assert.EqualValues(t, 64, h.packets[0].Load()+h.packets[1].Load())
	bounded(t, "Close", s.Close)
	assert.Equal(t, h.opened.Load(), h.closed.Load())
	assert.ErrorIs(t, h.why.Load().(error), context.Canceled)
}

func TestDatagram_ServeEnds(t *testing.T) {
	noLeak(t)
	rt := newPacketRuntime(t, veloq.Config{Workers: 2})
	boom := errors.New("boom")
	err := rt.ServeDatagram(soon(t), "udp", "127.0.0.1:0", func(*veloq.Context, *veloq.Datagram) error { return boom })
	assert.ErrorIs(t, err, boom)
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan struct{}, 2)
	ended := make(chan error, 1)
	go func() {
		ended <- rt.ServeDatagram(ctx, "udp", "127.0.0.1:0", func(_ *veloq.Context, d *veloq.Datagram) error {
			started <- struct{}{}
			_, err := d.Recv()
			assert.ErrorIs(t, err, context.Canceled)
			return err
		})
	}()
	await(t, "a socket", started)
	cancel()
	assert.NoError(t, await(t, "the end", ended))
	// A runtime's Shutdown ends servers that would go on for ever.
	_, err = (&veloq.ListenConfig{}).StartDatagram(context.Background(), rt, "udp", "127.0.0.1:0", echoDatagrams)
	require.NoError(t, err)
	assert.NoError(t, rt.Shutdown(soon(t)))
	_, err = (&veloq.ListenConfig{}).StartDatagram(context.Background(), rt, "udp", "127.0.0.1:0", echoDatagrams)
	assert.ErrorIs(t, err, veloq.ErrClosed)
}

type panickyHandler struct {
	veloq.DatagramHandlerBase
	closed chan error
}

func (h *panickyHandler) OnPackets(*veloq.Context, *veloq.Datagram, []veloq.Packet) { panic("packets") }

func (h *panickyHandler) OnClose(_ *veloq.Context, _ *veloq.Datagram, err error) { h.closed <- err }

func TestDatagram_HandlerPanics(t *testing.T) {
	panics := make(chan *veloq.PanicError, 4)
	rt := newPacketRuntime(t, veloq.Config{Workers: 1, OnPanic: func(pe *veloq.PanicError) { panics <- pe }})
	h := &panickyHandler{closed: make(chan error, 4)}
	s, err := (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt, "udp", "127.0.0.1:0", h)
	require.NoError(t, err)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		d, err := c.DialDatagram("udp", s.Addr().String())
		if err != nil {
			return err
		}
		return errors.Join(d.Send([]byte("x")), d.Flush())
	}))
	assert.Equal(t, "packets", await(t, "the panic", panics).Value)
	assert.ErrorAs(t, await(t, "OnClose", h.closed), new(*veloq.PanicError))
	bounded(t, "Close", s.Close)
}

// pausingPackets keeps one packet's lease and pauses; what comes meanwhile is delivered on ResumeRead.
type pausingPackets struct {
	veloq.DatagramHandlerBase
	kept chan veloq.Lease
	got  chan string
	d    atomic.Pointer[veloq.Datagram]
}

func (h *pausingPackets) OnPackets(_ *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	if h.d.Load() == nil {
		h.d.Store(d)
		_ = d.PauseRead()
		h.kept <- ps[0].Data.Retain()
		ps = ps[1:]
	}
	for i := range ps {
		h.got <- string(ps[i].Data.Bytes())
	}
}

func TestDatagram_HandlerPausesAndRetains(t *testing.T) {
	const count = 300 // more than the queue and the buffers hold
	rt := newPacketRuntime(t, veloq.Config{Workers: 1, PacketCount: 16, PacketQueue: 8})
	h := &pausingPackets{kept: make(chan veloq.Lease, 1), got: make(chan string, count)}
	s, err := (&veloq.ListenConfig{ReadBuffer: 1 << 20}).StartDatagramHandler(context.Background(), rt, "udp", "127.0.0.1:0", h)
	require.NoError(t, err)
	defer bounded(t, "Close", s.Close)
	require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
		d, err := c.DialDatagram("udp", s.Addr().String())
		if err != nil {
			return err
		}
		for i := range count {
			if err := d.Send(fmt.Appendf(nil, "%d", i)); err != nil {
				return err
			}
			if i == 0 {
				for h.d.Load() == nil {
					if err := c.Sleep(time.Millisecond); err != nil {
						return err
					}
				}
			}
		}
		if err := d.Flush(); err != nil {
			return err
		}
		if len(h.got) != 0 {
			return errors.New("OnPackets while paused")
		}
		return h.d.Load().ResumeRead()
	}))
	for i := 1; i < count; i++ {
		require.Equal(t, fmt.Sprint(i), await(t, "a datagram", h.got))
	}
	kept := <-h.kept
	assert.Equal(t, "0", string(kept.Bytes()))
	kept.Release()
	eventually(t, "buffers back", func() (bool, any) {
		st := totals(rt)
		now := holds(rt).packetsMissing
		return now == 0, fmt.Sprint(now, st.PacketsIn)
	})
}
