package rudp

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func someBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func TestStream_Echo(t *testing.T) {
	c, s, _ := pair(t, clientConfig(), serverConfig())
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	buf := make([]byte, 16)
	n, err := s.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(buf[:n]))
	_, err = s.Write(buf[:n])
	require.NoError(t, err)
	n, err = c.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(buf[:n]))
	assert.Equal(t, c.LocalAddr().(Addr).Port(), s.RemoteAddr().(Addr).Port())
	assert.Equal(t, s.LocalAddr().String(), c.RemoteAddr().String())
	assert.Equal(t, DefaultALPN, c.ConnectionState().NegotiatedProtocol)
	assert.Equal(t, "rudp.test", s.ConnectionState().ServerName)
}

func TestStream_BulkBothWays(t *testing.T) {
	c, s, _ := pair(t, clientConfig(), serverConfig())
	data := someBytes(8 << 20)
	done := make(chan error, 2)
	for _, side := range []*Stream{c, s} {
		go func() {
			_, err := io.Copy(side, bytes.NewReader(data))
			if err == nil {
				err = side.CloseWrite()
			}
			done <- err
		}()
	}
	for _, side := range []*Stream{s, c} {
		assert.True(t, bytes.Equal(data, readAll(t, side)))
	}
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

func TestStream_CloseDelivers(t *testing.T) {
	c, s, _ := pair(t, clientConfig(), serverConfig())
	data := someBytes(700 << 10)
	n, err := c.Write(data)
	require.NoError(t, err)
	require.Equal(t, len(data), n)
	require.NoError(t, c.Close())
	_, err = c.Write(data)
	require.ErrorIs(t, err, net.ErrClosed)
	assert.True(t, bytes.Equal(data, readAll(t, s)))
}
