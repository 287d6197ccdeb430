package wire

// This file changes if the frames of RFC 9000, section 19 do.

// Frame types, RFC 9000 section 12.4.
const (
	FramePadding            = 0x00
	FramePing               = 0x01
	FrameAck                = 0x02
	FrameAckECN             = 0x03
	FrameResetStream        = 0x04
	FrameStopSending        = 0x05
	FrameCrypto             = 0x06
	FrameNewToken           = 0x07
	FrameStream             = 0x08 // to 0x0f
	FrameMaxData            = 0x10
	FrameMaxStreamData      = 0x11
	FrameMaxStreamsBidi     = 0x12
	FrameMaxStreamsUni      = 0x13
	FrameDataBlocked        = 0x14
	FrameStreamDataBlocked  = 0x15
	FrameStreamsBlockedBidi = 0x16
	FrameStreamsBlockedUni  = 0x17
	FrameNewConnectionID    = 0x18
	FrameRetireConnectionID = 0x19
	FramePathChallenge      = 0x1a
	FramePathResponse       = 0x1b
	FrameConnectionClose    = 0x1c
	FrameApplicationClose   = 0x1d
	FrameHandshakeDone      = 0x1e

	streamFin    = 0x01
	streamLength = 0x02
	streamOffset = 0x04
)

// A Range is the packet numbers or byte offsets from Start up to, without, End.
type Range struct{ Start, End uint64 }

// Len returns how many numbers the range holds.
func (r Range) Len() uint64 { return r.End - r.Start }

// ECNCounts are the totals of an ACK frame of type 0x03.
type ECNCounts struct{ ECT0, ECT1, CE uint64 }

// Frame is any frame; Type says which fields count. STREAM frames have Type FrameStream whatever their
// flag bits were. Slices alias what was parsed.
type Frame struct {
	Type   uint64
	Stream uint64 // STREAM, RESET_STREAM, STOP_SENDING, MAX_STREAM_DATA, STREAM_DATA_BLOCKED
	Offset uint64 // STREAM, CRYPTO
	Data   []byte // STREAM, CRYPTO; the token of NEW_TOKEN; the reason of a close
	Fin    bool   // STREAM
	// Limit is the maximum of MAX_* and *_BLOCKED, the final size of RESET_STREAM.
	Limit uint64
	Code  uint64 // RESET_STREAM, STOP_SENDING, a close
	Cause uint64 // the frame type that CONNECTION_CLOSE blames

	Seq, RetirePriorTo uint64 // NEW_CONNECTION_ID, RETIRE_CONNECTION_ID
	CID                CID
	Token              [16]byte // the stateless reset token of NEW_CONNECTION_ID
	Path               [8]byte  // PATH_CHALLENGE, PATH_RESPONSE

	Largest, Delay uint64 // ACK; Delay as on the wire
	ECN            ECNCounts
	first          uint64
	ranges         []byte // gap and length pairs, checked by Parse
	count          uint64 // how many pairs
}

func encodingError(frame uint64, reason string) error {
	return &Error{Code: FrameEncodingError, Frame: frame, Reason: reason}
}

