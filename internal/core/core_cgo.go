//go:build cgo && (linux || windows)

package core

/*
#cgo CFLAGS: -std=gnu11 -I${SRCDIR}/../../include
#include "veloq/control.h"
#include "veloq/driver.h"
#include "veloq/slab.h"
#include "veloq/socket.h"

// What a turn calls: no Go pointer escapes and none of it calls back.
#cgo noescape vq_driver_enter
#cgo nocallback vq_driver_enter
#cgo noescape vq_driver_enter_delayed
#cgo nocallback vq_driver_enter_delayed
#cgo noescape vq_thread_yield
#cgo nocallback vq_thread_yield
#cgo noescape vq_doorbell_ring
#cgo nocallback vq_doorbell_ring
#cgo noescape vq_socket_local
#cgo nocallback vq_socket_local
#cgo noescape vq_socket_peer
#cgo nocallback vq_socket_peer
*/
import "C"

import (
	"unsafe"

	_ "github.com/veloq/veloq/csrc"
	_ "github.com/veloq/veloq/include"
)

// Available reports whether this build has a C core.
const Available = true

// Layouts that Go and C share; a difference fails the build.
const (
	_ = uint(unsafe.Sizeof(SQE{}) - C.sizeof_vq_sqe)
	_ = uint(C.sizeof_vq_sqe - unsafe.Sizeof(SQE{}))
	_ = uint(unsafe.Sizeof(CQE{}) - C.sizeof_vq_cqe)
	_ = uint(C.sizeof_vq_cqe - unsafe.Sizeof(CQE{}))
	_ = uint(unsafe.Sizeof(Config{}) - C.sizeof_vq_driver_config)
	_ = uint(C.sizeof_vq_driver_config - unsafe.Sizeof(Config{}))
	_ = uint(unsafe.Sizeof(Report{}) - C.sizeof_vq_driver_report)
	_ = uint(C.sizeof_vq_driver_report - unsafe.Sizeof(Report{}))
	_ = uint(unsafe.Sizeof(Attempt{}) - C.sizeof_vq_driver_attempt)
	_ = uint(C.sizeof_vq_driver_attempt - unsafe.Sizeof(Attempt{}))
	_ = uint(unsafe.Sizeof(Msghdr{}) - C.sizeof_vq_msghdr)
	_ = uint(C.sizeof_vq_msghdr - unsafe.Sizeof(Msghdr{}))
	_ = uint(unsafe.Sizeof(RecvMsgOut{}) - C.sizeof_vq_recvmsg_out)
	_ = uint(C.sizeof_vq_recvmsg_out - unsafe.Sizeof(RecvMsgOut{}))
	_ = uint(unsafe.Sizeof(Addr{}) - C.sizeof_vq_addr)
	_ = uint(C.sizeof_vq_addr - unsafe.Sizeof(Addr{}))
	_ = uint(unsafe.Sizeof(SocketConfig{}) - C.sizeof_vq_socket_config)
	_ = uint(C.sizeof_vq_socket_config - unsafe.Sizeof(SocketConfig{}))
	_ = uint(C.VQ_OP_SHUTDOWN - OpShutdown)
	_ = uint(OpShutdown - C.VQ_OP_SHUTDOWN)
	_ = uint(C.VQ_CQE_BUF_MORE - CQEBufMore)
	_ = uint(CQEBufMore - C.VQ_CQE_BUF_MORE)
	_ = uint(C.VQ_CAP_TIMEOUT_UPDATE - CapTimeoutUpdate)
	_ = uint(CapTimeoutUpdate - C.VQ_CAP_TIMEOUT_UPDATE)
	_ = uint(C.VQ_IP_PKTINFO - controlInfo4)
	_ = uint(controlInfo4 - C.VQ_IP_PKTINFO)
	_ = uint(C.VQ_IPV6_TCLASS - controlClass6)
	_ = uint(controlClass6 - C.VQ_IPV6_TCLASS)
	_ = uint(C.VQ_UDP_GRO - controlCoalesce)
	_ = uint(controlCoalesce - C.VQ_UDP_GRO)
	_ = uint(C.sizeof_vq_in_pktinfo - info4Bytes)
	_ = uint(info4Bytes - C.sizeof_vq_in_pktinfo)
	_ = uint(C.VQ_CAP_SEND_FILE - CapSendFile)
	_ = uint(CapSendFile - C.VQ_CAP_SEND_FILE)
	_ = uint(C.VQ_CAP_MIN_WAIT - CapMinWait)
	_ = uint(CapMinWait - C.VQ_CAP_MIN_WAIT)
	_ = uint(C.VQ_OP_SEND_FILE - OpSendFile)
	_ = uint(OpSendFile - C.VQ_OP_SEND_FILE)
	_ = uint(C.VQ_OPT_DONT_FRAGMENT - OptDontFragment)
	_ = uint(OptDontFragment - C.VQ_OPT_DONT_FRAGMENT)
	_ = uint(C.VQ_SOCKET_SHARED - SocketShared)
	_ = uint(SocketShared - C.VQ_SOCKET_SHARED)
	_ = uint(C.VQ_CAP_RESTRICTED - CapRestricted)
	_ = uint(CapRestricted - C.VQ_CAP_RESTRICTED)
	_ = uint(C.VQ_SLAB_HUGE - SlabHuge)
	_ = uint(SlabHuge - C.VQ_SLAB_HUGE)
	_ = uint(C.VQ_SLAB_HUGE_BYTES - SlabHugeBytes)
	_ = uint(SlabHugeBytes - C.VQ_SLAB_HUGE_BYTES)
	_ = uint(C.VQ_OPT_ERROR - OptError)
	_ = uint(OptError - C.VQ_OPT_ERROR)
)

