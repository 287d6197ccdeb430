package tests

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/veloq/veloq"
)

// childPanicTask crashes by a task that nobody joins.
func childPanicTask() {
	rt, err := veloq.New(veloq.Config{Workers: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	_ = veloq.Go(rt, taskThatPanics)
	select {}
}

func taskThatPanics(*veloq.Context) { panic("on purpose in a task") }

// childPanicHandler crashes by a handler.
func childPanicHandler() {
	rt, err := veloq.New(veloq.Config{Workers: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	lc := veloq.ListenConfig{}
	srv, err := lc.StartHandler(context.Background(), rt, "tcp", "127.0.0.1:0", panickingHandler{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	conn, err := net.Dial("tcp", srv.Addr().String())
	if err == nil {
		_, _ = conn.Write([]byte("x"))
	}
	select {}
}

type panickingHandler struct{ veloq.HandlerBase }

func (panickingHandler) OnData(*veloq.Context, *veloq.Stream, veloq.Lease) error {
	panic("on purpose in a handler")
}
