package interop

// This file changes if how much is moved between rudp and quic-go, or over which link, does.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp"
)

// long is VELOQ_LONG=1: full sizes instead of those for every day.
var long = os.Getenv("VELOQ_LONG") == "1"

// halfCloser is what both transports' streams are.
type halfCloser interface {
	io.ReadWriter
	closeWrite() error
}

type rudpEnd struct{ *rudp.Stream }

func (e rudpEnd) closeWrite() error { return e.CloseWrite() }

type quicEnd struct{ *quic.Stream }

func (e quicEnd) closeWrite() error { return e.Close() }

// noise is an endless stream of bytes that a seed gives.
func noise(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// pour writes size bytes of a seed's, and the end.
func pour(to halfCloser, seed byte, size int64) error {
	from := io.LimitReader(noise(seed), size)
	if n, err := io.CopyBuffer(struct{ io.Writer }{to}, from, make([]byte, 64<<10)); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	return to.closeWrite()
}

// verify reads to the end and holds every byte against the seed's.
func verify(from io.Reader, seed byte, size int64) error {
	want, sum := noise(seed), sha256.New()
	got, expected := make([]byte, 64<<10), make([]byte, 64<<10)
	var at int64
	for {
		n, err := from.Read(got)
		sum.Write(got[:n])
		if _, err := io.ReadFull(want, expected[:n]); err != nil {
			return err
		}
		if !bytes.Equal(got[:n], expected[:n]) {
			return fmt.Errorf("wrong bytes between %d and %d", at, at+int64(n))
		}
		at += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", at, err)
		}
	}
	if at != size {
		return fmt.Errorf("%d bytes of %d", at, size)
	}
	whole := sha256.New()
	if _, err := io.CopyN(whole, noise(seed), size); err != nil {
		return err
	}
	if !bytes.Equal(whole.Sum(nil), sum.Sum(nil)) {
		return errors.New("another SHA-256")
	}
	return nil
}

// both pours and verifies at one end.
func both(e halfCloser, out, in byte, size int64) error {
	poured := make(chan error, 1)
	go func() { poured <- pour(e, out, size) }()
	return errors.Join(verify(e, in, size), <-poured)
}

// Goal: 100 MB each way at once between rudp and quic-go, in both roles, while datagrams are lost and
// overtake each other: every byte arrives, in order, and then the end.
func TestInterop_Bulk(t *testing.T) {
	size := int64(3 << 20)
	if long {
		size = 100_000_000
	}
	const toServer, toClient = 1, 2
	f := fate{loss: 0.005, reorder: 0.02, hold: 3 * time.Millisecond, seed: 11}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	run := func(t *testing.T, r *relay, client halfCloser, served <-chan error) {
		begin := time.Now()
		require.NoError(t, both(client, toServer, toClient, size), "client")
		require.NoError(t, <-served, "server")
		up, down := r.stats()
		t.Logf("%d bytes each way in %v; to the server %+v, to the client %+v", size, time.Since(begin), up, down)
		for _, w := range []wayStats{up, down} {
			assert.Positive(t, w.lost)
			assert.Positive(t, w.late)
		}
	}
	for _, congestion := range []string{"bbr", "cubic"} {
		t.Run("rudp dials/"+congestion, func(t *testing.T) {
			served := make(chan error, 1)
			r := newRelay(t, quicServer(t, false, func(_ *quic.Conn, s *quic.Stream) {
				served <- both(quicEnd{s}, toClient, toServer, size)
			}), f)
			s, err := rudp.Dial(ctx, "udp4", r.addr().String(), &rudp.Config{TLS: clientTLS(), Congestion: congestion})
			require.NoError(t, err)
			defer func() { assert.NoError(t, s.Endpoint().Close()) }()
			run(t, r, rudpEnd{s}, served)
			t.Logf("%+v", s.Stats())
		})
		t.Run("quic-go dials/"+congestion, func(t *testing.T) {
			l, err := rudp.Listen("udp4", "127.0.0.1:0", &rudp.Config{TLS: serverTLS(t), Congestion: congestion})
			require.NoError(t, err)
			defer func() { assert.NoError(t, l.Endpoint().Close()) }()
			served := make(chan error, 1)
			go func() {
				s, err := l.AcceptStream()
				if err == nil {
					err = both(rudpEnd{s}, toClient, toServer, size)
				}
				served <- err
			}()
			r := newRelay(t, netip.MustParseAddrPort(l.Addr().String()), f)
			_, c := quicDial(t, r.addr())
			stream, err := c.OpenStreamSync(ctx)
			require.NoError(t, err)
			run(t, r, quicEnd{stream}, served)
			require.NoError(t, c.CloseWithError(0, ""))
		})
	}
}
