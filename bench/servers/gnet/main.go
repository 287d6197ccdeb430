// Command gnet is the echo server on gnet, as its own echo example is written.
package main

import (
	"log"
	"net"
	"os"

	"github.com/panjf2000/gnet/v2"
	"github.com/veloq/veloq/bench/servers/start"
)

// quiet keeps gnet's start-up line off stdout, whose first line is the address.
type quiet struct{}

func (quiet) Debugf(string, ...any)          {}
func (quiet) Infof(string, ...any)           {}
func (quiet) Warnf(string, ...any)           {}
func (quiet) Errorf(format string, a ...any) { log.Printf(format, a...) }
func (quiet) Fatalf(format string, a ...any) { log.Fatalf(format, a...) }

type echo struct {
	gnet.BuiltinEventEngine
}

// OnBoot learns the port from the engine's listener: gnet itself never tells which one it got.
func (*echo) OnBoot(eng gnet.Engine) gnet.Action {
	fd, err := eng.Dup()
	if err != nil {
		start.Fail(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		start.Fail(err)
	}
	defer ln.Close()
	start.Announce(ln.Addr())
	return gnet.None
}

// OnTraffic writes straight from gnet's read buffer; gnet keeps a copy of what does not fit.
func (*echo) OnTraffic(c gnet.Conn) gnet.Action {
	buf, err := c.Next(-1)
	if err != nil {
		return gnet.Close
	}
	if _, err := c.Write(buf); err != nil {
		return gnet.Close
	}
	return gnet.None
}

func main() {
	addr, workers := start.Flags()
	err := gnet.Run(&echo{}, "tcp://"+addr,
		gnet.WithMulticore(workers > 1),
		gnet.WithNumEventLoop(workers),
		gnet.WithTCPNoDelay(gnet.TCPNoDelay),
		gnet.WithLogger(quiet{}))
	if err != nil {
		start.Fail(err)
	}
}
