//go:build !(cgo && (linux || windows))

package core

import "unsafe"

// Available reports whether this build has a C core.
const Available = false

// ReusePort is for those who have sockets.
const ReusePort = false

// SharesSockets is for drivers.
const SharesSockets = false

// UnixStreams and UnixDatagrams are for those who have sockets.
const (
	UnixStreams   = false
	UnixDatagrams = false
)

// Segments is for those who send.
const Segments = false

// Numbers that nothing is compared with.
const (
	systemAFUnix = 1
	systemAF4    = 2
	systemAF6    = 10
)

// Names for errors that don't occur.
const (
	NameRead    = "read"
	NameWrite   = "write"
	NameAccept  = "accept"
	NameConnect = "connect"
	NameRecv    = "recvmsg"
	NameSend    = "sendmsg"
)

func sysError(Errno) error { return nil }

func driverEnterDelayed(unsafe.Pointer, uint32, uint32, uint32) int32 { return -int32(ErrNoDriver) }

func driverEnter(unsafe.Pointer, uint32, uint32) int32 { return -int32(ErrNoDriver) }

func driverDestroy(unsafe.Pointer) {}

func doorbellRing(*Doorbell) {}

// CreateDriver fails: this build has no C core.
func CreateDriver(Config) (*Driver, Report, error) { return nil, Report{}, ErrNoDriver }

// PrepWake has no driver to ask.
func (d *Driver) PrepWake(*SQE) {}

// YieldThread does nothing.
func YieldThread() {}

// AllocSlab fails.
func AllocSlab(uintptr, int) (unsafe.Pointer, int) { return nil, 0 }

// FreeSlab has nothing to free.
func FreeSlab(unsafe.Pointer, uintptr) {}

// Alloc fails.
func Alloc(uintptr) unsafe.Pointer { return nil }

// Free has nothing to free.
func Free(unsafe.Pointer) {}

// Features has no sockets to try.
func Features() (found, known uint32) { return 0, 0 }

// OpenStream fails.
func OpenStream(uint16, *SocketConfig) (int32, Call, error) { return -1, CallSocket, ErrNoDriver }

// OpenDatagram fails.
func OpenDatagram(uint16, *SocketConfig) (int32, Call, error) { return -1, CallSocket, ErrNoDriver }

// Connect fails.
func Connect(int32, *Addr) error { return ErrNoDriver }

// Group fails.
func Group(int32, bool, *Addr, uint32) error { return ErrNoDriver }

// Listen fails.
func Listen(int32, *Addr, int32) (Addr, Call, error) { return Addr{}, CallListen, ErrNoDriver }

// Bind fails.
func Bind(int32, *Addr) error { return ErrNoDriver }

// LocalAddr fails.
func LocalAddr(int32) (Addr, error) { return Addr{}, ErrNoDriver }

// PeerAddr fails.
func PeerAddr(int32) (Addr, error) { return Addr{}, ErrNoDriver }

// EncodeAddr fails.
func EncodeAddr(*Addr, unsafe.Pointer) (int32, error) { return 0, ErrNoDriver }

// SetOption fails.
func SetOption(_, _, _ int32) error { return ErrNoDriver }

// GetOption fails.
func GetOption(_, _ int32) (int32, error) { return 0, ErrNoDriver }

// DupSocket fails.
func DupSocket(int32) (int32, error) { return -1, ErrNoDriver }

// CloseSocket fails.
func CloseSocket(int32) error { return ErrNoDriver }

// BacklogMax returns 0.
func BacklogMax() int32 { return 0 }

// PinThread fails.
func PinThread(uint32) error { return ErrNoDriver }

func enterRing(int32, uint32) Errno { return ErrNoDriver }
