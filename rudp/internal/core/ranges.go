package core

// This file changes if how sets of offsets or packet numbers are kept does.

import "github.com/veloq/veloq/rudp/internal/wire"

// rangeSet is a set of numbers as ranges that go up and don't touch.
type rangeSet []wire.Range

// find returns the index of the first range that ends at v or later.
func (s rangeSet) find(v uint64) int {
	lo, hi := 0, len(s)
	// Most additions are at the end.
	if hi > 0 && s[hi-1].End < v {
		return hi
	}
	for lo < hi {
		mid := (lo + hi) / 2
		if s[mid].End < v {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// add puts r in and returns how many numbers are new.
func (s *rangeSet) add(r wire.Range) (added uint64) {
	if r.Start >= r.End {
		return 0
	}
	first := s.find(r.Start)
	added = r.Len()
	last := first
	for last < len(*s) && (*s)[last].Start <= r.End {
		o := (*s)[last]
		if start, end := max(o.Start, r.Start), min(o.End, r.End); start < end {
			added -= end - start
		}
		r.Start, r.End = min(r.Start, o.Start), max(r.End, o.End)
		last++
	}
	if first == last {
		*s = append(*s, wire.Range{})
		copy((*s)[first+1:], (*s)[first:])
		(*s)[first] = r
		return added
	}
	(*s)[first] = r
	*s = append((*s)[:first+1], (*s)[last:]...)
	return added
}

// remove takes r out.
func (s *rangeSet) remove(r wire.Range) {
	if r.Start >= r.End {
		return
	}
	i := s.find(r.Start + 1)
	for i < len(*s) && (*s)[i].Start < r.End {
		o := (*s)[i]
		switch {
		case o.Start < r.Start && o.End > r.End:
			*s = append(*s, wire.Range{})
			copy((*s)[i+1:], (*s)[i:])
			(*s)[i].End, (*s)[i+1].Start = r.Start, r.End
			return
		case o.Start < r.Start:
			(*s)[i].End = r.Start
			i++
		case o.End > r.End:
			(*s)[i].Start = r.End
			return
		default:
			*s = append((*s)[:i], (*s)[i+1:]...)
		}
	}
}

func (s rangeSet) contains(v uint64) bool {
	i := s.find(v + 1)
	return i < len(s) && s[i].Start <= v
}
