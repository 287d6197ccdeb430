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

// Bytes one way over loopback, by the calls that copy and by those that don't.
func BenchmarkStream_Copies(b *testing.B) {
	p := make([]byte, 64<<10)
	write := map[string]func(*Stream) (int, error){
		"Write":      func(s *Stream) (int, error) { return s.Write(p) },
		"WriteOwned": func(s *Stream) (int, error) { return s.WriteOwned(p, nil) },
	}
	read := map[string]func(*Stream) error{
		"Read": func(s *Stream) error {
			buf := make([]byte, 64<<10)
			for {
				if _, err := s.Read(buf); err != nil {
					return err
				}
			}
		},
		"ReadLease": func(s *Stream) error {
			for {
				l, err := s.ReadLease(64 << 10)
				if err != nil {
					return err
				}
				l.Release()
			}
		},
	}
	for _, w := range []string{"Write", "WriteOwned"} {
		for _, r := range []string{"Read", "ReadLease"} {
			b.Run(w+"/"+r, func(b *testing.B) {
				c, s, _ := pair(b, clientConfig(), serverConfig())
				b.SetBytes(int64(len(p)))
				done := make(chan error, 1)
				go func() { done <- read[r](s) }()
				b.ReportAllocs()
				for b.Loop() {
					if _, err := write[w](c); err != nil {
						b.Fatal(err)
					}
				}
				if err := c.CloseWrite(); err != nil {
					b.Fatal(err)
				}
				if err := <-done; err != io.EOF {
					b.Fatal(err)
				}
			})
		}
	}
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
