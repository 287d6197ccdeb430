// Command netpoll is the echo server on netpoll's zero-copy reader and writer.
package main

import (
	"context"

	"github.com/cloudwego/netpoll"
	"github.com/veloq/veloq/bench/servers/start"
)

// echo gives the received bytes to the writer by reference: Next and WriteBinary copy nothing from
// 4 KiB up while the bytes sit in one node. Release only after Flush, which is the last to read
// them.
func echo(_ context.Context, c netpoll.Connection) error {
	r, w := c.Reader(), c.Writer()
	buf, err := r.Next(r.Len())
	if err != nil {
		return err
	}
	if _, err := w.WriteBinary(buf); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return r.Release()
}

func main() {
	addr, workers := start.Flags()
	if err := netpoll.Configure(netpoll.Config{PollerNum: workers}); err != nil {
		start.Fail(err)
	}
	ln, err := netpoll.CreateListener("tcp", addr)
	if err != nil {
		start.Fail(err)
	}
	loop, err := netpoll.NewEventLoop(echo)
	if err != nil {
		start.Fail(err)
	}
	start.Announce(ln.Addr())
	if err := loop.Serve(ln); err != nil {
		start.Fail(err)
	}
}
