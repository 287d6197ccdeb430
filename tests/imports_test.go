// Package tests holds the black-box tests, and those of the tree itself.
package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/build"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/veloq/veloq"

// listed is what go list says of a package.
type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
	CgoFiles   []string
	Module     *struct{ Main bool }
}

// A rule says what the packages under a folder of this module may import besides the standard library.
// Folders end in "/..." when those below are meant too; "." is the root package.
type rule struct {
	folder string
	module []string // folders of this module
	others []string // prefixes of import paths of other modules
	cgo    bool
}

// importTable is the order of the house: imports go one way. The first rule that fits a package holds;
// a package that none fits is a violation, so that a new folder is given its place here.
var importTable = []rule{
	{folder: ".", module: []string{"internal/..."}},
	{folder: "engine/...", module: []string{"."}},
	{folder: "rudp/...", module: []string{".", "rudp/internal/..."}, others: []string{"golang.org/x/crypto/..."}},
	{folder: "metrics", module: []string{"."}},
	{folder: "debugz", module: []string{"."}},
	{folder: "internal/core", module: []string{"internal/...", "csrc", "include"}, cgo: true},
	{folder: "internal/...", module: []string{"internal/..."}},
	{folder: "csrc", module: []string{"include"}, cgo: true},
	{folder: "include"},
	{folder: "build/..."},
	// Programs of this module get no peers or servers into its go.mod: those have one of their own.
	{folder: "bench/...", module: []string{".", "engine/...", "rudp/..."}},
	{folder: "cmd/rudpcat", module: []string{"rudp/..."}},
	{folder: "cmd/...", module: []string{"."}},
	{folder: "examples/...", module: []string{".", "engine/...", "rudp/..."}},
	{folder: "tests/program", module: []string{"."}},
	{folder: "tests/...", module: []string{"..."}},
}

func within(folder string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool {
		if below, ok := strings.CutSuffix(f, "..."); ok {
			return strings.HasPrefix(folder+"/", below)
		}
		return folder == f
	})
}

// folderOf returns the folder of a package of this module.
func folderOf(path string) (folder string, ok bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

// violations holds a graph of packages against the table.
func violations(graph []listed, table []rule) []string {
	var found []string
	standard := map[string]bool{"C": true}
	for _, p := range graph {
		standard[p.ImportPath] = p.Standard
	}
	for _, p := range graph {
		folder, ours := folderOf(p.ImportPath)
		if !ours || p.Standard {
			continue
		}
		i := slices.IndexFunc(table, func(r rule) bool { return within(folder, []string{r.folder}) })
		if i < 0 {
			found = append(found, fmt.Sprintf("%s has no place in the import table", folder))
			continue
		}
		r := table[i]
		if len(p.CgoFiles) > 0 && !r.cgo {
			found = append(found, fmt.Sprintf("%s uses cgo: %v", folder, p.CgoFiles))
		}
		for _, path := range p.Imports {
			if standard[path] {
				continue
			}
			to, ours := folderOf(path)
			allowed := within(path, r.others)
			if ours {
				allowed = within(to, r.module)
			}
			if !allowed {
				found = append(found, fmt.Sprintf("%s imports %s", folder, path))
			}
		}
	}
	return found
}

func goList(t *testing.T, env ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Standard,Imports,CgoFiles,Module", "./...")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	var graph []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return graph
		}
		require.NoError(t, err)
		graph = append(graph, p)
	}
}

func TestImports(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go tool: ", err)
	}
	for _, env := range [][]string{
		{"GOOS=linux", "CGO_ENABLED=1"},
		{"GOOS=linux", "CGO_ENABLED=0"},
		{"GOOS=windows", "CGO_ENABLED=0"},
		{"GOOS=darwin", "CGO_ENABLED=0"},
	} {
		t.Run(strings.Join(env, " "), func(t *testing.T) {
			graph := goList(t, env...)
			ours := slices.DeleteFunc(slices.Clone(graph), func(p listed) bool {
				return p.Module == nil || !p.Module.Main
			})
			require.Greater(t, len(ours), 3, "go list found nothing to check")
			assert.Empty(t, violations(graph, importTable))
		})
	}
}

