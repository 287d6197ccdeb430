package tests

// UDP on a link of this test's own: a thread leaves for a network namespace whose loopback has the MTU
// of an Ethernet.

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ifreq is struct ifreq: a name, and a union of which the first number is used.
type ifreq struct {
	name  [16]byte
	value int32
	_     [20]byte
}

func loopbackCall(fd int, request uintptr, value int32) error {
	r := ifreq{value: value}
	copy(r.name[:], "lo")
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return errno
	}
	return nil
}

// onOwnLoopback runs fn on a thread in a network namespace of its own, which ends with the thread.
// What fn opens must be opened on its own goroutine.
func onOwnLoopback(t *testing.T, mtu int32, fn func()) {
	t.Helper()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread can't be used for anything else
		if err = syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			return
		}
		fd, openErr := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
		if openErr != nil {
			err = openErr
			return
		}
		defer func() { _ = syscall.Close(fd) }()
		err = errors.Join(loopbackCall(fd, syscall.SIOCSIFMTU, mtu),
			loopbackCall(fd, syscall.SIOCSIFFLAGS, syscall.IFF_UP|syscall.IFF_RUNNING))
		if err == nil {
			fn()
		}
	}()
	await(t, "the thread of its own loopback", done)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		t.Skip("no network namespace without the right to it: ", err)
	}
	require.NoError(t, err)
}

// Goal: a segment longer than the MTU goes without the kernel's cutting, and only such ones do.
func TestUDPBatch_SegmentOverMTU(t *testing.T) {
	noLeak(t)
	for _, size := range []int{2000, 1473} {
		onOwnLoopback(t, 1500, func() {
			four := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
			a, b := veloqUDP(t, "udp4", four), veloqUDP(t, "udp4", four)
			if !assert.NoError(t, b.SetGRO(true)) {
				return
			}
			_, _, err := a.WriteMsgUDPAddrPort(make([]byte, 2*size), segmentMessage(uint16(size)), addrPort(b))
			if !assert.Error(t, err, "the kernel cuts what must be fragmented: no test") {
				return
			}
			for _, c := range []struct {
				size   int
				joined bool
			}{{size, false}, {1200, true}, {size, false}, {1472, true}} {
				p := udpPatterned(10*c.size+1, c.size)
				n, err := a.WriteSegments(p, c.size, addrPort(b))
				if !assert.NoError(t, err) || !assert.Equal(t, len(p), n) {
					return
				}
				all, _, joined := receiveAll(t, b, 11)
				assert.True(t, bytes.Equal(p, bytes.Join(all, nil)))
				assert.Equal(t, c.joined, joined > 0, "segments of %d", c.size)
			}
		})
	}
}
