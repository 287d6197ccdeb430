package tests

// Listeners of the net door, the settings of both doors, and what a runtime does for its own.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// deadlineListener is what TCPListener and UnixListener share, of both packages.
type deadlineListener interface {
	net.Listener
	syscall.Conn
	SetDeadline(t time.Time) error
	File() (*os.File, error)
}

// Goal: Accept obeys deadline and Close, and what it says is what package net says.
func TestNetdoorListener_DeadlineAndClose(t *testing.T) {
	sameAsNet(t, append(streamNetworks, "unixpacket"), func(t *testing.T, p netPackage, network string, seen *protocol) {
		opened, err := p.listen(network, anyAddress(t, network))
		require.NoError(t, err)
		l := opened.(deadlineListener)
		addr := l.Addr().String()
		plain := func(what string, err error) {
			text := "nil"
			if err != nil {
				text = strings.ReplaceAll(describe(err, nil), addr, "here")
			}
			seen.lines = append(seen.lines, what+": "+text)
		}
		accept := func(what string) {
			c, err := l.Accept()
			require.Nil(t, c)
			plain(what, err)
		}
		require.NoError(t, l.SetDeadline(past))
		accept("past the deadline")
		require.NoError(t, l.SetDeadline(time.Now().Add(time.Millisecond)))
		accept("until the deadline")
		require.NoError(t, l.SetDeadline(time.Time{}))
		seen.lines = append(seen.lines, "network "+l.Addr().Network())

		c, err := p.dial(network, addr)
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		s, err := l.Accept()
		require.NoError(t, err)
		defer func() { _ = s.Close() }()
		require.NoError(t, roundTripBetween(c, s, "accepted"))

		waiting := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			waiting <- err
		}()
		plain("Close", l.Close())
		plain("Accept that waits", await(t, "Accept", waiting))
		accept("Accept after Close")
		plain("Close again", l.Close())
		plain("SetDeadline", l.SetDeadline(past))
		_, err = l.File()
		plain("File", err)
		_, err = p.dial(network, addr)
		require.Error(t, err)
		require.NoError(t, roundTripBetween(c, s, "outlives its listener"))
	})
}

// roundTripBetween sends text both ways between the two ends of a connection.
func roundTripBetween(a, b net.Conn, text string) error {
	for _, ends := range [][2]net.Conn{{a, b}, {b, a}} {
		if _, err := io.WriteString(ends[0], text); err != nil {
			return err
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(ends[1], got); err != nil {
			return err
		}
		if string(got) != text {
			return fmt.Errorf("sent %q, got %q", text, got)
		}
	}
	return nil
}

// Goal: connections that are reset before they are accepted don't end a listener.
func TestNetdoorListener_SurvivesAborted(t *testing.T) {
	if resetReadsAsEnd() {
		t.Skip("package net's Accept returns WSAENOTCONN for such a connection under Wine")
	}
	noLeak(t)
	l, err := veloq.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	for range 20 {
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).SetLinger(0))
		require.NoError(t, c.Close())
	}
	c, err := veloq.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, l.(*veloq.TCPListener).SetDeadline(time.Now().Add(patience)))
	for {
		s, err := l.Accept()
		require.NoError(t, err)
		same := s.RemoteAddr().String() == c.LocalAddr().String()
		if same {
			require.NoError(t, roundTripBetween(c, s, "still here"))
		}
		require.NoError(t, s.Close())
		if same {
			return
		}
	}
}

