// Command resp is a key-value store in memory that speaks RESP2, the protocol of Redis, and holds each key on one
// of its workers. It prints the address it listens on as its first line.
//
//	resp -addr 127.0.0.1:6380 -workers 2
//	redis-benchmark -p 6380 -t set,get,incr -P 16
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/veloq/veloq"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "resp:", err)
		os.Exit(1)
	}
}

func run() error {
	addr := flag.String("addr", "127.0.0.1:6380", "`address` to listen on")
	workers := flag.Int("workers", 0, "workers; 0 is veloq's default")
	flag.Parse()
	rt, err := veloq.New(veloq.Config{Workers: *workers})
	if err != nil {
		return err
	}
	defer rt.Close()
	st, err := newStore(rt)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server, err := (&veloq.ListenConfig{}).Start(ctx, rt, "tcp", *addr, st.serve)
	if err != nil {
		return err
	}
	fmt.Println(server.Addr())
	<-ctx.Done()
	server.Close()
	return nil
}
