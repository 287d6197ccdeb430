package main

// The client believes no server: what is wrong ends the run, and what is lost is counted.

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// against runs the client on a server that answers each datagram with what reply makes of it.
func against(t *testing.T, reply func(p []byte) [][]byte, flags ...string) (sample, error) {
	t.Helper()
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("no C compiler, and the client is C:", err)
	}
	client, err := buildClient(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUDP("udp4", loopback)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for p := make([]byte, datagramRoom); ; {
			n, from, err := conn.ReadFromUDPAddrPort(p)
			if err != nil {
				return
			}
			for _, answer := range reply(p[:n]) {
				_, _ = conn.WriteToUDPAddrPort(answer, from) // a client that gave up is gone
			}
		}
	}()
	defer func() {
		_ = conn.Close()
		<-ended
	}()
	flags = append([]string{
		"-a", conn.LocalAddr().String(), "-t", "0.05", "-w", "0.01", "-d", "8",
	}, flags...)
	out, err := exec.Command(client, flags...).Output()
	var s sample
	if err == nil {
		err = json.Unmarshal(out, &s)
	} else if exit, ok := err.(*exec.ExitError); ok {
		t.Logf("%s", exit.Stderr)
	}
	return s, err
}

func TestClient_TakesRightAnswers(t *testing.T) {
	for _, rate := range []string{"0", "5000"} {
		s, err := against(t, func(p []byte) [][]byte { return [][]byte{p} }, "-r", rate)
		if err != nil || s.Packets == 0 || s.Lost != 0 || s.Sent != s.Packets {
			t.Errorf("rate %s: %+v, %v", rate, s, err)
		}
	}
}

func TestClient_RejectsWrongAnswers(t *testing.T) {
	asked := func(p []byte, seen uint64) [][]byte {
		binary.NativeEndian.PutUint64(p[seenAt:], seen)
		return [][]byte{p}
	}
	var previous []byte
	for name, c := range map[string]struct {
		flags string
		reply func(p []byte) [][]byte
		why   string
	}{
		"a byte":  {"", func(p []byte) [][]byte { p[len(p)-1]++; return [][]byte{p} }, "wrong byte"},
		"cut":     {"", func(p []byte) [][]byte { return [][]byte{p[:len(p)-1]} }, "length"},
		"twice":   {"", func(p []byte) [][]byte { return [][]byte{p, p} }, "second answer"},
		"made up": {"", func(p []byte) [][]byte { p[15] = 1; return [][]byte{p} }, "another datagram"},
		"crossed": {"", func(p []byte) [][]byte {
			before := previous
			previous = append([]byte(nil), p...)
			if before == nil {
				return nil
			}
			return [][]byte{before}
		}, "another datagram"},
		"boasting": {"-k", func(p []byte) [][]byte { return asked(p, 1<<40) }, "asked"},
		"saw more": {"-k", func(p []byte) [][]byte {
			if p[askAt] == 0 {
				return nil
			}
			return asked(p, 1<<40)
		}, "saw more"},
		"silent": {"", func([]byte) [][]byte { return nil }, "no answers"},
	} {
		t.Run(name, func(t *testing.T) {
			said := ""
			_, err := against(t, c.reply, strings.Fields(c.flags)...)
			if exit, ok := err.(*exec.ExitError); ok {
				said = string(exit.Stderr)
			}
			if !strings.Contains(said, c.why) {
				t.Errorf("%q, %v; want %q", said, err, c.why)
			}
		})
	}
}

// A server that drops is told by its own count, even if it answers whatever asks.
func TestClient_CountsWhatTheServerLost(t *testing.T) {
	arrived, seen := 0, uint64(0)
	s, err := against(t, func(p []byte) [][]byte {
		if arrived++; arrived%4 == 1 {
			return nil // of each window of 8 the first and the fifth
		}
		seen++
		if p[askAt] == 0 {
			return nil
		}
		binary.NativeEndian.PutUint64(p[seenAt:], seen)
		return [][]byte{p}
	}, "-k", "-c", "1")
	if err != nil {
		t.Fatal(err)
	}
	if s.Sent == 0 || s.Lost*4 != s.Sent || s.Packets+s.Lost != s.Sent {
		t.Errorf("%+v: want a fourth lost", s)
	}
}