// Goal: the check can fail. Each line of a made-up graph breaks one rule, or keeps them all.
func TestImports_CheckerFindsViolations(t *testing.T) {
	std := listed{ImportPath: "net", Standard: true}
	for name, c := range map[string]struct {
		from  string
		to    string
		cgo   []string
		found bool
	}{
		"root, std":                     {from: ".", to: "net"},
		"root, internal":                {from: ".", to: module + "/internal/core"},
		"root, csrc":                    {from: ".", to: module + "/csrc", found: true},
		"root, face":                    {from: ".", to: module + "/engine", found: true},
		"root, third party":             {from: ".", to: "golang.org/x/sys/unix", found: true},
		"root, cgo":                     {from: ".", to: "C", cgo: []string{"veloq.go"}, found: true},
		"core, csrc":                    {from: "internal/core", to: module + "/csrc", cgo: []string{"core_linux.go"}},
		"core, root":                    {from: "internal/core", to: module, found: true},
		"below core, cgo":               {from: "internal/core/x", to: "C", cgo: []string{"x.go"}, found: true},
		"internal, root":                {from: "internal/wheel", to: module, found: true},
		"internal, csrc":                {from: "internal/wheel", to: module + "/csrc", found: true},
		"internal, cgo":                 {from: "internal/wheel", to: "C", cgo: []string{"x.go"}, found: true},
		"internal, internal":            {from: "internal/wheel", to: module + "/internal/race"},
		"csrc, include":                 {from: "csrc", to: module + "/include", cgo: []string{"csrc.go"}},
		"csrc, core":                    {from: "csrc", to: module + "/internal/core", found: true},
		"include, csrc":                 {from: "include", to: module + "/csrc", found: true},
		"face, root":                    {from: "engine", to: module},
		"face, internal":                {from: "engine", to: module + "/internal/core", found: true},
		"face, other face":              {from: "rudp", to: module + "/engine", found: true},
		"below face, third party":       {from: "rudp/fec", to: "github.com/quic-go/quic-go", found: true},
		"below rudp, ciphers":           {from: "rudp/internal/protect", to: "golang.org/x/crypto/chacha20"},
		"below rudp, another face's":    {from: "rudp/internal/core", to: module + "/engine/internal/x", found: true},
		"example, face":                 {from: "examples/echo", to: module + "/engine"},
		"example, third party":          {from: "examples/http", to: "github.com/valyala/fasthttp", found: true},
		"bench, third party":            {from: "bench/servers", to: "github.com/panjf2000/gnet/v2", found: true},
		"tests, anything of ours":       {from: "tests/soak", to: module + "/internal/core"},
		"tests of programs, core":       {from: "tests/program", to: module + "/internal/core", found: true},
		"tests, third party, non-test":  {from: "tests/soak", to: "github.com/stretchr/testify/assert", found: true},
		"no place":                      {from: "pkg", to: "net", found: true},
		"a name that begins like ours":  {from: "enginex", to: "net", found: true},
		"other module that begins like": {from: ".", to: module + "x/internal/core", found: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := module
			if c.from != "." {
				path += "/" + c.from
			}
			graph := []listed{std, {ImportPath: path, Imports: []string{"net", c.to}, CgoFiles: c.cgo}}
			found := violations(graph, importTable)
			if c.found {
				assert.Len(t, found, 1)
			} else {
				assert.Empty(t, found)
			}
		})
	}

	allowed := []rule{{folder: ".", others: []string{"golang.org/x/sys/..."}}}
	graph := []listed{std, {ImportPath: module, Imports: []string{"golang.org/x/sys/unix"}}}
	assert.Empty(t, violations(graph, allowed), "a module that is listed")
}

// portableFaults says what makes a file of the root package depend on the platform.
func portableFaults(name string) ([]string, error) {
	var found []string
	dir, base := filepath.Split(name)
	for _, platform := range [][2]string{{"linux", "amd64"}, {"windows", "arm64"}, {"plan9", "386"}} {
		ctx := build.Context{GOOS: platform[0], GOARCH: platform[1], Compiler: "gc", CgoEnabled: true}
		if match, err := ctx.MatchFile(dir, base); err != nil || !match {
			found = append(found, fmt.Sprintf("not built for %s/%s (%v)", platform[0], platform[1], err))
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, group := range file.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "//go:build") && c.Pos() < file.Package {
				found = append(found, c.Text)
			}
		}
	}
	for _, spec := range file.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil && path == "C" {
			found = append(found, `import "C"`)
		}
	}
	return found, nil
}

// Goal: package veloq is the same source everywhere. go list can't tell: it sees one platform at a time.
func TestRoot_IsPortable(t *testing.T) {
	files, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		found, err := portableFaults(name)
		require.NoError(t, err)
		assert.Empty(t, found, name)
	}
}

func TestRoot_IsPortable_CheckerFindsFaults(t *testing.T) {
	for name, source := range map[string]string{
		"x_linux.go":   "package veloq\n",
		"x_arm64.go":   "package veloq\n",
		"tag.go":       "//go:build race\n\npackage veloq\n",
		"every.go":     "//go:build linux || !linux\n\npackage veloq\n",
		"cgo.go":       "package veloq\n\nimport \"C\"\n",
		"fine_race.go": "// Package veloq: says //go:build nowhere.\npackage veloq\n\nimport _ \"net\"\n",
	} {
		// Not TempDir, whose end needs what Wine's os.RemoveAll lacks.
		dir, err := os.MkdirTemp("", "veloq")
		require.NoError(t, err)
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(source), 0o600))
		found, err := portableFaults(file)
		require.NoError(t, err)
		require.NoError(t, os.Remove(file))
		require.NoError(t, os.Remove(dir))
		assert.Equal(t, strings.HasPrefix(name, "fine"), len(found) == 0, "%s: %v", name, found)
	}
}
