//go:build !linux || !(amd64 || arm64 || riscv64 || loong64)

package rawio

// What stands in for the datagram calls where they are not: package net does the work there, and
// nothing but the options is ever asked for.

import (
	"errors"
	"net/netip"
	"syscall"
)

// MsgDirect says whether this system has the calls: no.
const MsgDirect = false

// MsgControlTruncated is no flag here: what package net returns is left as it is.
const MsgControlTruncated = 0

// MsgBatchMax is how many datagrams go in one call.
const MsgBatchMax = 1

func (*MsgName) Set4([4]byte, uint16)              {}
func (*MsgName) Set6([16]byte, uint16, uint32)     {}
func (*MsgName) Get() (_ netip.AddrPort, _ uint32) { return }

func MsgRecvFrom(uintptr, []byte, *MsgName) (int, syscall.Errno) { return 0, syscall.EINVAL }
func MsgSendTo(uintptr, []byte, *MsgName) (int, syscall.Errno)   { return 0, syscall.EINVAL }

// MsgHeader has nothing to hold here.
type MsgHeader struct{}

func (*MsgHeader) Recv(uintptr, []byte, []byte, *MsgName, int) (_, _, _ int, _ syscall.Errno) {
	return 0, 0, 0, syscall.EINVAL
}

func (*MsgHeader) Send(uintptr, []byte, []byte, *MsgName, int) (int, syscall.Errno) {
	return 0, syscall.EINVAL
}

// MsgBatch has nothing to hold here.
type MsgBatch struct{ name MsgName }

func (*MsgBatch) Len() int                                    { return 0 }
func (*MsgBatch) Clear()                                      {}
func (*MsgBatch) Begin()                                      {}
func (*MsgBatch) Buffer([]byte)                               {}
func (b *MsgBatch) Name() *MsgName                            { return &b.name }
func (*MsgBatch) OOB([]byte)                                  {}
func (*MsgBatch) ControlRoom(int)                             {}
func (*MsgBatch) Control() []byte                             { return nil }
func (*MsgBatch) SetControl([]byte, int, int)                 {}
func (*MsgBatch) Seal()                                       {}
func (*MsgBatch) Recv(uintptr, int) (int, syscall.Errno)      { return 0, syscall.EINVAL }
func (*MsgBatch) Send(uintptr, int, int) (int, syscall.Errno) { return 0, syscall.EINVAL }
func (*MsgBatch) Result(int) (_, _, _ int)                    { return }
func (b *MsgBatch) From(int) *MsgName                         { return &b.name }
func (*MsgBatch) Received(int) []byte                         { return nil }

func (*MsgControl) Parse([]byte)                      {}
func (*MsgControl) Append(b []byte, _, _ bool) []byte { return b }
func AppendSegment(b []byte, _ int) []byte            { return b }

func MsgIsIPv6(uintptr) (bool, error)                { return false, errors.ErrUnsupported }
func MsgHasGSO(uintptr) bool                         { return false }
func MsgSetGRO(uintptr, bool) error                  { return errors.ErrUnsupported }
func MsgSetReceiveTraffic(uintptr, bool, bool) error { return errors.ErrUnsupported }
func MsgSetPacketInfo(uintptr, bool, bool) error     { return errors.ErrUnsupported }
func MsgSetECN(uintptr, bool, uint8) error           { return errors.ErrUnsupported }
