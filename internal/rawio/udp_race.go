//go:build race

package rawio

// What the race detector must be told: raw system calls read and write memory unseen.

import (
	"runtime"
	"unsafe"
)

const msgRaceEnabled = true

// msgOrder stands for every datagram on its way: sending comes before receiving.
var msgOrder uint64

func msgReads(p []byte) {
	if len(p) > 0 {
		runtime.RaceReadRange(unsafe.Pointer(&p[0]), len(p))
	}
	runtime.RaceReleaseMerge(unsafe.Pointer(&msgOrder))
}

func msgWritten(p []byte) {
	runtime.RaceAcquire(unsafe.Pointer(&msgOrder))
	if len(p) > 0 {
		runtime.RaceWriteRange(unsafe.Pointer(&p[0]), len(p))
	}
}
