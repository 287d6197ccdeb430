package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReadGo(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want counts
		show string
	}{
		"nothing": {},
		"pass, fail and skip": {
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"b went wrong\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"run","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Test":"TestC","Output":"no kernel support\n"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p"}`,
			want: counts{1, 1, 1},
			show: "b went wrong\nno kernel support\n",
		},
		"a parent is not a test": {
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"run","Package":"p","Test":"TestA/y"}
{"Action":"pass","Package":"p","Test":"TestA/x"}
{"Action":"fail","Package":"p","Test":"TestA/y"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			want: counts{1, 1, 0},
		},
		"unless it failed by itself": {
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"pass","Package":"p","Test":"TestA/x"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			want: counts{1, 1, 0},
		},
		"the process died in a test": {
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"SIGSEGV\n"}
{"Action":"fail","Package":"p"}`,
			want: counts{0, 1, 0},
			show: "SIGSEGV\n",
		},
		"the process died between tests": {
			in: `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"exit status 66\n"}
{"Action":"fail","Package":"p"}`,
			want: counts{1, 1, 0},
			show: "exit status 66\n",
		},
		"does not compile": {
			in: `{"ImportPath":"p","Action":"build-output","Output":"syntax error\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			want: counts{0, 1, 0},
			show: "syntax error\n",
		},
		"cut off": {
			in:   `{"Action":"run","Package":"p","Test":"TestA"}`,
			want: counts{0, 1, 0},
		},
		"the words of the go tool itself": {
			in:   "go: errors parsing go.mod\n",
			show: "go: errors parsing go.mod\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			got, err := readGo(strings.NewReader(c.in), &out)
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
			assert.Contains(t, out.String(), c.show)
		})
	}
}

func TestReadJUnit(t *testing.T) {
	name := filepath.Join(t.TempDir(), "junit.xml")
	var out strings.Builder
	_, err := readJUnit(name, &out)
	require.Error(t, err)

	require.NoError(t, os.WriteFile(name, []byte(`<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="x" tests="5" failures="1" disabled="0" skipped="2" hostname="" time="0">
	<testcase name="c/a" status="run"><system-out>fine</system-out></testcase>
	<testcase name="c/b" status="notrun"><skipped message="x"/><system-out>no ring here
</system-out></testcase>
</testsuite>`), 0o600))
	got, err := readJUnit(name, &out)
	require.NoError(t, err)
	assert.Equal(t, counts{2, 1, 2}, got)
	assert.Equal(t, "skipped c/b: no ring here\n", out.String())

	require.NoError(t, os.WriteFile(name, []byte(`<testsuite tests="5"`), 0o600))
	_, err = readJUnit(name, &out)
	assert.Error(t, err)
}
