package main

import (
	"os"
	"testing"
	"time"
)

func TestRequests_OfWrk(t *testing.T) {
	n, err := requests("Running 1s test\n  160305 requests in 3.10s, 20.33MB read\nRequests/sec: 51711\n")
	if err != nil || n != 160305 {
		t.Errorf("%v, %v", n, err)
	}
	for _, bad := range []string{"", "5 requests in 1s\n  Socket errors: connect 0, read 4", "5 requests in 1s\nNon-2xx or 3xx responses: 5"} {
		if n, err := requests(bad); err == nil {
			t.Errorf("%v of %q", n, bad)
		}
	}
}

func TestCPUTime_Grows(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if now, err := cpuTime(os.Getpid()); err != nil || now > before {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Error("no CPU time in 10 s of work")
}

func TestMedian_OfEachFigure(t *testing.T) {
	m := median([]sample{{1, 30}, {3, 10}, {2, 20}})
	if m != (sample{2, 20}) {
		t.Error(m)
	}
}
