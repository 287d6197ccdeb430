package veloq

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/internal/debugtag"
)

// Goal: what veloq_debug keeps of leases, buffers and connections takes no room in other builds.
func TestLease_NotesTakeNoRoom(t *testing.T) {
	if debugtag.Enabled {
		t.Skip("for builds without the tag")
	}
	require.Equal(t, unsafe.Sizeof(struct {
		buffer        *buffer
		heap          []byte
		gen, off, len uint32
	}{}), unsafe.Sizeof(Lease{}))
	require.Equal(t, unsafe.Sizeof(struct {
		block *poolBlock
		gen   uint64
		len   int
	}{}), unsafe.Sizeof(Buffer{}))
}
