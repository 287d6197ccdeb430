package tests

// unix(7) sockets in the net door, beyond what they share with TCP.

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// datagramConn is *UnixConn of either package.
type datagramConn interface {
	fullConn
	net.PacketConn
	ReadFromUnix(p []byte) (int, *net.UnixAddr, error)
	WriteToUnix(p []byte, to *net.UnixAddr) (int, error)
	ReadMsgUnix(p, oob []byte) (n, oobn, flags int, from *net.UnixAddr, err error)
	WriteMsgUnix(p, oob []byte, to *net.UnixAddr) (n, oobn int, err error)
}

// Goal: packets keep their bounds, a packet of nothing is one, and an unconnected socket answers whom it
// heard. All ways to send and receive, and the errors of the wrong ones.
func TestNetdoorUnix_Packets(t *testing.T) {
	listens := map[string]func(addr *net.UnixAddr) (datagramConn, error){
		"net":   func(a *net.UnixAddr) (datagramConn, error) { return net.ListenUnixgram("unixgram", a) },
		"veloq": func(a *net.UnixAddr) (datagramConn, error) { return veloq.ListenUnixgram("unixgram", a) },
	}
	sameAsNet(t, []string{"unixgram"}, func(t *testing.T, p netPackage, network string, seen *protocol) {
		paths := [2]string{socketPath(t), socketPath(t)}
		var ends [2]datagramConn
		for i, path := range paths {
			c, err := listens[p.name](&net.UnixAddr{Name: path, Net: network})
			require.NoError(t, err)
			defer func() { _ = c.Close() }()
			ends[i] = c
		}
		a, b := ends[0], ends[1]
		toB := &net.UnixAddr{Name: paths[1], Net: network}
		buf, oob := make([]byte, 8), make([]byte, 8)
		from := func(addr net.Addr) bool { return addr != nil && addr.String() == paths[0] }

		n, err := a.WriteTo([]byte("one"), toB)
		seen.note("WriteTo", a, n, err)
		n, err = a.WriteToUnix(nil, toB)
		seen.note("WriteToUnix of nothing", a, n, err)
		n, oobn, err := a.WriteMsgUnix([]byte("three is too long"), nil, toB)
		seen.note("WriteMsgUnix", a, [2]int{n, oobn}, err)
		n, addr, err := b.ReadFrom(buf)
		seen.note("ReadFrom "+string(buf[:n]), b, from(addr), err)
		n, unix, err := b.ReadFromUnix(buf)
		seen.note("ReadFromUnix of nothing", b, []any{n, from(unix)}, err)
		n, oobn, flags, unix, err := b.ReadMsgUnix(buf, oob)
		seen.note("ReadMsgUnix "+string(buf[:n]), b, []any{n, oobn, flags, from(unix)}, err)

		n, err = a.Write([]byte("x"))
		seen.note("Write without a peer", nil, n, unwrapOp(err))
		n, err = a.WriteTo([]byte("x"), &net.TCPAddr{})
		seen.note("WriteTo an address of TCP", nil, n, unwrapOp(err))
		n, err = a.WriteToUnix([]byte("x"), &net.UnixAddr{Name: paths[1], Net: "unix"})
		seen.note("WriteToUnix another network", nil, n, unwrapOp(err))

		c, err := p.dial(network, paths[1])
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		for _, text := range []string{"first", "", "third"} {
			n, err = c.Write([]byte(text))
			seen.note("Write connected", c, n, err)
		}
		n, err = c.(datagramConn).WriteTo([]byte("x"), toB)
		seen.note("WriteTo when connected", nil, n, unwrapOp(err))
		for range 3 {
			n, err = b.Read(buf)
			seen.note("Read "+string(buf[:n]), b, n, err)
		}
		require.NoError(t, b.SetReadDeadline(past))
		_, _, err = b.ReadFrom(buf)
		seen.note("ReadFrom past the deadline", b, 0, err)
		require.NoError(t, b.Close())
		n, err = c.Write([]byte("x"))
		seen.note("Write to nobody", c, n, err)
	})
}

// unwrapOp leaves the addresses out, of which sockets without names have none to be told by.
func unwrapOp(err error) error {
	if oe, ok := err.(*net.OpError); ok { //nolint:errorlint // that layer alone
		return oe.Err
	}
	return err
}

// Goal: sequenced packets keep their bounds on a connection, and its end is one.
func TestNetdoorUnix_SequencedPackets(t *testing.T) {
	sameAsNet(t, []string{"unixpacket"}, func(t *testing.T, p netPackage, network string, seen *protocol) {
		c, s := pair(t, p, network)
		buf := make([]byte, 100<<10)
		for _, size := range []int{1, 1000, 70 << 10, 3} {
			n, err := c.Write(make([]byte, size))
			seen.note("Write", c, n, err)
		}
		for range 3 {
			n, err := s.Read(buf)
			seen.note("Read", s, n, err)
		}
		n, err := s.Read(buf[:2])
		seen.note("Read with too little room", s, n, err)
		require.NoError(t, c.Close())
		n, err = s.Read(buf)
		seen.note("end", s, n, err)
	})
}

// Goal: the socket's file goes with the listener that made it, unless it is told not to.
func TestNetdoorUnix_UnlinkOnClose(t *testing.T) {
	needNetwork(t, "unix")
	noLeak(t)
	for _, unlink := range []bool{true, false} {
		path := socketPath(t)
		l, err := veloq.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		require.NoError(t, err)
		l.SetUnlinkOnClose(unlink)
		c, err := veloq.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		require.NoError(t, err)
		s, err := l.AcceptUnix()
		require.NoError(t, err)
		require.NoError(t, roundTripBetween(c, s, "by name"))
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
		require.NoError(t, l.Close())
		_, err = os.Lstat(path)
		assert.Equal(t, unlink, errors.Is(err, fs.ErrNotExist))
	}
}
