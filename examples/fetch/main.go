// Command fetch gets URLs in parallel, each within a time of its own and all within another, and prints
// a line for each. It shows scopes, timeouts and a queue between tasks of several workers.
//
//	fetch -serve 127.0.0.1:9000                                 (a target; prints its address first)
//	fetch -p 8 -timeout 2s http://127.0.0.1:9000/bytes/100000 http://127.0.0.1:9000/slow/5s
//
// It exits with 1 if a URL failed, and with 2 if it could not begin.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/veloq/veloq"
)

// errFailed says that a URL failed, which was printed with it.
var errFailed = errors.New("not every URL could be fetched")

func main() {
	err := run(os.Args[1:], os.Stdout)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "fetch:", err)
	if errors.Is(err, errFailed) {
		os.Exit(1)
	}
	os.Exit(2)
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("fetch", flag.ContinueOnError)
	var o options
	flags.IntVar(&o.parallel, "p", 8, "fetches at once")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Second, "how long one fetch may take")
	flags.DurationVar(&o.total, "total", time.Minute, "how long all of it may take")
	flags.BoolVar(&o.failFast, "fail-fast", false, "let the first failure end the others")
	workers := flags.Int("workers", 0, "workers; 0 is veloq's default")
	serve := flags.String("serve", "", "instead of fetching, be a target on this `address`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.parallel < 1 || (*serve == "") == (flags.NArg() == 0) {
		return errors.New("URLs or -serve, and -p of at least 1: see -h")
	}
	rt, err := veloq.New(veloq.Config{Workers: *workers})
	if err != nil {
		return err
	}
	defer rt.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *serve != "" {
		server, err := startTarget(rt, *serve)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, server.Addr())
		<-ctx.Done()
		return nil
	}
	failed := 0
	// An interrupt ends ctx, and with it the task and everything below it.
	_, err = veloq.Spawn(veloq.WithContext(ctx, rt), func(c *veloq.Context) (struct{}, error) {
		return struct{}{}, fetchAll(c, flags.Args(), o, func(r result) {
			fmt.Fprintln(out, r)
			if r.err != nil {
				failed++
			}
		})
	}).Wait(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
	}
	if err != nil || failed > 0 {
		return errFailed
	}
	return nil
}
