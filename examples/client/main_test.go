package main

// The program as its users see it: a process with an exit status, against servers of package net.

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/tests/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

func runClient(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	program.NeedWorkers(t)
	return program.Run(t, args...)
}

// serve runs a server that treats each connection by fn.
func serve(t *testing.T, fn func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fn(conn)
			}()
		}
	}()
	return ln.Addr().String()
}

func TestClient_EveryByteComesBack(t *testing.T) {
	addr := serve(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	for _, args := range [][]string{
		{"-c", "1", "-n", "1", "-size", "1"},
		{"-c", "64", "-n", "200"},
		{"-c", "8", "-n", "50", "-size", "131072", "-workers", "2"},
	} {
		status, stdout, stderr := runClient(t, append(args, "-addr", addr)...)
		assert.Zero(t, status, "%q: %s", args, stderr)
		assert.Contains(t, stdout, "requests/s", "%q", args)
	}
}

func TestClient_WrongByte(t *testing.T) {
	addr := serve(t, func(c net.Conn) {
		buf := make([]byte, 64)
		for n := 0; ; n++ {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if n == 100 {
				buf[63] ^= 1
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
	status, stdout, stderr := runClient(t, "-addr", addr, "-c", "2", "-n", "200")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "request 100: wrong bytes came back")
	assert.Contains(t, stdout, "2 connections, 200 requests")
}

func TestClient_ServerThatCloses(t *testing.T) {
	addr := serve(t, func(c net.Conn) { _, _ = io.CopyN(c, c, 640) })
	status, _, stderr := runClient(t, "-addr", addr, "-c", "3", "-n", "200")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "connection 2, request 10")
}

func TestClient_ServerThatIsSilent(t *testing.T) {
	addr := serve(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	status, _, stderr := runClient(t, "-addr", addr, "-c", "3", "-n", "2", "-timeout", "100ms")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "i/o timeout")
}

func TestClient_NobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	ln.Close()
	status, _, stderr := runClient(t, "-addr", addr, "-c", "2")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "connection refused")
}

func TestClient_BadCommandLine(t *testing.T) {
	for _, args := range [][]string{{"stray"}, {"-c", "0"}, {"-size", "0"}, {"-size", "131073"}, {"-nosuch"}} {
		status, _, _ := runClient(t, args...)
		assert.Equal(t, 2, status, "%q", args)
	}
}
