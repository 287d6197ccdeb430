package veloq

// Reading a Stream up to a delimiter.

import "bytes"

// ReadSlice returns the next bytes up to the first delim, that included, as Next does: the bytes
// are taken, and valid until the next call that reads; those that arrived in several pieces are
// copied together. The first Config.ReadLimit bytes are searched; if it is not in them it fails
// with ErrTooLong. If the stream ends before, or the deadline has passed, it returns what there is
// and the error, bare io.EOF at the end of the stream. With an error none are taken. Worker only.
// Blocks.
func (s *Stream) ReadSlice(delim byte) ([]byte, error) {
	if err := s.startRead(); err != nil {
		return nil, err
	}
	r := &s.recv
	// While it waits leases are added at the end and none are taken, so each is searched once.
	searched, leases := 0, 0
	for {
		if err := s.await(searched+1, nil); err != nil {
			return s.lend(int(r.bytes)), err
		}
		for ; int(r.head)+leases < len(r.unread); leases++ {
			b := r.unread[int(r.head)+leases].Bytes()
			if at := bytes.IndexByte(b, delim); at >= 0 {
				p := s.lend(searched + at + 1)
				r.taken = r.lent
				return p, nil
			}
			searched += len(b)
		}
		if searched >= s.w.rt.config.ReadLimit {
			return s.lend(searched), s.opError("read", ErrTooLong)
		}
	}
}

// ReadBytes is ReadSlice into memory of the caller's own. Worker only. Blocks.
func (s *Stream) ReadBytes(delim byte) ([]byte, error) {
	p, err := s.ReadSlice(delim)
	return bytes.Clone(p), err
}

// ReadString is ReadBytes as a string. Worker only. Blocks.
func (s *Stream) ReadString(delim byte) (string, error) {
	p, err := s.ReadSlice(delim)
	return string(p), err
}
