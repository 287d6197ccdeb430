package core

// Address families and sizes: include/veloq/socket.h.
const (
	AFUnix       = 1
	AF4          = 4
	AF6          = 6
	AddrBytesMax = 128
	UnixPathMax  = 108
)

// Addr is vq_addr.
type Addr struct {
	Family  uint16
	Port    uint16
	ScopeID uint32
	IP      [16]byte
	PathLen uint32
	Path    [UnixPathMax]byte
}

// Options that a socket has from birth.
const (
	SocketReuseAddr = 1 << iota
	SocketReusePort
	SocketV6Only
	SocketDualStack
	SocketNoDelay
	SocketKeepAlive
	SocketBroadcast
	SocketShared
)

// SocketConfig is vq_socket_config.
type SocketConfig struct {
	Flags              uint32
	Backlog            int32
	KeepIdleS          int32
	KeepIntervalS      int32
	KeepCount          int32
	ReceiveBufferBytes int32
	SendBufferBytes    int32
}

// Options of a live socket.
const (
	OptNoDelay = 1 + iota
	OptKeepAlive
	OptKeepIdleS
	OptKeepIntervalS
	OptKeepCount
	OptLingerS
	OptReceiveBufferBytes
	OptSendBufferBytes
	OptReusePort
	OptV6Only
	OptTTL
	OptError
	OptBroadcast
	OptUDPSegment
	OptUDPGRO
	OptPacketInfo
	OptReceiveTOS
	OptTOS
	OptMulticastLoop
	OptMulticastTTL
	OptMulticastInterface
	OptDontFragment
)

// Call names the system call that failed while a socket was opened.
type Call int32

// CallNone and the others are VQ_CALL_*.
const (
	CallNone Call = iota
	CallSocket
	CallSetsockopt
	CallBind
	CallListen
	CallGetsockname
)

var callNames = [...]string{"", "socket", "setsockopt", "bind", "listen", "getsockname"}

// String returns the system call's name as os.SyscallError carries it.
func (c Call) String() string { return callNames[c] }
