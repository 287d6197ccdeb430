package pin

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// handshake returns the error of each side.
func handshake(server, client *tls.Config) (atServer, atClient error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(a, server).Handshake()
		a.Close()
	}()
	atClient = tls.Client(b, client).Handshake()
	b.Close()
	return <-done, atClient
}

func TestPin_OnlyThePinnedOne(t *testing.T) {
	server, pin, err := Server()
	require.NoError(t, err)
	assert.Equal(t, pin, Of(server.Certificates[0].Certificate[0]))
	client, err := Client(strings.ToUpper(pin))
	require.NoError(t, err)
	atServer, atClient := handshake(server, client)
	assert.NoError(t, atServer)
	assert.NoError(t, atClient)
	other, otherPin, err := Server()
	require.NoError(t, err)
	assert.NotEqual(t, pin, otherPin)
	atServer, atClient = handshake(other, client)
	assert.Error(t, atServer)
	assert.ErrorIs(t, atClient, ErrMismatch)
}

func TestPin_NotAPin(t *testing.T) {
	for _, s := range []string{"", "xyz", strings.Repeat("0", 62), strings.Repeat("0", 66), strings.Repeat("g", 64)} {
		_, err := Client(s)
		assert.Error(t, err, s)
	}
}
