package veloq

// Pools: buffers of C memory that belong to one worker, for what a program builds or keeps itself.

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/debugtag"
)

// PoolConfig says how a pool is made. The zero value of each field is its default.
type PoolConfig struct {
	// Sizes are the sizes of buffers in bytes, each a multiple of 64 from 64 to 16 MiB, at most 16 of
	// them; default 4, 16, 64 and 256 KiB.
	Sizes []int
	// Limit is how many bytes of memory the pool takes from the system at most; default 64 MiB. It
	// grows by slabs as buffers are asked for.
	Limit int
	// HugePages asks for pages of 2 MiB: reserved ones where the system has some, else ordinary memory
	// that it is asked to make huge (madvise(2), MADV_HUGEPAGE). PoolStats.Pages says what was got.
	HugePages bool
}

const (
	poolSizeMax = 16 << 20
	slabBytes   = 256 << 10
	poison      = 0xdb
)

// ErrPoolClosed is what a closed pool answers; errors.Is finds net.ErrClosed in it.
var ErrPoolClosed error = thingClosed("pool")

func (c *PoolConfig) setDefaults() error {
	if len(c.Sizes) == 0 {
		c.Sizes = []int{4 << 10, 16 << 10, 64 << 10, 256 << 10}
	}
	if c.Limit == 0 {
		c.Limit = 64 << 20
	}
	c.Sizes = slices.Compact(slices.Sorted(slices.Values(c.Sizes)))
	for _, size := range c.Sizes {
		if size < 64 || size > poolSizeMax || size%64 != 0 {
			return fmt.Errorf("veloq: PoolConfig.Sizes must be multiples of 64, 64 to 16 MiB, has %d", size)
		}
	}
	if len(c.Sizes) > 16 || c.Limit < 0 {
		return fmt.Errorf("veloq: PoolConfig has %d sizes and a limit of %d bytes", len(c.Sizes), c.Limit)
	}
	return nil
}

// Pool is a pool of buffers that belongs to a worker: its tasks and handlers get buffers from it, and
// any goroutine may give them back.
//
// With the build tag veloq_debug misuse panics with a *MisuseError, freed buffers are poisoned, and a
// buffer that the collector finds unreleased is reported.
type Pool struct {
	w       *worker
	config  PoolConfig
	classes []poolClass
	slabs   []poolSlab
	bytes   int
	inUse   int
	pages   int
	closed  atomic.Bool
	freed   bool
	// returned is a lock-free stack of what was released elsewhere.
	returned atomic.Pointer[poolBlock]
}

type poolClass struct {
	size int
	free *poolBlock
}

type poolSlab struct {
	mem    unsafe.Pointer
	size   int
	blocks []poolBlock
}

// poolBlock is one buffer's memory.
type poolBlock struct {
	pool  *Pool
	class *poolClass
	mem   unsafe.Pointer
	next  *poolBlock
	// gen is odd while somebody holds the block; it moves with each Get and Release.
	gen      atomic.Uint64
	released atomic.Pointer[[]uintptr] // by whom, under veloq_debug
}

// BindPool makes a pool that belongs to the worker of c. It lives until it is closed and every buffer
// has come back, or the runtime has ended. Errors: what is wrong with config. Worker only.
func BindPool(c *Context, config PoolConfig) (*Pool, error) {
	if !c.w.here() {
		return nil, c.w.elsewhere()
	}
	config.Sizes = slices.Clone(config.Sizes)
	if err := config.setDefaults(); err != nil {
		return nil, err
	}
	p := &Pool{w: c.w, config: config}
	for _, size := range config.Sizes {
		p.classes = append(p.classes, poolClass{size: size})
	}
	c.w.pools = append(c.w.pools, p)
	return p, nil
}

// Buffer is a hold on a pool's buffer: a small value, whose copies are the same hold. It is released
// once. The zero Buffer is empty.
type Buffer struct {
	trace debugtag.Note[bufferTrace] // found by the collector when the hold is lost
	block *poolBlock
	gen   uint64
	len   int
}

