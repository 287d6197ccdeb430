package main

// This file changes if how packets of real sockets get onto the simulated link does.

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// The two ends: both are this system. What is sent to remoteIP leaves by the tunnel; the relay
// swaps source and destination, which leaves all checksums right, so that it comes back to localIP
// as if from the other.
const (
	localIP, remoteIP = "10.77.0.1", "10.77.0.2"
	insideEnv         = "RUDP_BENCH_INSIDE"
)

// inside runs this program again in a network namespace of its own, and says whether this is that
// run.
func inside() bool {
	if os.Getenv(insideEnv) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Println("skipped: no network namespace to be had:", err)
			os.Exit(77)
		}
		os.Exit(cmd.ProcessState.ExitCode())
	}
	return false
}

// ifreq is struct ifreq of netdevice(7).
type ifreq struct {
	name [16]byte
	data [24]byte
}

func ioctl(fd int, request uintptr, r *ifreq) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}

// openTunnel makes the device, gives it its address and brings it up.
func openTunnel() (*os.File, error) {
	const (
		tunSetIff    = 0x400454ca
		iffTunNoInfo = 0x0001 | 0x1000
	)
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	r := func() *ifreq {
		var r ifreq
		copy(r.name[:], "link0")
		return &r
	}
	create := r()
	binary.NativeEndian.PutUint16(create.data[:], iffTunNoInfo)
	if err := ioctl(fd, tunSetIff, create); err != nil {
		return nil, fmt.Errorf("TUNSETIFF: %w", err)
	}
	s, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(s)
	address := func(a, b, c, d byte) *ifreq {
		r := r()
		binary.NativeEndian.PutUint16(r.data[:], syscall.AF_INET)
		copy(r.data[4:], []byte{a, b, c, d})
		return r
	}
	up, length := r(), r()
	binary.NativeEndian.PutUint16(up.data[:], syscall.IFF_UP|syscall.IFF_RUNNING)
	binary.NativeEndian.PutUint32(length.data[:], 10_000) // packets that wait for the relay: its own queue is the bound
	for _, step := range []struct {
		name    string
		request uintptr
		r       *ifreq
	}{
		{"SIOCSIFADDR", syscall.SIOCSIFADDR, address(10, 77, 0, 1)},
		{"SIOCSIFNETMASK", syscall.SIOCSIFNETMASK, address(255, 255, 255, 0)},
		{"SIOCSIFTXQLEN", syscall.SIOCSIFTXQLEN, length},
		{"SIOCSIFFLAGS", syscall.SIOCSIFFLAGS, up},
	} {
		if err := ioctl(s, step.request, step.r); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// flight is a packet on its way.
type flight struct {
	at   time.Duration
	seq  int
	data []byte
}

type flights []flight

func (f flights) Len() int { return len(f) }
func (f flights) Less(i, j int) bool {
	return f[i].at < f[j].at || f[i].at == f[j].at && f[i].seq < f[j].seq
}
func (f flights) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flights) Push(x any)   { *f = append(*f, x.(flight)) }
func (f *flights) Pop() any {
	old := *f
	x := old[len(old)-1]
	*f = old[:len(old)-1]
	return x
}

// tunnel is the relay: one device, a link each way.
type tunnel struct {
	file  *os.File // kept: its finalizer would close fd
	fd    int
	start time.Time

	mu          sync.Mutex
	up          *link // toward the ports of the servers, from first to last
	down        *link
	first, last uint16
	air         flights
	seq         int
	nat         uint16 // the client's port as the server sees it; 0: its own
	own         uint16 // the client's port
}

// rebind gives the client another port. What the server still sends to the old one is lost.
func (t *tunnel) rebind() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nat = max(t.own^1, 1024)
}

// translate does what a NAT does to a UDP datagram after a rebind; false: nobody is there. An IPv4
// UDP checksum of zero means none.
func (t *tunnel) translate(udp []byte, up bool) bool {
	source, destination := udp[0:2], udp[2:4]
	if up {
		t.own = binary.BigEndian.Uint16(source)
	}
	if t.nat == 0 {
		return true
	}
	port := source
	to := t.nat
	if !up {
		if binary.BigEndian.Uint16(destination) != t.nat {
			return false
		}
		port, to = destination, t.own
	}
	binary.BigEndian.PutUint16(port, to)
	udp[6], udp[7] = 0, 0
	return true
}

func newTunnel() (*tunnel, error) {
	f, err := openTunnel()
	if err != nil {
		return nil, err
	}
	t := &tunnel{file: f, fd: int(f.Fd()), start: time.Now()}
	go t.read()
	go t.deliver()
	return t, nil
}

// set begins a run: fresh links, and nothing in flight from the one before.
func (t *tunnel) set(up, down linkConfig, seed uint64, port int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.up, t.down, t.air, t.nat = newLink(up, seed, 1), newLink(down, seed, 2), nil, 0
	t.first, t.last = uint16(port), uint16(port)
}

// serve makes all ports from first to last servers'. They share the link.
func (t *tunnel) serve(first, last int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.first, t.last = uint16(first), uint16(last)
}

func (t *tunnel) stats() (up, down linkStats) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.up.stats, t.down.stats
}

func (t *tunnel) read() {
	runtime.LockOSThread()
	buf := make([]byte, 65536)
	for {
		n, err := syscall.Read(t.fd, buf)
		if err != nil || n < 24 || buf[0]>>4 != 4 {
			continue
		}
		header := int(buf[0]&15) * 4
		p := append([]byte(nil), buf[:n]...)
		for i := range 4 {
			p[12+i], p[16+i] = p[16+i], p[12+i]
		}
		now := time.Since(t.start)
		t.mu.Lock()
		l := t.down
		to := binary.BigEndian.Uint16(p[header+2:])
		up := to >= t.first && to <= t.last
		if up {
			l = t.up
		}
		if l != nil && (p[9] != syscall.IPPROTO_UDP || n < header+8 || t.translate(p[header:], up)) {
			at, again := l.offer(now, n)
			for _, at := range []time.Duration{at, again} {
				if at > 0 {
					t.seq++
					heap.Push(&t.air, flight{at, t.seq, p})
				}
			}
		}
		t.mu.Unlock()
	}
}

// deliver sleeps in the kernel, which is a tenth of a millisecond exact; Go's timers are one.
func (t *tunnel) deliver() {
	runtime.LockOSThread()
	for {
		t.mu.Lock()
		now := time.Since(t.start)
		pause := 100 * time.Microsecond
		var p []byte
		if len(t.air) > 0 {
			if left := t.air[0].at - now; left <= 0 {
				p = heap.Pop(&t.air).(flight).data
			} else {
				pause = min(pause, left)
			}
		}
		t.mu.Unlock()
		if p != nil {
			_, _ = syscall.Write(t.fd, p)
			continue
		}
		ts := syscall.NsecToTimespec(int64(pause))
		_ = syscall.Nanosleep(&ts, nil)
	}
}
