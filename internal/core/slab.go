package core

// Slabs: include/veloq/slab.h. Changes when that header does.

// What a slab's pages are (VQ_SLAB_*).
const (
	SlabPlain   = 0
	SlabAdvised = 1
	SlabHuge    = 2
)

// SlabHugeBytes divides the size of slabs on huge pages (VQ_SLAB_HUGE_BYTES).
const SlabHugeBytes = 2 << 20