// Goal: copies of descriptors, both ways: a connection and a listener live on in the copy, and have
// veloq's type.
func TestNetdoorListener_FileRoundTrips(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("package net has no FileConn on Windows")
	}
	for _, network := range append(streamNetworks, "unixpacket") {
		t.Run(network, func(t *testing.T) {
			needNetwork(t, network)
			noLeak(t)
			first, err := veloq.Listen(network, anyAddress(t, network))
			require.NoError(t, err)
			if u, ok := first.(*veloq.UnixListener); ok {
				u.SetUnlinkOnClose(false)
			}
			f, err := first.(deadlineListener).File()
			require.NoError(t, err)
			require.NoError(t, first.Close())
			l, err := veloq.FileListener(f)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			defer func() { _ = l.Close() }()
			require.IsType(t, first, l)
			require.Equal(t, first.Addr().String(), l.Addr().String())

			c, err := veloq.Dial(network, l.Addr().String())
			require.NoError(t, err)
			f, err = c.(fullConn).File()
			require.NoError(t, err)
			require.NoError(t, c.Close())
			copied, err := veloq.FileConn(f)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			defer func() { _ = copied.Close() }()
			require.IsType(t, c, copied)
			s, err := l.Accept()
			require.NoError(t, err)
			defer func() { _ = s.Close() }()
			require.NoError(t, roundTripBetween(copied, s, "by a copy"))
			require.NoError(t, copied.SetReadDeadline(past))
			_, err = copied.Read(make([]byte, 1))
			var oe *net.OpError
			require.ErrorAs(t, err, &oe)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.Equal(t, c.LocalAddr().Network(), oe.Net)
		})
	}
	t.Run("not a socket", func(t *testing.T) {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		defer func() { _ = f.Close() }()
		_, want := net.FileConn(f)
		c, err := veloq.FileConn(f)
		require.Nil(t, c)
		assert.Equal(t, describe(want, nil), describe(err, nil))
		_, want = net.FileListener(f)
		l, err := veloq.FileListener(f)
		require.Nil(t, l)
		assert.Equal(t, describe(want, nil), describe(err, nil))
		_, want = net.FilePacketConn(f)
		pc, err := veloq.FilePacketConn(f)
		require.Nil(t, pc)
		assert.Equal(t, describe(want, nil), describe(err, nil))
	})
}

// Goal: Control is called where package net calls it, with the same arguments, and its error ends the
// attempt without a descriptor left; in both doors.
func TestNetdoorListener_Control(t *testing.T) {
	noLeak(t)
	type args struct{ what, network, address string }
	var seen []args
	note := func(what string) func(network, address string, c syscall.RawConn) error {
		return func(network, address string, c syscall.RawConn) error {
			ran := false
			if err := c.Control(func(uintptr) { ran = true }); err != nil || !ran {
				return fmt.Errorf("Control: %v, %v", ran, err)
			}
			seen = append(seen, args{what, network, address})
			return nil
		}
	}
	refusal := errors.New("refused on purpose")
	refuse := func(string, string, syscall.RawConn) error { return refusal }
	target, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = target.Close() }()
	to := target.Addr().String()
	ctx := context.Background()
	closed := func(c io.Closer, err error) {
		t.Helper()
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	noted := func(ctx context.Context, network, address string, c syscall.RawConn) error {
		return note(fmt.Sprint(ctx != nil))(network, address, c)
	}
	inNet := func() []args {
		seen = nil
		lc := net.ListenConfig{Control: note("listen")}
		closed(lc.Listen(ctx, "tcp", "127.0.0.1:0"))
		closed(lc.Listen(ctx, "tcp", ":0"))
		closed((&net.Dialer{Control: note("dial")}).Dial("tcp", to))
		closed((&net.Dialer{Control: refuse, ControlContext: noted}).Dial("tcp", to))
		return seen
	}
	want := inNet()
	require.Len(t, want, 4)

	t.Run("net door", func(t *testing.T) {
		seen = nil
		lc := veloq.ListenConfig{Control: note("listen")}
		closed(lc.Listen(ctx, "tcp", "127.0.0.1:0"))
		lc.WriteBuffer = 32 << 10 // which takes a Control of our own around it
		closed(lc.Listen(ctx, "tcp", ":0"))
		closed((&veloq.Dialer{Control: note("dial")}).Dial("tcp", to))
		closed((&veloq.Dialer{Control: refuse, ControlContext: noted}).Dial("tcp", to))
		assert.Equal(t, want, seen)
		_, err := (&veloq.ListenConfig{Control: refuse, WriteBuffer: 32 << 10}).Listen(ctx, "tcp", "127.0.0.1:0")
		require.ErrorIs(t, err, refusal)
		_, err = (&veloq.Dialer{Control: refuse}).Dial("tcp", to)
		require.ErrorIs(t, err, refusal)
	})
	t.Run("worker door", func(t *testing.T) {
		rt := newRuntime(t, veloq.Config{Workers: 1})
		seen = nil
		require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
			lc := veloq.ListenConfig{Control: note("listen")}
			for _, address := range []string{"127.0.0.1:0", ":0"} {
				l, err := lc.ListenStream(c, "tcp", address)
				if err != nil {
					return err
				}
				_ = l.Close()
			}
			for _, d := range []*veloq.Dialer{{Control: note("dial")}, {Control: refuse, ControlContext: noted}} {
				s, err := d.DialStream(c, "tcp", to)
				if err != nil {
					return err
				}
				_ = s.Close()
			}
			return nil
		}))
		assert.Equal(t, want, seen)
		require.NoError(t, inTask(t, rt, func(c *veloq.Context) error {
			_, err := (&veloq.ListenConfig{Control: refuse}).ListenStream(c, "tcp", "127.0.0.1:0")
			require.ErrorIs(t, err, refusal)
			_, err = (&veloq.Dialer{Control: refuse}).DialStream(c, "tcp", to)
			require.ErrorIs(t, err, refusal)
			_, want := (&net.Dialer{Control: refuse}).Dial("tcp", to)
			assert.Equal(t, describe(want, nil), describe(err, nil))
			return nil
		}))
	})
}

