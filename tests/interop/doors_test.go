package interop

// Streams for the tests: listeners and dialers of veloq's net door and of package net, one for the
// other.

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// A door opens streams; dialed counts those that it dialed.
type door struct {
	name        string
	listenOn    func(network, address string) (net.Listener, error)
	dialContext func(ctx context.Context, network, address string) (net.Conn, error)
	dialed      *atomic.Int64
}

// newDoor is package net's or veloq's.
func newDoor(name string) door {
	d := door{name: name, dialed: new(atomic.Int64)}
	open := (&net.Dialer{}).DialContext
	d.listenOn = net.Listen
	if name == "veloq" {
		open = (&veloq.Dialer{}).DialContext
		d.listenOn = veloq.Listen
	}
	d.dialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		d.dialed.Add(1)
		return open(ctx, network, address)
	}
	return d
}

// listen opens a listener that is closed at the end of the test, if it is not by then.
func (d door) listen(t *testing.T, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "veloq") // t.TempDir's are too long for an address
		require.NoError(t, err)
		t.Cleanup(func() { _ = os.Remove(dir) })
		address = filepath.Join(dir, "s")
	}
	l, err := d.listenOn(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// dial opens a connection to l that is closed at the end of the test, if it is not by then; what waits
// on it ends with the test's patience.
func (d door) dial(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := d.dialContext(soon(t), l.Addr().Network(), l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// forDoors runs fn with veloq at both ends and at each end against package net's. A test whose client
// did not dial by its door has shown nothing, and fails.
func forDoors(t *testing.T, fn func(t *testing.T, server, client door)) {
	t.Helper()
	for _, ends := range [][2]string{{"veloq", "veloq"}, {"veloq", "net"}, {"net", "veloq"}} {
		t.Run("server "+ends[0]+", client "+ends[1], func(t *testing.T) {
			noLeak(t)
			server, client := newDoor(ends[0]), newDoor(ends[1])
			fn(t, server, client)
			assert.Positive(t, client.dialed.Load(), "connections that the client dialed")
		})
	}
}

// sized is the first size, the second with -short or under the race detector.
func sized(full, small int) int {
	if testing.Short() || raceEnabled {
		return small
	}
	return full
}
