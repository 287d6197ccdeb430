package tests

// What the report says of the system's sockets.

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// Goal: each thing is either there or lacking, the same each time, and the text names what is there.
func TestReport_SocketsTriedOut(t *testing.T) {
	needDriver(t)
	rt, err := veloq.New(veloq.Config{Workers: 1})
	require.NoError(t, err)
	defer func() { require.NoError(t, rt.Close()) }()
	r := rt.Report()
	assert.NotEmpty(t, r.Sockets)
	for _, name := range r.Sockets {
		assert.NotContains(t, r.SocketsLack, name)
	}
	for _, name := range []string{"UNIX", "UDP_SEGMENT", "UDP_GRO", "PACKET_INFO", "ECN", "KEEPALIVE_TIMES"} {
		assert.Contains(t, append(r.Sockets, r.SocketsLack...), name)
	}
	assert.Contains(t, r.String(), "sockets  "+strings.Join(r.Sockets, " ")+"\n")
	again := rt.Report()
	assert.Equal(t, r.Sockets, again.Sockets)
	assert.Equal(t, r.SocketsLack, again.SocketsLack)
}
