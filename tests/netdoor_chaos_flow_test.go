package tests

// The model of TestNetdoorChaos: what of what was written may arrive.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
)

// A chaosFlow is one direction of a pair. Bytes are the pattern's, or frames of several writers.
type chaosFlow struct {
	tag    uint32
	frames bool
	left   atomic.Int64 // bytes still to be written

	mu       sync.Mutex
	accepted []int // by frame, how much of it was written; -1 while a call has it
	sizes    []int
	sent     atomic.Int64
	got      bytes.Buffer
	received atomic.Int64
}

const chaosHeader = 12 // of a frame: tag, number, size

// frame makes the bytes of frame i.
func (f *chaosFlow) frame(i, size int) []byte {
	b := make([]byte, 0, size)
	b = binary.BigEndian.AppendUint32(b, f.tag)
	b = binary.BigEndian.AppendUint32(b, uint32(i))
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return append(b, newPattern(i+int(f.tag)).next(size-chaosHeader)...)
}

// begin and end note a frame's write.
func (f *chaosFlow) begin(size int) (i int, frame []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i = len(f.accepted)
	f.accepted, f.sizes = append(f.accepted, -1), append(f.sizes, size)
	return i, f.frame(i, size)
}

func (f *chaosFlow) end(i, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted[i] = n
}

// Write takes what arrived.
func (f *chaosFlow) Write(p []byte) (int, error) {
	f.received.Add(int64(len(p)))
	return f.got.Write(p)
}

// verify holds what arrived to what was written: a beginning of it, and all of it if whole.
func (f *chaosFlow) verify(whole bool) error {
	got := f.got.Bytes()
	if whole && int64(len(got)) != f.sent.Load() {
		return fmt.Errorf("flow %d: %d bytes written, %d arrived", f.tag, f.sent.Load(), len(got))
	}
	if int64(len(got)) > f.sent.Load() {
		return fmt.Errorf("flow %d: %d bytes written, but %d arrived", f.tag, f.sent.Load(), len(got))
	}
	if !f.frames {
		return newPattern(int(f.tag)).check(got)
	}
	seen := make([]bool, len(f.accepted))
	for at := 0; at < len(got); {
		i, n := f.find(got[at:], seen)
		if i < 0 {
			return fmt.Errorf("flow %d: what arrived at %d of %d is no frame, or mixed", f.tag, at, len(got))
		}
		seen[i] = true
		at += n
	}
	return nil
}

// find returns which frame rest begins with, and how much of rest is its.
func (f *chaosFlow) find(rest []byte, seen []bool) (i, n int) {
	fits := func(i int) bool {
		if seen[i] || f.accepted[i] <= 0 {
			return false
		}
		want := f.frame(i, f.sizes[i])[:f.accepted[i]]
		n = min(len(want), len(rest))
		return bytes.Equal(want[:n], rest[:n])
	}
	if len(rest) >= chaosHeader && binary.BigEndian.Uint32(rest) == f.tag {
		if i := int(binary.BigEndian.Uint32(rest[4:])); i < len(seen) && fits(i) {
			return i, n
		}
	}
	for i := range seen {
		if (len(rest) < chaosHeader || f.accepted[i] < chaosHeader) && fits(i) {
			return i, n
		}
	}
	return -1, 0
}
