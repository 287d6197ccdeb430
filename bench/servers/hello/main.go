// Command hello is net/http's smallest server, on a listener of package net or of veloq.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/bench/servers/start"
)

func main() {
	from := flag.String("net", "veloq", "whose listener: go or veloq")
	busy := flag.Int("busy", 0, "goroutines that use the CPUs beside the server's")
	addr, _ := start.Flags() // goroutines have no event loops to count
	listen, ok := map[string]func(network, address string) (net.Listener, error){
		"go": net.Listen, "veloq": veloq.Listen,
	}[*from]
	if !ok {
		start.Fail(fmt.Errorf("-net %q: go or veloq", *from))
	}
	ln, err := listen("tcp", addr)
	if err != nil {
		start.Fail(err)
	}
	for range *busy {
		go burn()
	}
	start.Announce(ln.Addr())
	srv := &http.Server{
		Handler:           http.HandlerFunc(hello),
		ReadHeaderTimeout: time.Minute,
	}
	start.Fail(srv.Serve(ln))
}

// burn uses a CPU for as long as the process runs.
func burn() {
	for n := uint64(1); n != 0; n += 2 { // odd for ever
	}
}

func hello(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, "Hello, World!\n")
}
