package main

// The program as its users see it: a process, package net/http's client, raw requests, and wrk.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/veloq/veloq/tests/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

func start(t *testing.T, args ...string) (addr string) {
	t.Helper()
	program.NeedWorkers(t)
	return program.Start(t, append([]string{"-addr", "127.0.0.1:0"}, args...)...).Line()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// browser is an http.Client of one test, whose connections end with it.
func browser(t *testing.T) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func fetch(t *testing.T, c *http.Client, req *http.Request) (int, []byte) {
	t.Helper()
	resp, err := c.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, body
}

func get(t *testing.T, c *http.Client, url string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	must(t, err)
	return fetch(t, c, req)
}

func TestHTTP_KeepAlive(t *testing.T) {
	addr := start(t)
	c := browser(t)
	dialed := 0
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			dialed++
		}
	}}
	for range 100 {
		req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/hello", nil)
		must(t, err)
		status, body := fetch(t, c, req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
		if status != 200 || string(body) != "hello, world\n" {
			t.Fatalf("%d %q", status, body)
		}
	}
	if dialed != 1 {
		t.Errorf("%d connections for 100 requests one after another, want 1", dialed)
	}
}

// Requests sent without waiting for answers are answered in order.
func TestHTTP_Pipelined(t *testing.T) {
	addr := start(t)
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	const n = 500
	go func() {
		var b strings.Builder
		for i := range n {
			body := fmt.Sprintf("request %d", i)
			fmt.Fprintf(&b, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
		_, _ = io.WriteString(conn, b.String())
	}()
	r := bufio.NewReader(conn)
	for i := range n {
		resp, err := http.ReadResponse(r, nil)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if want := fmt.Sprintf("request %d", i); string(body) != want {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
}

func TestHTTP_PostBody(t *testing.T) {
	addr := start(t)
	c := browser(t)
	for _, size := range []int{0, 1, 4096, 100_000, bodyMax} {
		sent := make([]byte, size)
		_, _ = (&pattern{}).Read(sent)
		req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/echo", bytes.NewReader(sent))
		must(t, err)
		status, got := fetch(t, c, req)
		if status != 200 || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes: status %d, %d bytes back", size, status, len(got))
		}
	}
	// Chunked, since the length is not known before.
	req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/echo",
		io.LimitReader(&pattern{}, 300_000))
	must(t, err)
	want := make([]byte, 300_000)
	_, _ = (&pattern{}).Read(want)
	if status, got := fetch(t, c, req); status != 200 || !bytes.Equal(got, want) {
		t.Errorf("chunked: status %d, %d bytes back", status, len(got))
	}
}

// A response far larger than sockets and watermarks hold, to a client that takes its time.
func TestHTTP_BigResponse(t *testing.T) {
	addr := start(t)
	resp, err := browser(t).Get("http://" + addr + "/bytes?n=33554432")
	must(t, err)
	defer resp.Body.Close()
	want, got := &pattern{}, make([]byte, 64<<10)
	expected, total := make([]byte, len(got)), 0
	for {
		n, err := resp.Body.Read(got)
		_, _ = want.Read(expected[:n])
		if !bytes.Equal(got[:n], expected[:n]) {
			t.Fatalf("wrong bytes within %d of %d", n, total)
		}
		total += n
		if err == io.EOF {
			break
		}
		must(t, err)
	}
	if total != 32<<20 {
		t.Errorf("%d bytes, want %d", total, 32<<20)
	}
}

func TestHTTP_ManyAtOnce(t *testing.T) {
	addr := start(t, "-workers", "2")
	c := browser(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for j := range 20 {
				body := fmt.Sprintf("%d %d", i, j)
				resp, err := c.Post("http://"+addr+"/echo", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(got) != body {
					t.Errorf("%q came back as %q, %v", body, got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestHTTP_BadInput(t *testing.T) {
	addr := start(t)
	c := browser(t)
	for path, want := range map[string]int{
		"/nosuch": 404, "/bytes": 400, "/bytes?n=-1": 400, "/bytes?n=67108865": 400, "/bytes?n=0": 200,
	} {
		if status, _ := get(t, c, "http://"+addr+path); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	// What is no HTTP gets an error and the end of the connection; the server goes on.
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = io.WriteString(conn, "\x16\x03\x01 no http\r\n\r\n")
	must(t, err)
	answer, err := io.ReadAll(conn)
	must(t, err)
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 400")) {
		t.Errorf("the answer to rubbish is %q", answer)
	}
	if status, _ := get(t, c, "http://"+addr+"/hello"); status != 200 {
		t.Errorf("status %d afterwards", status)
	}
}

func TestHTTP_IdleConnectionEnds(t *testing.T) {
	addr := start(t, "-idle", "100ms")
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = io.WriteString(conn, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
	must(t, err)
	answer, err := io.ReadAll(conn) // ends by the server's FIN
	must(t, err)
	if !bytes.HasSuffix(answer, []byte("hello, world\n")) {
		t.Errorf("the answer is %q", answer)
	}
}

var socketErrors = regexp.MustCompile(`Socket errors|Non-2xx`)

func TestHTTP_Wrk(t *testing.T) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		t.Skip("no wrk here")
	}
	addr := start(t)
	out, err := exec.Command(wrk, "-t1", "-c64", "-d2s", "http://"+addr+"/hello").CombinedOutput()
	if err != nil || socketErrors.Match(out) {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