// Goal: what package net has no setting for holds in the net door too.
func TestNetdoorListener_Settings(t *testing.T) {
	ctx := context.Background()
	t.Run("ReusePort", func(t *testing.T) {
		noLeak(t)
		lc := veloq.ListenConfig{ReusePort: true}
		a, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if runtime.GOOS == "windows" {
			require.ErrorIs(t, err, errors.ErrUnsupported)
			return
		}
		require.NoError(t, err)
		defer func() { _ = a.Close() }()
		b, err := lc.Listen(ctx, "tcp", a.Addr().String())
		require.NoError(t, err)
		require.NoError(t, b.Close())
		_, err = veloq.Listen("tcp", a.Addr().String())
		require.ErrorIs(t, err, syscall.EADDRINUSE)
	})
	t.Run("DualStack", func(t *testing.T) {
		needIPv6(t)
		noLeak(t)
		// Which of the two loopback addresses reach a listener.
		reach := func(mode veloq.DualStack, network, address string) (reached []string) {
			lc := veloq.ListenConfig{DualStack: mode}
			l, err := lc.Listen(ctx, network, address)
			require.NoError(t, err)
			defer func() { _ = l.Close() }()
			_, port, err := net.SplitHostPort(l.Addr().String())
			require.NoError(t, err)
			for _, host := range []string{"127.0.0.1", "::1"} {
				c, err := veloq.Dial("tcp", net.JoinHostPort(host, port))
				if err == nil {
					reached = append(reached, host)
					_ = c.Close()
				}
			}
			return reached
		}
		both, v4, v6 := []string{"127.0.0.1", "::1"}, []string{"127.0.0.1"}, []string{"::1"}
		assert.Equal(t, both, reach(veloq.DualStackAuto, "tcp", ":0"))
		assert.Equal(t, v6, reach(veloq.DualStackAuto, "tcp6", "[::]:0"))
		assert.Equal(t, both, reach(veloq.DualStackOn, "tcp6", "[::]:0"))
		assert.Equal(t, v6, reach(veloq.DualStackOff, "tcp", "[::]:0"))
		assert.Equal(t, v4, reach(veloq.DualStackOff, "tcp", "0.0.0.0:0"))
	})
	t.Run("MPTCP", func(t *testing.T) {
		var lc veloq.ListenConfig
		var d veloq.Dialer
		assert.Equal(t, (&net.ListenConfig{}).MultipathTCP(), lc.MultipathTCP())
		assert.Equal(t, (&net.Dialer{}).MultipathTCP(), d.MultipathTCP())
		for _, on := range []bool{true, false} {
			lc.SetMultipathTCP(on)
			d.SetMultipathTCP(on)
			assert.Equal(t, on, lc.MultipathTCP())
			assert.Equal(t, on, d.MultipathTCP())
		}
	})
}

