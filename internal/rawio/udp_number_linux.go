//go:build linux && (arm64 || riscv64 || loong64)

package rawio

import "syscall"

// The system call's number, as package syscall has it.
const sysSENDMMSG = syscall.SYS_SENDMMSG
