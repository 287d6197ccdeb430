// Command chat is a line-based chat server. It prints the address it listens on as its first line.
//
//	chat -addr 127.0.0.1:9001 -workers 2
//	nc 127.0.0.1 9001
//
// The first line that a client sends is its name. /who lists the names, /quit leaves. What a client
// reads too slowly is dropped for it alone, with a notice of how many lines; one that reads nothing
// for -patience is disconnected.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/veloq/veloq"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run() error {
	addr := flag.String("addr", "127.0.0.1:9001", "`address` to listen on")
	workers := flag.Int("workers", 0, "workers; 0 is veloq's default")
	patience := flag.Duration("patience", 30*time.Second, "how long a client may read nothing")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	// A client's share of memory: WriteHigh and an outbox for what goes out, and one line comes in.
	rt, err := veloq.New(veloq.Config{Workers: *workers, WriteHigh: 32 << 10})
	if err != nil {
		return err
	}
	defer rt.Close()
	chat := newHub(rt.Workers(), *patience)
	// AcceptSpread: the kernel's spreading by address would put a few clients anywhere.
	lc := veloq.ListenConfig{Accept: veloq.AcceptSpread}
	server, err := lc.Start(context.Background(), rt, "tcp", *addr, chat.serve)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Println(server.Addr())

	<-ctx.Done()
	return nil // Close ends the clients: a chat never ends by itself
}
