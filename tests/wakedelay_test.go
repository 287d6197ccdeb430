package tests

// Config.WakeDelay: what waits for others arrives all the same, and what must not wait doesn't.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

type echoPackets struct{ veloq.DatagramHandlerBase }

func (echoPackets) OnPackets(_ *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	for i := range ps {
		_ = d.SendTo(ps[i].Data.Bytes(), ps[i].From)
	}
}

// Goal: bursts of datagrams delay wakes where the driver can, also with a restricted ring, nowhere else,
// and all come back in order.
func TestWakeDelay_DatagramsComeTogether(t *testing.T) {
	noLeak(t)
	const burst, roundsMax = 16, 2000
	rt := newPacketRuntime(t, veloq.Config{Workers: 1, WakeDelay: time.Millisecond, Restrict: true})
	s, err := (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt, "udp", "127.0.0.1:0", echoPackets{})
	require.NoError(t, err)
	can := slices.Contains(rt.Report().Caps, "MIN_WAIT")
	client := newPacketRuntime(t, veloq.Config{Workers: 1})
	rounds := 0
	for ; rounds < 50 || can && totals(rt).Delayed == 0; rounds++ {
		require.Less(t, rounds, roundsMax, "no wake was delayed")
		require.NoError(t, inTask(t, client, func(c *veloq.Context) error {
			d, err := c.DialDatagram("udp", s.Addr().String())
			if err != nil {
				return err
			}
			var all []error
			for range 3 {
				var b [burst][4]byte
				for i := range b {
					binary.BigEndian.PutUint32(b[i][:], uint32(rounds*burst+i))
					all = append(all, d.Send(b[i][:]))
				}
				for i := range b {
					all = append(all, expect(d, b[i][:]))
				}
			}
			return errors.Join(append(all, d.Close())...)
		}))
	}
	delayed := totals(rt).Delayed
	t.Logf("%d rounds, %d of %d waits delayed", rounds, delayed, totals(rt).Waits)
	assert.Equal(t, can, delayed > 0)
	bounded(t, "Close", s.Close)
}

// Goal: timers and what goroutines bring reach a worker that may sleep for longer than they take: it
// ends, and a timer never comes early.
func TestWakeDelay_TimersAndGoroutinesAreHeard(t *testing.T) {
	noLeak(t)
	rt := newRuntime(t, veloq.Config{Workers: 2, WakeDelay: 10 * time.Millisecond})
	for i := range 100 {
		require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
			const d = 2 * time.Millisecond
			start := time.Now()
			if err := c.Sleep(d); err != nil {
				return err
			}
			if took := time.Since(start); took < d {
				return fmt.Errorf("sleep %d took %v", i, took)
			}
			return nil
		}))
	}
}

// Goal: streams under a delay, many at a time and one alone, echo all the same.
func TestWakeDelay_Streams(t *testing.T) {
	noLeak(t)
	const conns = 16
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			rt := newRuntime(t, veloq.Config{Workers: 1, WakeDelay: 500 * time.Microsecond})
			srv := startEcho(t, rt, veloq.ListenConfig{}, door)
			for _, count := range []int{conns, 1} {
				errs := make(chan error, count)
				for range count {
					conn := dial(t, srv.Addr())
					go func() {
						var failed error
						for _, size := range []int{1, 64, 20_000} {
							buf := make([]byte, size)
							for range 50 {
								failed = errors.Join(failed, roundTrip(conn, buf))
							}
						}
						errs <- failed
					}()
				}
				for range count {
					require.NoError(t, <-errs)
				}
			}
		})
	}
}
