package rudp

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

func TestStream_Nettest(t *testing.T) {
	needUDP(t)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		l, err := Listen("udp", "127.0.0.1:0", serverConfig())
		if err != nil {
			return nil, nil, nil, err
		}
		c, err := Dial(testContext(t), "udp", l.Addr().String(), clientConfig())
		if err != nil {
			return nil, nil, nil, err
		}
		s, err := l.Accept()
		if err != nil {
			return nil, nil, nil, err
		}
		return c, s, func() {
			c.Close()
			s.Close()
			c.Endpoint().Close()
			l.Endpoint().Close()
		}, nil
	})
}
