// Command nbio is the echo server on nbio's engine, as its README's quick start is written.
package main

import (
	"net"

	"github.com/lesismal/nbio"
	"github.com/lesismal/nbio/logging"
	"github.com/veloq/veloq/bench/servers/start"
)

func main() {
	addr, workers := start.Flags()
	logging.SetLevel(logging.LevelNone)
	engine := nbio.NewEngine(nbio.Config{
		Network: "tcp",
		Addrs:   []string{addr},
		NPoller: workers,
		Listen: func(network, addr string) (net.Listener, error) {
			ln, err := net.Listen(network, addr)
			if err == nil {
				start.Announce(ln.Addr())
			}
			return ln, err
		},
	})
	// Write tries the socket at once and copies only what does not fit, so the quick start's
	// own copy of data is left out.
	engine.OnData(func(c *nbio.Conn, data []byte) {
		if _, err := c.Write(data); err != nil {
			_ = c.Close()
		}
	})
	if err := engine.Start(); err != nil {
		start.Fail(err)
	}
	select {}
}
