package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/veloq/veloq"
)

// bytesMax bounds what the target sends for a request.
const bytesMax = 1 << 30

// startTarget serves something to fetch: /bytes/N sends so many bytes, /slow/DURATION waits before
// it answers, anything else is not found.
func startTarget(rt *veloq.Runtime, addr string) (*veloq.Server, error) {
	return (&veloq.ListenConfig{}).Start(context.Background(), rt, "tcp", addr, answer)
}

// answer serves one request of a connection.
func answer(c *veloq.Context, s *veloq.Stream) error {
	req, err := http.ReadRequest(bufio.NewReader(s))
	if err != nil {
		return err
	}
	status, size := http.StatusNotFound, 0
	what, arg, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	switch what {
	case "bytes":
		if n, err := strconv.Atoi(arg); err == nil && n >= 0 && n <= bytesMax {
			status, size = http.StatusOK, n
		}
	case "slow":
		if d, err := time.ParseDuration(arg); err == nil {
			status = http.StatusOK
			if err := c.Sleep(d); err != nil {
				return err
			}
		}
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		status, http.StatusText(status), size)
	if _, err := s.WriteString(head); err != nil {
		return err
	}
	piece := make([]byte, min(size, 64<<10))
	for size > 0 {
		n, err := s.Write(piece[:min(size, len(piece))])
		if err != nil {
			return err
		}
		size -= n
	}
	return nil
}
