//go:build linux

package main

// This file changes if what is compared, or how it is set up, does.

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/xtaci/kcp-go/v5"

	"github.com/veloq/veloq/rudp"
	"github.com/veloq/veloq/rudp/pin"
)

// peer is one transport. Both functions are given an address; what they return carries one stream.
type peer struct {
	name   string
	listen func(addr string) (net.Listener, error)
	dial   func(ctx context.Context, addr string) (net.Conn, error)
	tcp    bool
}

var identity = sync.OnceValue(func() (c struct{ server, client *tls.Config }) {
	server, pinned, err := pin.Server()
	if err == nil {
		c.client, err = pin.Client(pinned)
	}
	if err != nil {
		panic(err)
	}
	c.server = server
	c.server.NextProtos, c.client.NextProtos = []string{rudp.DefaultALPN}, []string{rudp.DefaultALPN}
	return c
})

func rudpPeer(name string, cfg rudp.Config) peer {
	return peer{
		name: name,
		listen: func(addr string) (net.Listener, error) {
			c := cfg
			c.TLS = identity().server
			return rudp.Listen("udp4", addr, &c)
		},
		dial: func(ctx context.Context, addr string) (net.Conn, error) {
			c := cfg
			c.TLS = identity().client
			return rudp.Dial(ctx, "udp4", addr, &c)
		},
	}
}

func tcpPeer(name, congestion string) peer {
	control := func(_, _ string, raw syscall.RawConn) (err error) {
		if controlErr := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptString(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CONGESTION, congestion)
		}); controlErr != nil {
			return controlErr
		}
		return err
	}
	return peer{
		name: name, tcp: true,
		listen: func(addr string) (net.Listener, error) {
			return (&net.ListenConfig{Control: control}).Listen(context.Background(), "tcp4", addr)
		},
		dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{Control: control}).DialContext(ctx, "tcp4", addr)
		},
	}
}

// quicConn is a stream of quic-go with its connection.
type quicConn struct {
	*quic.Stream
	conn *quic.Conn
}

func (c quicConn) LocalAddr() net.Addr  { return c.conn.LocalAddr() }
func (c quicConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }
func (c quicConn) CloseWrite() error    { return c.Stream.Close() }

func (c quicConn) Close() error {
	_ = c.Stream.Close()
	return c.conn.CloseWithError(0, "")
}

type quicListener struct{ *quic.Listener }

func (l quicListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept(context.Background())
	if err != nil {
		return nil, err
	}
	s, err := c.AcceptStream(context.Background())
	if err != nil {
		return nil, err
	}
	return quicConn{s, c}, nil
}

func quicPeer() peer {
	cfg := func() *quic.Config {
		// The windows that rudp has by default.
		return &quic.Config{MaxStreamReceiveWindow: rudp.DefaultRecvWindow, MaxConnectionReceiveWindow: rudp.DefaultRecvWindow}
	}
	return peer{
		name: "quic-go v0.65",
		listen: func(addr string) (net.Listener, error) {
			l, err := quic.ListenAddr(addr, identity().server, cfg())
			if err != nil {
				return nil, err
			}
			return quicListener{l}, nil
		},
		dial: func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := quic.DialAddr(ctx, addr, identity().client, cfg())
			if err != nil {
				return nil, err
			}
			s, err := c.OpenStreamSync(ctx)
			if err != nil {
				return nil, err
			}
			return quicConn{s, c}, nil
		},
	}
}

// kcpPeer is kcp-go in its fast mode, without encryption and error correction.
func kcpPeer() peer {
	tune := func(s *kcp.UDPSession) net.Conn {
		s.SetNoDelay(1, 10, 2, 1)
		s.SetWindowSize(1024, 1024)
		//lint:ignore SA1019 deprecated for want of use, not of effect
		s.SetStreamMode(true)
		s.SetACKNoDelay(true)
		s.SetMtu(1400)
		return s
	}
	return peer{
		name: "kcp-go, fast mode",
		listen: func(addr string) (net.Listener, error) {
			l, err := kcp.ListenWithOptions(addr, nil, 0, 0)
			if err != nil {
				return nil, err
			}
			return kcpListener{l, tune}, nil
		},
		dial: func(_ context.Context, addr string) (net.Conn, error) {
			s, err := kcp.DialWithOptions(addr, nil, 0, 0)
			if err != nil {
				return nil, err
			}
			return tune(s), nil
		},
	}
}

type kcpListener struct {
	*kcp.Listener
	tune func(*kcp.UDPSession) net.Conn
}

func (l kcpListener) Accept() (net.Conn, error) {
	s, err := l.AcceptKCP()
	if err != nil {
		return nil, err
	}
	return l.tune(s), nil
}

func peers() []peer {
	return []peer{
		rudpPeer("rudp, bbr", rudp.Config{}),
		rudpPeer("rudp, bbr, SendBuffer 4 MiB", rudp.Config{SendBuffer: 4 << 20, RecvWindow: 8 << 20}),
		rudpPeer("rudp, cubic", rudp.Config{Congestion: "cubic"}),
		tcpPeer("TCP, BBR", "bbr"),
		tcpPeer("TCP, CUBIC", "cubic"),
		quicPeer(),
		kcpPeer(),
	}
}

const dialTimeout = 20 * time.Second
