// Package core is the boundary to the C core: the only package that calls C. It mirrors the records
// of include/veloq/op.h, lets a worker stage submissions and read completions in memory that C or
// the kernel owns, and wraps the few calls that cross.
package core

// Op numbers, flags and records: include/veloq/op.h says what each means. Static assertions in C
// and checkLayout at start hold the two against each other.
const (
	OpNop           = 0
	OpPoll          = 6
	OpSendMsg       = 9
	OpRecvMsg       = 10
	OpTimeout       = 11
	OpTimeoutUpdate = 12
	OpAccept        = 13
	OpCancel        = 14
	OpConnect       = 16
	OpClose         = 19
	OpSend          = 26
	OpRecv          = 27
	OpShutdown      = 34
	OpSendZC        = 47
	OpSendFile      = 200

	SQELink         = 1 << 2
	SQEMayBlock     = 1 << 4
	SQEBufferSelect = 1 << 5
	SQESkipSuccess  = 1 << 6

	RecvMultishot   = 1 << 1
	AcceptMultishot = 1 << 0
	TimeoutUpdate   = 1 << 1
	SendZCReport    = 1 << 3

	MsgCtrunc   = 0x08
	MsgTrunc    = 0x20
	MsgDontWait = 0x40
	MsgWaitAll  = 0x100
	MsgNoSignal = 0x4000
	SockCloexec = 0x80000

	ShutRead      = 0
	ShutWrite     = 1
	ShutReadWrite = 2

	CQEBuffer      = 1 << 0
	CQEMore        = 1 << 1
	CQENotif       = 1 << 3
	CQEBufMore     = 1 << 4
	cqeBufferShift = 16

	// NotifCopied is in the result of a CQENotif.
	NotifCopied = -1 << 31

	sqCQOverflow = 1 << 1
	sqTaskrun    = 1 << 2
)

// Error numbers of completions and calls, negated: include/veloq/base.h.
const (
	ErrnoNOENT       = 2
	ErrnoINTR        = 4
	ErrnoIO          = 5
	ErrnoBADF        = 9
	ErrnoAGAIN       = 11
	ErrnoNOMEM       = 12
	ErrnoFAULT       = 14
	ErrnoINVAL       = 22
	ErrnoNFILE       = 23
	ErrnoMFILE       = 24
	ErrnoPIPE        = 32
	ErrnoNOSYS       = 38
	ErrnoTIME        = 62
	ErrnoNOTSOCK     = 88
	ErrnoMSGSIZE     = 90
	ErrnoNOTSUP      = 95
	ErrnoCONNABORTED = 103
	ErrnoNOBUFS      = 105
	ErrnoALREADY     = 114
	ErrnoCANCELED    = 125
)

// SQE is vq_sqe: one submission, in memory that C or the kernel owns.
type SQE struct {
	Opcode   uint8
	Flags    uint8
	Mode     uint16
	FD       int32
	Off      uint64
	Addr     uint64
	Len      uint32
	OpFlags  uint32
	UserData uint64
	BufGroup uint16
	_        uint16
	_        uint32
	_        [2]uint64
}

// CQE is vq_cqe: one completion.
type CQE struct {
	UserData uint64
	Res      int32
	Flags    uint32
}

// BufferIndex returns the provided buffer that a completion of those flags used; with CQEBuffer.
func BufferIndex(flags uint32) uint16 { return uint16(flags >> cqeBufferShift) }

// Iovec is vq_iovec: one piece of a gathered send.
type Iovec struct {
	Base uint64
	Len  uint64
}

// Msghdr is vq_msghdr.
type Msghdr struct {
	Name       uint64
	NameLen    uint32
	_          uint32
	Iov        uint64
	IovCount   uint64
	Control    uint64
	ControlLen uint64
	Flags      int32
	_          uint32
}

// RecvMsgOut is vq_recvmsg_out: what the buffer of a received datagram begins with.
type RecvMsgOut struct {
	NameLen    uint32
	ControlLen uint32
	PayloadLen uint32
	Flags      uint32
}

// Timespec is vq_timespec.
type Timespec struct {
	Sec  int64
	Nsec int64
}

// buf is vq_buf: one entry of a buffer group's ring.
type buf struct {
	addr  uint64
	len   uint32
	index uint16
	tail  uint16
}
