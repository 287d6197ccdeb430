package core

// This file changes if how bytes are sent from where their owner keeps them does.

import "sort"

// ref is a part of the stream that lies in memory of somebody else's.
type ref struct {
	start uint64
	data  []byte
}

func (r *ref) end() uint64 { return r.start + uint64(len(r.data)) }

// refList is the bytes of a send buffer in order, without gaps. Those before first are forgotten.
type refList struct {
	list  []ref
	first int
}

// add appends p at offset start. Where it continues the last part in memory too it becomes part of it.
func (l *refList) add(start uint64, p []byte) {
	if n := len(l.list); n > l.first {
		last := &l.list[n-1]
		k := len(last.data)
		if cap(last.data)-k >= len(p) && &last.data[:k+1][k] == &p[0] {
			last.data = last.data[:k+len(p)]
			return
		}
	}
	if l.first > 16 && l.first > len(l.list)/2 {
		n := copy(l.list, l.list[l.first:])
		clear(l.list[n:])
		l.list, l.first = l.list[:n], 0
	}
	l.list = append(l.list, ref{start, p})
}

// at returns the index of the part that offset off lies in.
func (l *refList) at(off uint64) int {
	rest := l.list[l.first:]
	return l.first + sort.Search(len(rest), func(i int) bool { return rest[i].end() > off })
}

// copyOut fills p from offset off.
func (l *refList) copyOut(p []byte, off uint64) {
	for i := l.at(off); len(p) > 0; i++ {
		r := &l.list[i]
		n := copy(p, r.data[off-r.start:])
		p, off = p[n:], off+uint64(n)
	}
}

// replace has the part that began at offset start when it was added read from p instead.
func (l *refList) replace(start uint64, p []byte) {
	if i := l.at(start); i < len(l.list) && l.list[i].start == start {
		l.list[i].data = p
	}
}

// forget lets go of the parts below base.
func (l *refList) forget(base uint64) {
	for l.first < len(l.list) && l.list[l.first].end() <= base {
		l.list[l.first] = ref{}
		l.first++
	}
	if l.first == len(l.list) {
		l.list, l.first = l.list[:0], 0
	}
}

func (l *refList) empty() bool { return l.first == len(l.list) }

// copyOut fills p from offset off.
func (b *sendBuffer) copyOut(p []byte, off uint64) {
	if b.refs.empty() {
		ringCopyOut(p, b.ring, off)
		return
	}
	b.refs.copyOut(p, off)
}

// refer appends p without copying it, whatever the limit: who owns it keeps to that.
func (b *sendBuffer) refer(p []byte) {
	b.refs.add(b.end, p)
	b.end += uint64(len(p))
}
