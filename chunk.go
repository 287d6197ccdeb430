package veloq

// Chunks: the C memory that queued bytes are copied into.

import (
	"unsafe"

	"github.com/veloq/veloq/internal/core"
)

const (
	// chunkBytes is the size of a chunk.
	chunkBytes = 32 << 10
	// chunkFreeMax bounds the chunks that a worker keeps for reuse.
	chunkFreeMax = 64
)

// chunk is C memory of one stream's queue, filled from the start; segments refer to parts of it.
type chunk struct {
	mem  []byte
	used int
	refs int // segments
}

func (w *worker) takeChunk() *chunk {
	if n := len(w.chunkFree); n > 0 {
		c := w.chunkFree[n-1]
		w.chunkFree = w.chunkFree[:n-1]
		return c
	}
	mem := core.Alloc(chunkBytes)
	if mem == nil {
		panic("veloq: out of memory")
	}
	return &chunk{mem: unsafe.Slice((*byte)(mem), chunkBytes)}
}

func (w *worker) giveChunk(c *chunk) {
	c.used = 0
	if len(w.chunkFree) < chunkFreeMax {
		w.chunkFree = append(w.chunkFree, c)
		return
	}
	c.free()
}

func (c *chunk) start() unsafe.Pointer { return unsafe.Pointer(&c.mem[0]) }

// free gives the memory to the system. Any goroutine.
func (c *chunk) free() { core.Free(c.start()) }
