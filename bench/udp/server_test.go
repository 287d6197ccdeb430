package main

// Every server does what it is measured for: echoes each byte, or counts and answers who asks.

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/veloq/veloq"
)

const (
	doorEnv  = "VELOQ_UDP_DOOR"
	sinkEnv  = "VELOQ_UDP_SINK"
	patience = 30 * time.Second
)

func TestMain(m *testing.M) {
	if door := os.Getenv(doorEnv); door != "" {
		err := serve(door, os.Getenv(sinkEnv) == "true", time.Millisecond)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// start runs this binary as a server until the end of the test, and connects to it.
func start(t *testing.T, door string, sinking bool) net.Conn {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), doorEnv+"="+door, sinkEnv+"="+strconv.FormatBool(sinking))
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("udp", strings.TrimSpace(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func datagram(i int, ask byte) []byte {
	p := bytes.Repeat([]byte{byte(i)}, 100+i)
	clear(p[:headSize])
	p[0], p[askAt] = byte(i), ask
	return p
}

func TestServers_Echo(t *testing.T) {
	for door := range doors {
		t.Run(door, func(t *testing.T) {
			conn, buf := start(t, door, false), make([]byte, 2000)
			for i := range 20 {
				p := datagram(i, 0)
				if _, err := conn.Write(p); err != nil {
					t.Fatal(err)
				}
				n, err := conn.Read(buf)
				if err != nil || !bytes.Equal(buf[:n], p) {
					t.Fatalf("datagram %d: %d bytes, %v", i, n, err)
				}
			}
		})
	}
}

func TestServers_Sink(t *testing.T) {
	for door := range doors {
		t.Run(door, func(t *testing.T) {
			conn, buf := start(t, door, true), make([]byte, 2000)
			for i := range 20 {
				ask := byte(0)
				if i%5 == 4 {
					ask = 1
				}
				if _, err := conn.Write(datagram(i, ask)); err != nil {
					t.Fatal(err)
				}
				if ask == 0 {
					continue
				}
				n, err := conn.Read(buf)
				if err != nil || n != 100+i {
					t.Fatalf("answer after %d: %d bytes, %v", i, n, err)
				}
				if seen := binary.NativeEndian.Uint64(buf[seenAt:]); seen != uint64(i+1) {
					t.Fatalf("the server saw %d of %d", seen, i+1)
				}
			}
		})
	}
}

func TestMedianAndSpread(t *testing.T) {
	list := []sample{{CPU: 3}, {CPU: 1}, {CPU: 2}, {CPU: 7}}
	cpu := func(s sample) float64 { return s.CPU }
	if m := median(list, cpu); m != 2.5 {
		t.Error("median of four", m)
	}
	if m := median(list[:3], cpu); m != 2 {
		t.Error("median of three", m)
	}
	if s := spread(list); s != 3 {
		t.Error("spread", s)
	}
}

// Datagrams that may reach a server as one piece come back one by one, whole and in order.
func TestServers_PiecesOfGRO(t *testing.T) {
	const size, count = 500, 20
	for door := range doors {
		t.Run(door, func(t *testing.T) {
			to, err := net.ResolveUDPAddr("udp4", start(t, door, false).RemoteAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn, err := veloq.DialUDP("udp4", nil, to)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			all := make([]byte, 0, size*count)
			for i := range count {
				all = append(all, bytes.Repeat([]byte{byte(i)}, size)...)
			}
			sent := all[:len(all)-100] // the last is shorter
			if n, err := conn.WriteSegments(sent, size, netip.AddrPort{}); err != nil || n != len(sent) {
				t.Fatalf("%d bytes sent, %v", n, err)
			}
			buf := make([]byte, 2000)
			for i := range count {
				want := sent[i*size : min((i+1)*size, len(sent))]
				if n, err := conn.Read(buf); err != nil || !bytes.Equal(buf[:n], want) {
					t.Fatalf("datagram %d: %d bytes, %v", i, n, err)
				}
			}
		})
	}
}

func TestParseLoads_FormsAndRates(t *testing.T) {
	loads, err := parseLoads("echo,sink-gso@50000,sink-gso")
	if err != nil || len(loads) != 3 {
		t.Fatal(loads, err)
	}
	if got := strings.Join(loads[1].flags, " "); got != "-k -g -r 50000" || !loads[1].sink {
		t.Error("with a rate:", got)
	}
	if got := strings.Join(loads[2].flags, " "); got != "-k -g" {
		t.Error("the form after that:", got)
	}
	if _, err := parseLoads(defaultLoads); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "flood", "sink@", "sink@0", "sink@-1", "sink@fast", "sink,"} {
		if _, err := parseLoads(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for name := range strings.SplitSeq(defaultServers, ",") {
		if doors[name] == nil {
			t.Errorf("no server %q", name)
		}
	}
	if n := strings.Count(defaultServers, ",") + 1; n != len(doors) {
		t.Errorf("%d servers by default, of %d", n, len(doors))
	}
}