// checkLayout holds what the compiler can't: that the C library linked in is the one whose headers
// were compiled against, and that the machine is little-endian.
func checkLayout() bool {
	one := uint16(1)
	return C.vq_abi() == C.VQ_ABI && *(*byte)(unsafe.Pointer(&one)) == 1
}

// CreateDriver creates a driver owned by the calling thread, which must be locked to its goroutine.
// The report is filled in also when it fails. Blocks.
func CreateDriver(config Config) (*Driver, Report, error) {
	var report Report
	if !checkLayout() {
		return nil, report, Errno(C.VQ_EINVAL)
	}
	var handle *C.vq_driver
	rc := C.vq_driver_create((*C.vq_driver_config)(unsafe.Pointer(&config)),
		(*C.vq_driver_report)(unsafe.Pointer(&report)), &handle)
	if rc != 0 {
		return nil, report, Errno(-rc)
	}
	var view C.vq_driver_view
	C.vq_driver_view_get(handle, &view)
	d := &Driver{
		handle:    unsafe.Pointer(handle),
		sqes:      unsafe.Pointer(view.sqes),
		sqHead:    (*uint32)(view.sq_head),
		sqFlags:   (*uint32)(view.sq_flags),
		ringTail:  (*uint32)(view.sq_ring_tail),
		enterFD:   int32(view.enter_fd),
		cqes:      unsafe.Pointer(view.cqes),
		cqHead:    (*uint32)(view.cq_head),
		cqTail:    (*uint32)(view.cq_tail),
		sqEntries: uint32(view.sq_entries),
		cqMask:    uint32(view.cq_entries) - 1,
		Timespec:  (*Timespec)(unsafe.Pointer(view.timespec)),
		Doorbell:  (*Doorbell)(unsafe.Pointer(view.doorbell)),
		Report:    report,
		Packets: BufferGroup{
			ring:      unsafe.Pointer(view.packet_ring),
			base:      unsafe.Pointer(view.packet_base),
			tail:      uint16(view.packet_count),
			Count:     uint32(view.packet_count),
			SizeBytes: uint32(view.packet_size_bytes),
			ID:        uint16(view.packet_group),
		},
		Buffers: BufferGroup{
			ring:        unsafe.Pointer(view.buf_ring),
			tailWord:    (*uint32)(unsafe.Add(unsafe.Pointer(view.buf_ring), 12)),
			base:        unsafe.Pointer(view.buf_base),
			tail:        uint16(view.buffer_count),
			Count:       uint32(view.buffer_count),
			SizeBytes:   uint32(view.buffer_size_bytes),
			ID:          uint16(view.buf_group),
			Incremental: report.Caps&CapBufferIncremental != 0,
		},
	}
	if d.Packets.Count > 0 {
		d.Packets.tailWord = (*uint32)(unsafe.Add(d.Packets.ring, 12))
	}
	return d, report, nil
}

func driverEnter(handle unsafe.Pointer, sqTail, wait uint32) int32 {
	return int32(C.vq_driver_enter((*C.vq_driver)(handle), C.uint32_t(sqTail), C.uint32_t(wait)))
}

func driverEnterDelayed(handle unsafe.Pointer, sqTail, count, micros uint32) int32 {
	return int32(C.vq_driver_enter_delayed((*C.vq_driver)(handle), C.uint32_t(sqTail), C.uint32_t(count), C.uint32_t(micros)))
}

func driverDestroy(handle unsafe.Pointer) {
	C.vq_driver_destroy((*C.vq_driver)(handle))
}

// PrepWake fills sqe with the op that completes whenever the driver's doorbell rings.
func (d *Driver) PrepWake(sqe *SQE) {
	C.vq_driver_prep_wake((*C.vq_driver)(d.handle), (*C.vq_sqe)(unsafe.Pointer(sqe)))
}

func doorbellRing(d *Doorbell) {
	C.vq_doorbell_ring((*C.vq_doorbell)(unsafe.Pointer(d)))
}

// AllocSlab maps size bytes, a multiple of 64 KiB and of SlabHugeBytes unless wanted is SlabPlain. It
// returns nil where there is no memory, and which of Slab* was got. Any goroutine.
func AllocSlab(size uintptr, wanted int) (mem unsafe.Pointer, got int) {
	rc := C.vq_slab_alloc(C.size_t(size), C.int32_t(wanted), &mem)
	if rc < 0 {
		return nil, 0
	}
	return mem, int(rc)
}