// reader takes fields off the front of a frame; after the first one that is cut short, bad stays true.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) varint() uint64 {
	v, n := ParseVarint(r.b)
	if n == 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if r.bad || uint64(len(r.b)) < n {
		r.bad = true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// Parse reads the frame at the front of b, which must not be empty, and returns its length. A run of
// PADDING is one frame. The error is an *Error with FRAME_ENCODING_ERROR.
func (f *Frame) Parse(b []byte) (n int, err error) {
	if b[0] == FramePadding {
		for n < len(b) && b[n] == FramePadding {
			n++
		}
		f.Type = FramePadding
		return n, nil
	}
	r := reader{b: b}
	typ := r.varint()
	if !r.bad && len(b)-len(r.b) != VarintLen(typ) {
		return 0, &Error{Code: ProtocolViolation, Frame: typ, Reason: "frame type in more bytes than needed"}
	}
	f.Type = typ
	switch {
	case typ >= FrameStream && typ < FrameStream+8:
		f.parseStream(&r, typ)
	case typ == FrameAck || typ == FrameAckECN:
		f.parseAck(&r)
	default:
		if !f.parseControl(&r) {
			return 0, encodingError(typ, "unknown frame type")
		}
	}
	if r.bad {
		return 0, encodingError(typ, "frame cut short or out of range")
	}
	return len(b) - len(r.b), nil
}

func (f *Frame) parseStream(r *reader, typ uint64) {
	f.Type = FrameStream
	f.Fin = typ&streamFin != 0
	f.Stream = r.varint()
	f.Offset = 0
	if typ&streamOffset != 0 {
		f.Offset = r.varint()
	}
	size := uint64(len(r.b))
	if typ&streamLength != 0 {
		size = r.varint()
	}
	f.Data = r.bytes(size)
	if f.Offset+uint64(len(f.Data)) > MaxVarint {
		r.bad = true
	}
}

func (f *Frame) parseAck(r *reader) {
	f.Largest = r.varint()
	f.Delay = r.varint()
	f.count = r.varint()
	f.first = r.varint()
	if r.bad || f.first > f.Largest {
		r.bad = true
		return
	}
	before := r.b
	smallest := f.Largest - f.first
	for range f.count {
		gap, length := r.varint(), r.varint()
		if r.bad || gap+2+length > smallest {
			r.bad = true
			return
		}
		smallest -= gap + 2 + length
	}
	f.ranges = before[:len(before)-len(r.b)]
	f.ECN = ECNCounts{}
	if f.Type == FrameAckECN {
		f.ECN = ECNCounts{ECT0: r.varint(), ECT1: r.varint(), CE: r.varint()}
	}
}

func (f *Frame) parseControl(r *reader) (known bool) {
	switch f.Type {
	case FramePing, FrameHandshakeDone:
	case FrameResetStream:
		f.Stream, f.Code, f.Limit = r.varint(), r.varint(), r.varint()
	case FrameStopSending:
		f.Stream, f.Code = r.varint(), r.varint()
	case FrameCrypto:
		f.Offset = r.varint()
		f.Data = r.bytes(r.varint())
		if f.Offset+uint64(len(f.Data)) > MaxVarint {
			r.bad = true
		}
	case FrameNewToken:
		f.Data = r.bytes(r.varint())
		if len(f.Data) == 0 {
			r.bad = true
		}
	case FrameMaxData, FrameDataBlocked:
		f.Limit = r.varint()
	case FrameMaxStreamData, FrameStreamDataBlocked:
		f.Stream, f.Limit = r.varint(), r.varint()
	case FrameMaxStreamsBidi, FrameMaxStreamsUni, FrameStreamsBlockedBidi, FrameStreamsBlockedUni:
		f.Limit = r.varint()
		if f.Limit > 1<<60 {
			r.bad = true
		}
	case FrameNewConnectionID:
		f.parseNewConnectionID(r)
	case FrameRetireConnectionID:
		f.Seq = r.varint()
	case FramePathChallenge, FramePathResponse:
		copy(f.Path[:], r.bytes(8))
	case FrameConnectionClose:
		f.Code, f.Cause = r.varint(), r.varint()
		f.Data = r.bytes(r.varint())
	case FrameApplicationClose:
		f.Code = r.varint()
		f.Data = r.bytes(r.varint())
	default:
		return false
	}
	return true
}

func (f *Frame) parseNewConnectionID(r *reader) {
	f.Seq, f.RetirePriorTo = r.varint(), r.varint()
	size := r.bytes(1)
	if r.bad || size[0] < 1 || size[0] > MaxCIDLen || f.RetirePriorTo > f.Seq {
		r.bad = true
		return
	}
	id := r.bytes(uint64(size[0]))
	token := r.bytes(16)
	if !r.bad {
		f.CID = MakeCID(id)
		copy(f.Token[:], token)
	}
}

// AckIterator walks the ranges of an ACK frame from the largest packet number down.
type AckIterator struct {
	Range
	b        []byte
	smallest uint64
	first    bool
}

// AckRanges returns an iterator that stands before the first range.
func (f *Frame) AckRanges() AckIterator {
	return AckIterator{
		Range:    Range{Start: f.Largest - f.first, End: f.Largest + 1},
		b:        f.ranges,
		smallest: f.Largest - f.first,
		first:    true,
	}
}

// Next goes to the next range; false after the last.
func (i *AckIterator) Next() bool {
	if i.first {
		i.first = false
		return true
	}
	if len(i.b) == 0 {
		return false
	}
	gap, n := ParseVarint(i.b)
	length, m := ParseVarint(i.b[n:])
	i.b = i.b[n+m:]
	i.End = i.smallest - gap - 1
	i.Start = i.End - 1 - length
	i.smallest = i.Start
	return true
}

// Append appends the frame in its shortest form. STREAM frames get a length and, above 0, an offset.
func (f *Frame) Append(b []byte) []byte {
	switch f.Type {
	case FrameStream:
		b = AppendStream(b, f.Stream, f.Offset, len(f.Data), f.Fin, true)
		return append(b, f.Data...)
	case FrameCrypto:
		b = AppendCrypto(b, f.Offset, len(f.Data))
		return append(b, f.Data...)
	}
	b = AppendVarint(b, f.Type)
	switch f.Type {
	case FrameAck, FrameAckECN:
		return f.appendAck(b)
	case FrameResetStream:
		b = AppendVarint(AppendVarint(AppendVarint(b, f.Stream), f.Code), f.Limit)
	case FrameStopSending:
		b = AppendVarint(AppendVarint(b, f.Stream), f.Code)
	case FrameNewToken:
		b = append(AppendVarint(b, uint64(len(f.Data))), f.Data...)
	case FrameMaxData, FrameDataBlocked, FrameMaxStreamsBidi, FrameMaxStreamsUni,
		FrameStreamsBlockedBidi, FrameStreamsBlockedUni:
		b = AppendVarint(b, f.Limit)
	case FrameMaxStreamData, FrameStreamDataBlocked:
		b = AppendVarint(AppendVarint(b, f.Stream), f.Limit)
	case FrameNewConnectionID:
		b = AppendVarint(AppendVarint(b, f.Seq), f.RetirePriorTo)
		b = append(append(b, f.CID.len), f.CID.b[:f.CID.len]...)
		b = append(b, f.Token[:]...)
	case FrameRetireConnectionID:
		b = AppendVarint(b, f.Seq)
	case FramePathChallenge, FramePathResponse:
		b = append(b, f.Path[:]...)
	case FrameConnectionClose:
		b = AppendVarint(AppendVarint(b, f.Code), f.Cause)
		b = append(AppendVarint(b, uint64(len(f.Data))), f.Data...)
	case FrameApplicationClose:
		b = AppendVarint(b, f.Code)
		b = append(AppendVarint(b, uint64(len(f.Data))), f.Data...)
	}
	return b
}

func (f *Frame) appendAck(b []byte) []byte {
	b = AppendVarint(AppendVarint(b, f.Largest), f.Delay)
	b = AppendVarint(AppendVarint(b, f.count), f.first)
	b = append(b, f.ranges...)
	if f.Type == FrameAckECN {
		b = AppendVarint(AppendVarint(AppendVarint(b, f.ECN.ECT0), f.ECN.ECT1), f.ECN.CE)
	}
	return b
}

// AppendStream appends the head of a STREAM frame; size bytes of data must follow. Without withLength
// the frame reaches to the end of its packet.
func AppendStream(b []byte, id, offset uint64, size int, fin, withLength bool) []byte {
	typ := byte(FrameStream)
	if fin {
		typ |= streamFin
	}
	if offset > 0 {
		typ |= streamOffset
	}
	if withLength {
		typ |= streamLength
	}
	b = AppendVarint(append(b, typ), id)
	if offset > 0 {
		b = AppendVarint(b, offset)
	}
	if withLength {
		b = AppendVarint(b, uint64(size))
	}
	return b
}

// StreamOverhead is the size of a STREAM frame's head, with the length field of size bytes.
func StreamOverhead(id, offset uint64, size int) int {
	n := 1 + VarintLen(id) + VarintLen(uint64(size))
	if offset > 0 {
		n += VarintLen(offset)
	}
	return n
}

// AppendCrypto appends the head of a CRYPTO frame; size bytes of data must follow.
func AppendCrypto(b []byte, offset uint64, size int) []byte {
	return AppendVarint(AppendVarint(append(b, FrameCrypto), offset), uint64(size))
}

// AppendAck appends an ACK frame for ranges, which go up, don't touch, and aren't empty; those that
// room bytes can't hold are left out, the oldest first. delay is as on the wire. Counts that are all 0
// make a frame of type 0x02. b stays as it is if not even the newest range fits.
func AppendAck(b []byte, ranges []Range, delay uint64, ecn ECNCounts, room int) []byte {
	last := ranges[len(ranges)-1]
	typ := byte(FrameAck)
	size := 1 + VarintLen(last.End-1) + VarintLen(delay) + 2 + VarintLen(last.Len()-1)
	if ecn != (ECNCounts{}) {
		typ = FrameAckECN
		size += VarintLen(ecn.ECT0) + VarintLen(ecn.ECT1) + VarintLen(ecn.CE)
	}
	if size > room {
		return b
	}
	first := len(ranges) - 1
	for first > 0 {
		more := VarintLen(ranges[first].Start-ranges[first-1].End-1) + VarintLen(ranges[first-1].Len()-1)
		if size+more > room {
			break
		}
		size += more
		first--
	}
	b = AppendVarint(append(b, typ), last.End-1)
	b = AppendVarint(b, delay)
	b = AppendVarint(b, uint64(len(ranges)-1-first))
	b = AppendVarint(b, last.Len()-1)
	for i := len(ranges) - 2; i >= first; i-- {
		b = AppendVarint(b, ranges[i+1].Start-ranges[i].End-1)
		b = AppendVarint(b, ranges[i].Len()-1)
	}
	if typ == FrameAckECN {
		b = AppendVarint(AppendVarint(AppendVarint(b, ecn.ECT0), ecn.ECT1), ecn.CE)
	}
	return b
}
