// Command gonet is the echo server on package net: a goroutine and a 16 KiB buffer a connection.
package main

import (
	"net"

	"github.com/veloq/veloq/bench/servers/start"
)

func main() {
	addr, _ := start.Flags() // goroutines have no event loops to count
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		start.Fail(err)
	}
	start.Announce(ln.Addr())
	for {
		c, err := ln.Accept()
		if err != nil {
			start.Fail(err)
		}
		go echo(c)
	}
}

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