// Get returns a buffer of size bytes, whose content is anything: the smallest that is large enough, or
// a larger one when those are used up. Errors: ErrFull at the pool's limit, ErrTooLong for more
// than the largest size, ErrWrongWorker on another worker or goroutine, ErrPoolClosed after
// Close. The caller owns the buffer until Release. Worker only.
func (p *Pool) Get(size int) (Buffer, error) {
	if !p.w.here() {
		if debugtag.Enabled && !p.w.ended.Load() {
			panic(misuse("pool", "Get from outside its worker", nil))
		}
		return Buffer{}, p.w.elsewhere()
	}
	if p.closed.Load() {
		return Buffer{}, ErrPoolClosed
	}
	first := slices.IndexFunc(p.config.Sizes, func(s int) bool { return size <= s })
	if first < 0 || size < 0 {
		return Buffer{}, ErrTooLong
	}
	if p.classes[first].free == nil {
		p.reclaim()
	}
	if p.classes[first].free == nil {
		p.grow(&p.classes[first])
	}
	for i := first; i < len(p.classes); i++ {
		if b := p.classes[i].free; b != nil {
			p.classes[i].free, b.next = b.next, nil
			p.inUse++
			buf := Buffer{block: b, gen: b.gen.Add(1), len: size}
			if debugtag.Enabled {
				buf.debugGet()
			}
			return buf, nil
		}
	}
	return Buffer{}, ErrFull
}

// grow takes a slab for a class, if the limit allows.
func (p *Pool) grow(class *poolClass) {
	unit, wanted := slabBytes, core.SlabPlain
	if p.config.HugePages {
		unit, wanted = core.SlabHugeBytes, core.SlabHuge
	}
	size := (class.size + unit - 1) / unit * unit
	if p.bytes+size > p.config.Limit {
		return
	}
	mem, got := core.AllocSlab(uintptr(size), wanted)
	if mem == nil {
		return
	}
	if len(p.slabs) == 0 || got < p.pages {
		p.pages = got
	}
	slab := poolSlab{mem: mem, size: size, blocks: make([]poolBlock, size/class.size)}
	for i := len(slab.blocks) - 1; i >= 0; i-- { // the first one on top
		b := &slab.blocks[i]
		b.pool, b.class, b.mem = p, class, unsafe.Add(mem, i*class.size)
		b.next, class.free = class.free, b
		if debugtag.Enabled {
			b.poison()
		}
	}
	p.slabs = append(p.slabs, slab)
	p.bytes += size
}

// reclaim takes back what was released elsewhere.
func (p *Pool) reclaim() {
	for b := p.returned.Swap(nil); b != nil; {
		next := b.next
		p.put(b)
		b = next
	}
}

func (p *Pool) put(b *poolBlock) {
	b.next, b.class.free = b.class.free, b
	p.inUse--
}

// Bytes returns the buffer's bytes, valid until Release; nil for a Buffer that was released or whose
// runtime is closed. Any goroutine that may use the buffer.
func (b Buffer) Bytes() []byte {
	if b.block == nil || b.block.gen.Load() != b.gen {
		return nil
	}
	return unsafe.Slice((*byte)(b.block.mem), b.block.class.size)[:b.len]
}

// Len returns how many bytes Bytes has. Any goroutine.
func (b Buffer) Len() int { return b.len }

// Cap returns how many it could have. Any goroutine.
func (b Buffer) Cap() int {
	if b.block == nil {
		return 0
	}
	return b.block.class.size
}

// Resize returns the same hold with n bytes, at most Cap. It panics beyond. Any goroutine.
func (b Buffer) Resize(n int) Buffer {
	if n < 0 || n > b.Cap() {
		panic("veloq: Buffer.Resize out of range")
	}
	b.len = n
	return b
}

// Release gives the buffer back. From elsewhere than its worker it travels back by itself. A second
// Release of the hold does nothing. Any goroutine.
func (b Buffer) Release() {
	if b.block == nil {
		return
	}
	if debugtag.Enabled {
		b.debugRelease()
	}
	if !b.block.gen.CompareAndSwap(b.gen, b.gen+1) {
		if debugtag.Enabled && !b.block.pool.w.ended.Load() {
			panic(misuse(b.block.name(), "released twice", b.block.releasedAt()))
		}
		return
	}
	b.block.giveBack()
}

