package rudp

import (
	"io"
	"testing"
)

// Bytes one way over loopback, as fast as they go.
func BenchmarkStream_Bulk(b *testing.B) {
	c, s, _ := pair(b, clientConfig(), serverConfig())
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	done := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, s)
		done <- n
	}()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.CloseWrite(); err != nil {
		b.Fatal(err)
	}
	<-done
	b.StopTimer()
	st := c.Stats()
	b.ReportMetric(float64(st.PacketsLost)/float64(st.PacketsSent), "lost/packet")
}

// 64 bytes there and back.
func BenchmarkStream_RoundTrip(b *testing.B) {
	c, s, _ := pair(b, clientConfig(), serverConfig())
	go func() { _, _ = io.Copy(s, s) }()
	p := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDial(b *testing.B) {
	l := listen(b, serverConfig())
	go func() {
		for {
			s, err := l.Accept()
			if err != nil {
				return
			}
			s.Close()
		}
	}()
	for b.Loop() {
		c, err := Dial(b.Context(), "udp", l.Addr().String(), clientConfig())
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
