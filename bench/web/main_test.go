package main

import (
	"os"
	"testing"
	"time"
)

func TestRequests_OfWrk(t *testing.T) {
	n, p99, err := requests("Running 1s test\n     90%    1.10ms\n     99%    2.50ms\n  160305 requests in 3.10s, 20.33MB read\nRequests/sec: 51711\n")
	if err != nil || n != 160305 || p99 != 2500*time.Microsecond {
		t.Errorf("%v, %v, %v", n, p99, err)
	}
	good := "  99%  1.00ms\n5 requests in 1s\n"
	if _, _, err := requests(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"", "5 requests in 1s\n", good + "  Socket errors: connect 0, read 4", good + "Non-2xx or 3xx responses: 5",
	} {
		if n, _, err := requests(bad); err == nil {
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
	m := median([]sample{{1, 30, 5}, {3, 10, 7}, {2, 20, 6}})
	if m != (sample{2, 20, 6}) {
		t.Error(m)
	}
}

func TestParse_Lists(t *testing.T) {
	o, err := parse([]string{"-kinds", "https,http", "-server-cpus", "1,2"})
	if err != nil || len(o.kinds) != 2 || len(o.cpus) != 2 || len(o.names) != len(listeners) {
		t.Fatalf("%+v, %v", o, err)
	}
	for _, bad := range [][]string{
		{"-kinds", "gopher"},
		{"-listeners", "go,"},
		{"-server-cpus", "3"},
		{"-d", "500ms"},
		{"-d", "1500ms"},
		{"-rounds", "0"},
		{"-c", "0"},
		{"stray"},
	} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
