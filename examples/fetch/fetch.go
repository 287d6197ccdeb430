package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/veloq/veloq"
)

type options struct {
	parallel       int
	timeout, total time.Duration
	failFast       bool
}

type result struct {
	url    string
	status int
	bytes  int64
	took   time.Duration
	err    error
}

func (r result) String() string {
	if r.err != nil {
		return fmt.Sprintf("FAIL %s %v (%v)", r.url, r.err, r.took.Round(time.Millisecond))
	}
	return fmt.Sprintf("%d %s %d bytes in %v", r.status, r.url, r.bytes, r.took.Round(time.Millisecond))
}

// fetchAll fetches the URLs with so many tasks, spread over all workers, and reports each. When it
// returns none of them is left, whatever the reason: they are the scope's.
func fetchAll(c *veloq.Context, urls []string, o options, report func(result)) error {
	return veloq.Timeout(c, o.total, func(c *veloq.Context) error {
		return veloq.Scope(c, func(s *veloq.TaskScope) error {
			todo, done := veloq.NewChan[string](o.parallel), veloq.NewChan[result](o.parallel)
			for i := range min(o.parallel, len(urls)) {
				veloq.SpawnTo(s, i%c.Runtime().Workers(), func(c *veloq.Context) (struct{}, error) {
					return struct{}{}, fetchSome(c, todo, done, o.timeout)
				})
			}
			err := s.Go(func(c *veloq.Context) error {
				defer todo.Close()
				for _, u := range urls {
					if err := todo.Send(c, u); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			for range urls {
				r, err := done.Recv(c)
				if err != nil {
					return err
				}
				report(r)
				if r.err != nil && o.failFast {
					return r.err // which cancels the others
				}
			}
			return nil
		})
	})
}

// fetchSome fetches what comes until there is no more. A URL that fails is a result, not an error.
func fetchSome(c *veloq.Context, todo *veloq.Chan[string], done *veloq.Chan[result], timeout time.Duration) error {
	for {
		u, err := todo.Recv(c)
		if errors.Is(err, veloq.ErrChanClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		r := result{url: u}
		began := time.Now()
		r.err = veloq.Timeout(c, timeout, func(c *veloq.Context) error { return r.fetch(c) })
		r.took = time.Since(began)
		if err := done.Send(c, r); err != nil {
			return err
		}
	}
}

// fetch gets the result's URL over a connection of its own.
func (r *result) fetch(c *veloq.Context) error {
	u, err := url.Parse(r.url)
	if err != nil {
		return err
	}
	if u.Scheme != "http" || u.Host == "" {
		return errors.New("not an http:// URL")
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	conn, err := c.Dial("tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return err
	}
	defer conn.Close()
	req, err := http.NewRequestWithContext(c, http.MethodGet, r.url, nil)
	if err != nil {
		return err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return err
	}
	// A Stream is a net.Conn: what reads one parks the task.
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r.status = resp.StatusCode
	r.bytes, err = io.Copy(io.Discard, resp.Body)
	return err
}