// giveBack returns a block that nobody holds any more.
func (b *poolBlock) giveBack() {
	p := b.pool
	if p.w.here() && !p.w.ended.Load() {
		p.put(b)
		if p.closed.Load() {
			p.finish(p.w)
		}
		return
	}
	for {
		head := p.returned.Load()
		b.next = head
		if p.returned.CompareAndSwap(head, b) {
			break
		}
	}
	if p.closed.Load() { // nobody will ask for it
		p.w.post(&note{do: p.finish})
	}
}

// Close ends the pool: Get fails from now on, and the memory is given to the system when the last
// buffer has come back. Worker only: ErrWrongWorker elsewhere. A second Close does nothing.
func (p *Pool) Close() error {
	if !p.w.here() {
		return p.w.elsewhere()
	}
	p.closed.Store(true)
	p.finish(p.w)
	return nil
}

// finish frees the memory of a closed pool that has everything back.
func (p *Pool) finish(w *worker) {
	p.reclaim()
	if p.inUse > 0 {
		return
	}
	p.free()
	if i := slices.Index(w.pools, p); i >= 0 {
		w.pools = slices.Delete(w.pools, i, i+1)
	}
}

// free unmaps everything. Holds that are left see that their bytes are gone.
func (p *Pool) free() {
	if p.freed {
		return
	}
	p.freed = true
	p.closed.Store(true)
	for _, slab := range p.slabs {
		for i := range slab.blocks {
			slab.blocks[i].gen.Add(2)
		}
		core.FreeSlab(slab.mem, uintptr(slab.size))
	}
	p.slabs, p.bytes = nil, 0
	for i := range p.classes {
		p.classes[i].free = nil
	}
}

// PoolStats is what a pool holds.
type PoolStats struct {
	Bytes int    // of memory taken from the system
	InUse int    // buffers that are not known to be back
	Pages string // "plain", "advised" or "huge": the least of what its slabs got
}

// Stats returns what the pool holds; zero elsewhere than on its worker. Worker only.
func (p *Pool) Stats() PoolStats {
	if !p.w.here() {
		return PoolStats{}
	}
	p.reclaim()
	return PoolStats{Bytes: p.bytes, InUse: p.inUse, Pages: [...]string{"plain", "advised", "huge"}[p.pages]}
}

// ---- what veloq_debug adds

// bufferTrace lives as long as some copy of its hold.
type bufferTrace struct {
	block *poolBlock
	gen   uint64
	got   []uintptr
}

// name says in a MisuseError what kind of buffer it is.
func (b *poolBlock) name() string {
	return fmt.Sprintf("buffer of a pool with %v on worker %d", b.pool.config.Sizes, b.pool.w.id)
}

func (b *poolBlock) bytes() []byte { return unsafe.Slice((*byte)(b.mem), b.class.size) }

func (b *poolBlock) poison() { poisonBytes(b.bytes()) }

// releasedAt returns the stack of the last Release.
func (b *poolBlock) releasedAt() []uintptr {
	if at := b.released.Load(); at != nil {
		return *at
	}
	return nil
}

func poisonBytes(mem []byte) {
	for i := range mem {
		mem[i] = poison
	}
}

// debugGet looks whether the memory was written to while nobody held it, and has the collector report
// the hold if it is lost.
func (b *Buffer) debugGet() {
	for i, v := range b.block.bytes() {
		if v != poison {
			panic(misuse(b.block.name(), fmt.Sprintf("written to at byte %d after its release", i), b.block.releasedAt()))
		}
	}
	trace := bufferTrace{block: b.block, gen: b.gen, got: callerStack(0)}
	b.trace.Set(&trace)
	runtime.AddCleanup(&trace, bufferTrace.collected, trace)
}

// collected is called when no copy of the hold is left. The buffer stays out: slices of its bytes may
// still be in use, which the collector does not see.
func (t bufferTrace) collected() {
	p := t.block.pool
	if p.w.rt.closing.Load() || t.block.gen.Load() != t.gen {
		return
	}
	p.w.lost.buffers.Add(1)
	p.w.rt.misused(misuse(t.block.name(), "lost without a Release", t.got))
}

// debugRelease poisons what is about to be given back.
func (b *Buffer) debugRelease() {
	if b.block.gen.Load() == b.gen {
		at := callerStack(0)
		b.block.released.Store(&at)
		b.block.poison()
	}
	runtime.KeepAlive(b.trace.Get())
}
