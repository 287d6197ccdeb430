package rudp

import "syscall"

// This file changes if how Linux is kept from fragmenting does.

// ipv6MTUDiscover is IPV6_MTU_DISCOVER of linux/in6.h, and pmtudiscProbe IP_PMTUDISC_PROBE: don't
// fragment, and don't trust what others said about the path, which RFC 8899 finds out by itself.
const (
	ipv6MTUDiscover = 23
	pmtudiscProbe   = 3
)

// forbidFragments makes datagrams that are too long for the path get lost, as path MTU discovery
// needs it. A system that refuses leaves it to what it does anyway.
func forbidFragments(c syscall.Conn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, pmtudiscProbe)
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, ipv6MTUDiscover, pmtudiscProbe)
	})
}
