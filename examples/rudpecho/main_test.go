package main

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp"
	"github.com/veloq/veloq/rudp/pin"
)

// start runs the server and returns where it listens, and its pin.
func start(t *testing.T) (addr, pinned string, end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, "127.0.0.1:0", w)
		w.CloseWithError(io.EOF)
		done <- err
	}()
	var lines []string
	for buf := make([]byte, 256); len(lines) < 3; {
		n, err := r.Read(buf)
		require.NoError(t, err)
		lines = append(lines, strings.Split(string(buf[:n]), "\n")...)
	}
	return strings.TrimPrefix(lines[0], "listening on "), strings.TrimPrefix(lines[1], "pin "), func() error {
		cancel()
		return <-done
	}
}

func TestRudpecho_EveryByteComesBack(t *testing.T) {
	addr, pinned, end := start(t)
	tlsConfig, err := pin.Client(pinned)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := rudp.Dial(ctx, "udp", addr, &rudp.Config{TLS: tlsConfig})
	require.NoError(t, err)
	text := strings.Repeat("all of this comes back. ", 50_000)
	go func() {
		_, _ = io.WriteString(s, text)
		_ = s.CloseWrite()
	}()
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	assert.True(t, text == string(got))
	require.NoError(t, s.Close())
	require.NoError(t, end())
}

func TestRudpecho_WrongPin(t *testing.T) {
	addr, _, end := start(t)
	_, other, err := pin.Server()
	require.NoError(t, err)
	tlsConfig, err := pin.Client(other)
	require.NoError(t, err)
	_, err = rudp.Dial(context.Background(), "udp", addr, &rudp.Config{TLS: tlsConfig})
	assert.ErrorIs(t, err, pin.ErrMismatch)
	require.NoError(t, end())
}

func TestRudpecho_BadAddress(t *testing.T) {
	assert.Error(t, run(context.Background(), "nowhere", io.Discard))
}
