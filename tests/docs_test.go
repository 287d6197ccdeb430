package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func readDoc(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", path))
	require.NoError(t, err)
	return string(b)
}

// flush takes the indentation and the empty lines at both ends away.
func flush(code string) string {
	lines := strings.Split(code, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// The README's code is the examples', which are compiled and run.
func TestDocs_READMECodeIsTheExamples(t *testing.T) {
	examples := flush(readDoc(t, "example_test.go"))
	blocks := goBlock.FindAllStringSubmatch(readDoc(t, "README.md"), -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		if !strings.Contains(examples, flush(block[1])) {
			t.Errorf("not in example_test.go:\n%s", block[1])
		}
	}
}

var relativeLink = regexp.MustCompile(`\]\(([^)#: ]+)(#[^)]*)?\)`)

func TestDocs_LinksResolve(t *testing.T) {
	documents, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	links := 0
	for _, path := range append(documents, "../README.md", "../bench/README.md") {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, link := range relativeLink.FindAllStringSubmatch(string(b), -1) {
			target := filepath.Join(filepath.Dir(path), link[1])
			assert.FileExists(t, target, "in %s", path)
			links++
			if link[2] != "" {
				body, err := os.ReadFile(target)
				require.NoError(t, err)
				assert.Contains(t, anchors(string(body)), link[2], "in %s", path)
			}
		}
	}
	assert.Greater(t, links, 10)
}

// anchors are the fragments that a page's headings make.
func anchors(markdown string) (found []string) {
	for line := range strings.Lines(markdown) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' {
			words := strings.Fields(strings.ToLower(heading))
			found = append(found, "#"+strings.Join(words, "-"))
		}
	}
	return found
}

// A file or folder that is new has its line in the table of files.
func TestDocs_ArchitectureNamesEveryFile(t *testing.T) {
	text := readDoc(t, "docs/architecture.md")
	for _, pattern := range []string{
		"*.go", "include/veloq/*.h", "csrc/*.c", "csrc/*.h", "internal/*", "internal/core/*.go",
	} {
		files, err := filepath.Glob("../" + pattern)
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			name := strings.TrimPrefix(filepath.ToSlash(file), "../")
			if strings.HasPrefix(name, "internal/core/") {
				name = filepath.Base(name)
			}
			if !strings.Contains(text, "`"+name+"`") { // not assert.Contains, which prints the page
				t.Errorf("%s is not in docs/architecture.md", name)
			}
		}
	}
}

var (
	namedTest  = regexp.MustCompile("`((?:Test|Example)[A-Z_a-z0-9]*)`")
	namedCTest = regexp.MustCompile("`(tests/(?:c|model)/[a-z0-9_./]+)`")
	testFunc   = regexp.MustCompile(`(?m)^func ((?:Test|Example)\w*)\(`)
)

// The tests that docs/status.md names are there.
func TestDocs_StatusNamesTestsThatExist(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, f := range testFunc.FindAllStringSubmatch(string(b), -1) {
			there[f[1]] = true
		}
		return err
	})
	require.NoError(t, err)
	status := readDoc(t, "docs/status.md")
	for _, name := range namedTest.FindAllStringSubmatch(status, -1) {
		assert.True(t, there[name[1]], "no test %s", name[1])
	}
	for _, name := range namedCTest.FindAllStringSubmatch(status, -1) {
		assert.FileExists(t, filepath.Join("..", name[1]))
	}
}
