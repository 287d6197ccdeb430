//go:build !linux

package tests

import (
	"syscall"
	"testing"
)

// Flags of package net's recvmsg that the tests compare with on Linux only.
const msgTrunc = 0x10

func makeBlocking(*testing.T, syscall.Conn) {}
