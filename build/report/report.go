// Command report counts tests for build/test. It reads what a test runner wrote for machines, shows
// what failed, and appends the counts to a file:
//
//	go test -json ./... | report -counts FILE
//	report -counts FILE -junit FILE
//
// It says nothing about success: build/test looks at the counts and at the runner's exit status.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

type counts struct{ passed, failed, skipped int }

func main() {
	junit := flag.String("junit", "", "a JUnit file to read instead of go test -json on stdin")
	file := flag.String("counts", "", "where to append the counts")
	flag.Parse()

	var c counts
	var err error
	if *junit != "" {
		c, err = readJUnit(*junit, os.Stdout)
	} else {
		c, err = readGo(os.Stdin, os.Stdout)
	}
	if err == nil {
		fmt.Printf("%d passed, %d failed, %d skipped\n", c.passed, c.failed, c.skipped)
		if *file != "" {
			err = appendCounts(*file, c)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func appendCounts(name string, c counts) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d %d %d\n", c.passed, c.failed, c.skipped)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

func readJUnit(name string, out io.Writer) (counts, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return counts{}, err
	}
	var suite struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Disabled int `xml:"disabled,attr"`
		Skipped  int `xml:"skipped,attr"`
		Cases    []struct {
			Name    string    `xml:"name,attr"`
			Skipped *struct{} `xml:"skipped"`
			Output  string    `xml:"system-out"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal(data, &suite); err != nil {
		return counts{}, err
	}
	for _, c := range suite.Cases {
		if c.Skipped != nil {
			fmt.Fprintf(out, "skipped %s: %s\n", c.Name, strings.TrimSpace(c.Output))
		}
	}
	skipped := suite.Disabled + suite.Skipped
	return counts{suite.Tests - suite.Failures - skipped, suite.Failures, skipped}, nil
}

// An event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string // of build-output
	Elapsed                       float64
}

// A result is what became of one test. Action is "run" until it ends: a test that is still so when its
// package ends took the whole process down.
type result struct {
	action string
	output bytes.Buffer
	parent bool
}

type pkg struct {
	tests  map[string]*result
	order  []string
	output bytes.Buffer
}

func readGo(in io.Reader, out io.Writer) (counts, error) {
	var total counts
	packages := map[string]*pkg{}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				// Not the test's words but the go tool's own: a bad flag, a broken go.mod.
				fmt.Fprintf(out, "%s", line)
			} else {
				c := readEvent(e, packages, out)
				total.passed += c.passed
				total.failed += c.failed
				total.skipped += c.skipped
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return total, err
		}
	}
	// A package that never ended was killed, with everything in it.
	for name, p := range packages {
		c := p.end(name, "fail", out)
		total.passed += c.passed
		total.failed += c.failed
		total.skipped += c.skipped
	}
	return total, nil
}

func readEvent(e event, packages map[string]*pkg, out io.Writer) (c counts) {
	if e.Action == "build-output" {
		fmt.Fprint(out, e.Output)
	}
	if e.Package == "" {
		return c
	}
	p := packages[e.Package]
	if p == nil {
		p = &pkg{tests: map[string]*result{}}
		packages[e.Package] = p
	}
	if e.Test != "" {
		p.event(e)
		return c
	}
	switch e.Action {
	case "output":
		p.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		delete(packages, e.Package)
		c = p.end(e.Package, e.Action, out)
		if e.Action == "skip" && len(p.order) == 0 {
			break // has no test files
		}
		fmt.Fprintf(out, "%-4s %-60s %7.1fs %5d passed", e.Action, e.Package, e.Elapsed, c.passed)
		if c.failed+c.skipped > 0 {
			fmt.Fprintf(out, ", %d failed, %d skipped", c.failed, c.skipped)
		}
		fmt.Fprintln(out)
	}
	return c
}

func (p *pkg) event(e event) {
	r := p.tests[e.Test]
	if r == nil {
		r = &result{action: "run"}
		p.tests[e.Test] = r
		p.order = append(p.order, e.Test)
		for i := range len(e.Test) {
			if e.Test[i] != '/' {
				continue
			}
			if parent := p.tests[e.Test[:i]]; parent != nil {
				parent.parent = true
			}
		}
	}
	switch e.Action {
	case "output":
		r.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		r.action = e.Action
	}
}

// end counts a package's tests and shows what its failures wrote. A test with subtests counts only if
// it failed while all of them passed; a package that failed without a failed test counts as one.
func (p *pkg) end(name, action string, out io.Writer) (c counts) {
	failed := map[string]bool{}
	for i := len(p.order) - 1; i >= 0; i-- { // children come after their parents
		test := p.order[i]
		r := p.tests[test]
		switch {
		case r.action == "fail" || r.action == "run":
			if !failed[test] {
				c.failed++
			}
			for up := test; up != ""; up = up[:max(0, strings.LastIndexByte(up, '/'))] {
				failed[up] = true
			}
		case r.parent:
		case r.action == "skip":
			c.skipped++
		default:
			c.passed++
		}
	}
	for _, test := range p.order {
		r := p.tests[test]
		if failed[test] {
			fmt.Fprintf(out, "%s", r.output.Bytes())
		} else if r.action == "skip" {
			for line := range strings.Lines(r.output.String()) {
				if !strings.HasPrefix(line, "=== ") {
					fmt.Fprint(out, line)
				}
			}
		}
	}
	if action == "fail" {
		fmt.Fprintf(out, "%s", p.output.Bytes())
		if c.failed == 0 {
			fmt.Fprintf(out, "package %s failed outside its tests\n", name)
			c.failed = 1
		}
	}
	return c
}
