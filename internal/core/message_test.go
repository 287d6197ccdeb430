package core

import (
	"net/netip"
	"testing"
)

// A sent control message is read back as a received one, where the two have the same type: all but the
// segment's size, whose types differ, and the source, which is another field than the destination.
func TestControl_RoundTrip(t *testing.T) {
	if ControlSpace%8 != 0 {
		t.Fatal("control messages are aligned to 8")
	}
	cases := []Control{
		{},
		{Class: 3, HasClass: true},
		{Class: 0xb8, HasClass: true, Interface: 7},
		{Interface: 9, Addr: netip.MustParseAddr("2001:db8::7")},
		{Interface: 9, Addr: netip.MustParseAddr("fe80::1"), Class: 1, HasClass: true},
	}
	for _, want := range cases {
		for _, v4 := range []bool{false, true} {
			if v4 && want.Addr.IsValid() {
				continue
			}
			var room [ControlSpace]byte
			for i := range room {
				room[i] = 0xee
			}
			n := PutControl(room[:], &want, v4)
			if n%8 != 0 {
				t.Errorf("%+v takes %d bytes", want, n)
			}
			var got Control
			ParseControl(room[:n], &got)
			if v4 && want.Interface != 0 {
				want.Addr = netip.IPv4Unspecified()
			}
			if !v4 && want.Interface != 0 && !want.Addr.IsValid() {
				got.Addr = netip.Addr{}
			}
			if got != want {
				t.Errorf("v4 %v: put %+v, read %+v", v4, want, got)
			}
		}
	}
}

func TestControl_SegmentComesFirst(t *testing.T) {
	var room [ControlSpace]byte
	c := Control{Segment: 1200, Class: 2, HasClass: true, Interface: 3, Addr: netip.MustParseAddr("::1")}
	n := PutControl(room[:], &c, false)
	var rest Control
	ParseControl(room[SegmentControlBytes:n], &rest)
	c.Segment = 0
	if rest != c {
		t.Errorf("behind the segment: %+v, want %+v", rest, c)
	}
}

// Whatever is cut off or claims more than there is: nothing is read beyond the end, and it ends.
func TestControl_Malformed(t *testing.T) {
	var room [ControlSpace]byte
	c := Control{Class: 2, HasClass: true, Interface: 3, Addr: netip.MustParseAddr("::1")}
	n := PutControl(room[:], &c, false)
	for cut := range n {
		var got Control
		ParseControl(room[:cut:cut], &got)
	}
	for _, size := range []byte{0, 1, 15, 255} {
		bad := room
		bad[0] = size
		var got Control
		ParseControl(bad[:n:n], &got)
		if got != (Control{}) {
			t.Errorf("size %d: %+v", size, got)
		}
	}
}

func TestName_RoundTrip(t *testing.T) {
	for _, text := range []string{"192.0.2.1:5", "[2001:db8::1]:65535", "[fe80::1]:1"} {
		want := netip.MustParseAddrPort(text)
		for _, family := range []uint16{AF4, AF6} {
			var room [NameSpace]byte
			n := PutName(room[:], want, 7, family)
			if family == AF4 && !want.Addr().Is4() {
				if n != 0 {
					t.Errorf("%v in a socket of IPv4: %d bytes", want, n)
				}
				continue
			}
			got, zone, path := ParseName(room[:n])
			if got != want || path != nil || (family == AF6) != (zone == 7) {
				t.Errorf("put %v, read %v zone %d path %q", want, got, zone, path)
			}
			for cut := range n {
				if got, _, _ := ParseName(room[:cut:cut]); got.IsValid() {
					t.Errorf("%d bytes of %d: %v", cut, n, got)
				}
			}
		}
	}
}

func TestUnixName_RoundTrip(t *testing.T) {
	long := make([]byte, UnixPathMax+1)
	for i := range long {
		long[i] = 'x'
	}
	abstract := append([]byte{'@'}, long[:UnixPathMax-1]...)
	cases := map[string]bool{
		"/a/path": true, "@name": true, "@": true, string(long[:UnixPathMax-1]): true,
		string(abstract): true, string(long[:UnixPathMax]): false, string(long): false,
	}
	for path, fits := range cases {
		var room [UnixNameSpace]byte
		n := PutUnixName(room[:], path)
		if (n > 0) != fits {
			t.Errorf("%q: %d bytes", path, n)
			continue
		}
		if !fits {
			continue
		}
		from, _, got := ParseName(room[:n])
		if path[0] == '@' {
			path = "\x00" + path[1:]
		}
		if from.IsValid() || string(got) != path {
			t.Errorf("put %q, read %q", path, got)
		}
	}
	if _, _, path := ParseName([]byte{1, 0}); len(path) != 0 {
		t.Errorf("a sender without a path has %q", path)
	}
}
