// Package start holds what every peer server does the same way: flags in, listen address out.
package start

import (
	"flag"
	"fmt"
	"os"
)

// Flags parses the command line that bench/compare gives to every server.
func Flags() (addr string, workers int) {
	flag.StringVar(&addr, "addr", "127.0.0.1:0", "listen address")
	flag.IntVar(&workers, "workers", 1, "event loops")
	flag.Parse()
	return addr, workers
}

// Announce prints the listen address, the line that bench/compare waits for.
func Announce(addr fmt.Stringer) {
	fmt.Println(addr)
}

// Fail ends the server with the reason on stderr.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
