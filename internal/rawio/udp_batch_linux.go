//go:build linux && (amd64 || arm64 || riscv64 || loong64)

package rawio

// Many datagrams in one call: recvmmsg(2) and sendmmsg(2), over memory that is kept between calls.

import (
	"syscall"
	"unsafe"
)

const (
	// MsgBatchMax is the most that the kernel takes in one call (UIO_MAXIOV).
	MsgBatchMax = 1024
	// A raw call holds its processor; what takes longer than some 64 KiB do tells the scheduler.
	rawBytesMax = 64 << 10
	rawCountMax = 32
)

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr syscall.Msghdr
	len uint32
	_   [4]byte
}

// extent says which parts of the batch's tables are an entry's.
type extent struct {
	iov, iovCount         int
	control, controlCount int
}

// MsgBatch is the memory of a recvmmsg or sendmmsg, for one caller at a time. Entries are added,
// then all are received or sent. Buffers belong to the batch from Add until Clear. An entry is
// plain data until Seal, so that the tables may move while they grow.
type MsgBatch struct {
	hdrs    []mmsghdr
	extents []extent
	iovs    []syscall.Iovec
	names   []MsgName
	control []byte
	bytes   int
}

// Len is the number of entries.
func (b *MsgBatch) Len() int { return len(b.extents) }

// Clear drops all entries and every reference to the caller's memory.
func (b *MsgBatch) Clear() {
	clear(b.hdrs)
	clear(b.iovs)
	b.hdrs, b.extents, b.iovs = b.hdrs[:0], b.extents[:0], b.iovs[:0]
	b.names, b.control, b.bytes = b.names[:0], b.control[:0], 0
}

// Begin starts an entry: buffers follow by Buffer.
func (b *MsgBatch) Begin() {
	b.extents = append(b.extents, extent{iov: len(b.iovs)})
	b.names = append(b.names, MsgName{})
	b.hdrs = append(b.hdrs, mmsghdr{})
}

// Buffer adds p to the newest entry.
func (b *MsgBatch) Buffer(p []byte) {
	if len(p) == 0 {
		return
	}
	b.iovs = append(b.iovs, syscall.Iovec{Base: &p[0], Len: uint64(len(p))})
	b.extents[len(b.extents)-1].iovCount++
	b.bytes += len(p)
}

// Name is the address of the newest entry.
func (b *MsgBatch) Name() *MsgName { return &b.names[len(b.names)-1] }

// OOB makes the caller's memory the newest entry's control messages.
func (b *MsgBatch) OOB(oob []byte) {
	h := &b.hdrs[len(b.hdrs)-1].hdr
	h.Control, h.Controllen = &oob[0], uint64(len(oob))
}

// ControlRoom gives the newest entry size bytes of the batch's own memory for control messages.
func (b *MsgBatch) ControlRoom(size int) {
	e := &b.extents[len(b.extents)-1]
	e.control, e.controlCount = len(b.control), size
	if cap(b.control)-len(b.control) < size {
		b.control = append(b.control, make([]byte, size)...)
		return
	}
	b.control = b.control[:len(b.control)+size]
}

// Control returns the batch's memory of control messages, to be appended to and given to SetControl.
func (b *MsgBatch) Control() []byte { return b.control }

// SetControl keeps what was appended to Control, and makes its bytes from begin to end the newest
// entry's control messages. Several entries may share them.
func (b *MsgBatch) SetControl(control []byte, begin, end int) {
	b.control = control
	e := &b.extents[len(b.extents)-1]
	e.control, e.controlCount = begin, end-begin
}

// Seal writes the pointers between the tables. Nothing may be added after it.
func (b *MsgBatch) Seal() {
	for i := range b.extents {
		e, h := &b.extents[i], &b.hdrs[i].hdr
		if e.iovCount > 0 {
			h.Iov, h.Iovlen = &b.iovs[e.iov], uint64(e.iovCount)
		}
		if e.controlCount > 0 {
			h.Control, h.Controllen = &b.control[e.control], uint64(e.controlCount)
		}
		where, size := b.names[i].pointer()
		h.Name, h.Namelen = (*byte)(where), size
	}
}

// Recv is recvmmsg(2) with MSG_DONTWAIT, into all entries.
func (b *MsgBatch) Recv(fd uintptr, flags int) (int, syscall.Errno) {
	for i := range b.hdrs {
		b.names[i].reset()
		h := &b.hdrs[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.names[i].buf)), MsgNameSize
	}
	n, errno := b.call(syscall.SYS_RECVMMSG, fd, 0, flags, len(b.hdrs) <= rawCountMax)
	for i := range n {
		b.names[i].len = b.hdrs[i].hdr.Namelen
		e, left := &b.extents[i], int(b.hdrs[i].len)
		for _, v := range b.iovs[e.iov : e.iov+e.iovCount] {
			p := unsafe.Slice(v.Base, min(left, int(v.Len)))
			msgWritten(p)
			left -= len(p)
		}
	}
	return n, errno
}

// Send is sendmmsg(2) with MSG_DONTWAIT, of the entries from first on. It returns how many went.
func (b *MsgBatch) Send(fd uintptr, first, flags int) (int, syscall.Errno) {
	if msgRaceEnabled {
		for _, v := range b.iovs {
			msgReads(unsafe.Slice(v.Base, int(v.Len)))
		}
	}
	return b.call(sysSENDMMSG, fd, first, flags, b.bytes <= rawBytesMax)
}

func (b *MsgBatch) call(trap, fd uintptr, first, flags int, raw bool) (int, syscall.Errno) {
	count := min(len(b.hdrs)-first, MsgBatchMax)
	for {
		var n uintptr
		var errno syscall.Errno
		if raw {
			n, _, errno = syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&b.hdrs[first])),
				uintptr(count), uintptr(flags|syscall.MSG_DONTWAIT), 0, 0)
		} else {
			n, _, errno = syscall.Syscall6(trap, fd, uintptr(unsafe.Pointer(&b.hdrs[first])),
				uintptr(count), uintptr(flags|syscall.MSG_DONTWAIT), 0, 0)
		}
		switch errno {
		case syscall.EINTR:
			continue
		case 0:
			return int(n), 0
		}
		return 0, errno
	}
}

// Result returns what the kernel said of entry i: bytes, control bytes, flags.
func (b *MsgBatch) Result(i int) (n, controlCount, flags int) {
	h := &b.hdrs[i]
	return int(h.len), int(h.hdr.Controllen), int(h.hdr.Flags)
}

// From returns the address of entry i.
func (b *MsgBatch) From(i int) *MsgName { return &b.names[i] }

// Received returns entry i's control messages, in the caller's memory or the batch's own.
func (b *MsgBatch) Received(i int) []byte {
	h := &b.hdrs[i].hdr
	if h.Control == nil {
		return nil
	}
	return unsafe.Slice(h.Control, int(h.Controllen))
}