// FreeSlab unmaps what AllocSlab returned.
func FreeSlab(mem unsafe.Pointer, size uintptr) { C.vq_slab_free(mem, C.size_t(size)) }

// YieldThread lets another thread that is ready on this CPU run first. Any goroutine.
func YieldThread() { C.vq_thread_yield() }

// OpenStream makes a stream socket of family AF4 or AF6. The call names the step that failed.
func OpenStream(family uint16, config *SocketConfig) (fd int32, call Call, err error) {
	var failed C.int32_t
	rc := C.vq_socket_stream(C.uint16_t(family), (*C.vq_socket_config)(unsafe.Pointer(config)), &failed)
	if rc < 0 {
		return -1, Call(failed), Errno(-rc)
	}
	return int32(rc), CallNone, nil
}

// OpenDatagram makes a datagram socket of family AFUnix, AF4 or AF6. The call names the step that failed.
func OpenDatagram(family uint16, config *SocketConfig) (fd int32, call Call, err error) {
	var failed C.int32_t
	rc := C.vq_socket_datagram(C.uint16_t(family), (*C.vq_socket_config)(unsafe.Pointer(config)), &failed)
	if rc < 0 {
		return -1, Call(failed), Errno(-rc)
	}
	return int32(rc), CallNone, nil
}

// Connect is connect(2) of a datagram socket: it does not block.
func Connect(fd int32, addr *Addr) error {
	return result(C.vq_socket_connect(C.int(fd), (*C.vq_addr)(unsafe.Pointer(addr))))
}

// Group joins or leaves a multicast group on the interface of that index, 0 for the system's choice.
func Group(fd int32, join bool, group *Addr, interfaceIndex uint32) error {
	return result(C.vq_socket_group(C.int(fd), C.bool(join), (*C.vq_addr)(unsafe.Pointer(group)),
		C.uint32_t(interfaceIndex)))
}

// Listen binds fd to addr (nil: it is bound), listens, and returns the address it got.
func Listen(fd int32, addr *Addr, backlog int32) (bound Addr, call Call, err error) {
	var failed C.int32_t
	rc := C.vq_socket_listen(C.int(fd), (*C.vq_addr)(unsafe.Pointer(addr)), C.int32_t(backlog),
		(*C.vq_addr)(unsafe.Pointer(&bound)), &failed)
	if rc < 0 {
		return Addr{}, Call(failed), Errno(-rc)
	}
	return bound, CallNone, nil
}

// Bind binds fd to addr.
func Bind(fd int32, addr *Addr) error {
	return result(C.vq_socket_bind(C.int(fd), (*C.vq_addr)(unsafe.Pointer(addr))))
}

// LocalAddr is getsockname(2).
func LocalAddr(fd int32) (Addr, error) {
	var addr Addr
	rc := C.vq_socket_local(C.int(fd), (*C.vq_addr)(unsafe.Pointer(&addr)))
	return addr, result(rc)
}

// PeerAddr is getpeername(2).
func PeerAddr(fd int32) (Addr, error) {
	var addr Addr
	rc := C.vq_socket_peer(C.int(fd), (*C.vq_addr)(unsafe.Pointer(&addr)))
	return addr, result(rc)
}

// EncodeAddr writes addr as the system's sockaddr to out, AddrBytesMax bytes of C memory.
func EncodeAddr(addr *Addr, out unsafe.Pointer) (lenBytes int32, err error) {
	rc := C.vq_addr_encode((*C.vq_addr)(unsafe.Pointer(addr)), out)
	return int32(rc), result(rc)
}

// SetOption sets one Opt of a live socket.
func SetOption(fd, option, value int32) error {
	return result(C.vq_socket_set(C.int(fd), C.int32_t(option), C.int32_t(value)))
}

// GetOption reads one Opt of a live socket.
func GetOption(fd, option int32) (int32, error) {
	var value C.int32_t
	rc := C.vq_socket_get(C.int(fd), C.int32_t(option), &value)
	return int32(value), result(rc)
}

// DupSocket returns a second descriptor of a socket, one that waits.
func DupSocket(fd int32) (int32, error) {
	copied := C.vq_socket_dup(C.int(fd))
	return int32(copied), result(copied)
}

// CloseSocket is close(2), for sockets without an op in flight.
func CloseSocket(fd int32) error { return result(C.vq_socket_close(C.int(fd))) }

// BacklogMax returns the longest accept queue that the system allows.
func BacklogMax() int32 { return int32(C.vq_socket_backlog_max()) }

// PinThread ties the calling thread to one CPU.
func PinThread(cpu uint32) error { return result(C.vq_thread_pin(C.uint32_t(cpu))) }

func result(rc C.int) error {
	if rc < 0 {
		return Errno(-rc)
	}
	return nil
}
