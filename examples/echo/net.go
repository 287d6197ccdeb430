package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/veloq/veloq"
)

// serveNet serves as a program of package net does: a goroutine a connection. No runtime is started.
func serveNet(addr, stage string) error {
	if stage != "" {
		if _, err := veloq.ParseStageMode(stage); err != nil {
			return err
		}
		// Package-level functions take it from there.
		if err := os.Setenv("VELOQ_STAGE", stage); err != nil {
			return err
		}
	}
	ln, err := veloq.Listen("tcp", addr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	var conns sync.WaitGroup
	defer conns.Wait()
	context.AfterFunc(ctx, func() {
		_ = ln.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range open {
			_ = c.Close()
		}
	})
	fmt.Println(ln.Addr())
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		mu.Lock()
		open[c] = struct{}{}
		mu.Unlock()
		if ctx.Err() != nil {
			_ = c.Close() // after those that were open were closed
		}
		conns.Go(func() {
			echo(c)
			mu.Lock()
			delete(open, c)
			mu.Unlock()
		})
	}
}

// echo reads and writes as with package net: the connection is a *veloq.TCPConn.
func echo(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}