// Goal: a runtime's listeners end with it, before its tasks are waited for; after that it makes none,
// nor connections. What it made is its owner's.
func TestNetdoorListener_RuntimeEnds(t *testing.T) {
	for name, end := range map[string]func(*veloq.Runtime) error{
		"Close":    (*veloq.Runtime).Close,
		"Shutdown": func(rt *veloq.Runtime) error { return rt.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			rt := newRuntime(t, veloq.Config{Workers: 1})
			l, err := rt.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			early, err := rt.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			require.NoError(t, early.Close())
			pc, err := rt.ListenPacket("udp", "127.0.0.1:0")
			if err != nil && runtime.GOOS == "windows" {
				t.Log("package net has no UDP here: ", err)
			} else {
				require.NoError(t, err)
				require.NoError(t, pc.Close())
			}
			c, err := rt.DialContext(soon(t), "tcp", l.Addr().String())
			require.NoError(t, err)
			defer func() { _ = c.Close() }()
			s, err := l.Accept()
			require.NoError(t, err)
			defer func() { _ = s.Close() }()
			waiting := make(chan error, 1)
			go func() {
				_, err := l.Accept()
				waiting <- err
			}()
			bounded(t, name, func() { assert.NoError(t, end(rt)) })
			require.ErrorIs(t, await(t, "Accept", waiting), net.ErrClosed)
			require.NoError(t, roundTripBetween(c, s, "outlives the runtime"))
			require.ErrorIs(t, l.Close(), net.ErrClosed)

			call := func(_ any, err error) error { return err }
			for what, err := range map[string]error{
				"Listen":       call(rt.Listen("tcp", "127.0.0.1:0")),
				"ListenPacket": call(rt.ListenPacket("udp", "127.0.0.1:0")),
				"Dial":         call(rt.Dial("tcp", "127.0.0.1:1")),
				"DialContext":  call(rt.DialContext(context.Background(), "tcp", "127.0.0.1:1")),
			} {
				require.ErrorIs(t, err, veloq.ErrClosed, what)
				var oe *net.OpError
				require.ErrorAs(t, err, &oe, what)
			}
		})
	}
}

// childHTTP serves HTTP by the net door with few descriptors, for lines of commands.
func childHTTP() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	l, err := veloq.Listen("tcp", "127.0.0.1:0")
	fail(err)
	fail(limitDescriptors(openDescriptors() + 10))
	srv := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }),
		ReadHeaderTimeout: patience,
		ErrorLog:          log.New(os.Stderr, "", 0),
	}
	go func() { fail(srv.Serve(l)) }()
	fail(json.NewEncoder(os.Stdout).Encode(l.Addr().String()))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// Goal: a server that runs out of descriptors is told so by an error that net/http waits out, and serves
// on when there are some again.
func TestNetdoorListener_HTTPWithoutDescriptors(t *testing.T) {
	if !hasDescriptorLimit {
		t.Skip("no limit of descriptors here")
	}
	noLeak(t)
	srv := startChild(t, "http")
	var addr string
	srv.line(&addr)
	get := func() (string, error) {
		tr := &http.Transport{DisableKeepAlives: true}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("http://" + addr)
		if err != nil {
			return "", err
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	got, err := get()
	require.NoError(t, err)
	require.Equal(t, "hello", got)
	var held []net.Conn
	for range 40 { // more than the server has descriptors for
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		held = append(held, c)
	}
	eventually(t, "the server's complaint", func() (bool, any) {
		return strings.Contains(srv.stderr.String(), "too many open files"), srv.stderr.String()
	})
	for _, c := range held {
		require.NoError(t, c.Close())
	}
	got, err = get()
	require.NoError(t, err)
	assert.Equal(t, "hello", got)
	assert.Contains(t, srv.stderr.String(), "retrying")
}
