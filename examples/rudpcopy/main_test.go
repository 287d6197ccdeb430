package main

// The program as its users see it: two processes and a file.

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp"
	"github.com/veloq/veloq/rudp/pin"
	"github.com/veloq/veloq/tests/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// receiver starts a receiving process and returns its folder, address and pin.
func receiver(t *testing.T) (dir, addr, pinned string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rudpcopy")
	require.NoError(t, err)
	t.Cleanup(func() {
		files, err := os.ReadDir(dir)
		assert.NoError(t, err)
		for _, f := range files {
			assert.NoError(t, os.Remove(filepath.Join(dir, f.Name())))
		}
		assert.NoError(t, os.Remove(dir))
	})
	server := program.Start(t, "-serve", "127.0.0.1:0", "-dir", dir)
	addr = strings.TrimPrefix(server.Line(), "listening on ")
	return dir, addr, strings.TrimPrefix(server.Line(), "pin ")
}

func someFile(t *testing.T, size int) (name string, data []byte) {
	t.Helper()
	data = make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(data)
	f, err := os.CreateTemp("", "rudpcopy-source")
	require.NoError(t, err)
	_, err = f.Write(data)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	t.Cleanup(func() { assert.NoError(t, os.Remove(f.Name())) })
	return f.Name(), data
}

func TestRudpcopy_MigratesInTheMiddle(t *testing.T) {
	dir, addr, pinned := receiver(t)
	name, data := someFile(t, 24<<20)
	out, err := program.New("-pin", pinned, "-migrate-after", strconv.Itoa(8<<20), name, addr).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "moved from ")
	assert.Contains(t, string(out), "100 %")
	got, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
}

func TestRudpcopy_EmptyFileAndShortOnes(t *testing.T) {
	dir, addr, pinned := receiver(t)
	for _, size := range []int{0, 1, 100_000} {
		name, data := someFile(t, size)
		out, err := program.New("-pin", pinned, name, addr).CombinedOutput()
		require.NoError(t, err, "%s", out)
		got, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, got))
	}
	name, _ := someFile(t, 1000)
	out, err := program.New("-pin", pinned, "-migrate-after", "5000", name, addr).CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(out), "shorter than -migrate-after")
}

// A sender that lies about names or ends too early leaves nothing behind.
func TestRudpcopy_BadSender(t *testing.T) {
	dir, addr, pinned := receiver(t)
	tlsConfig, err := pin.Client(pinned)
	require.NoError(t, err)
	for _, head := range []string{
		"\x00\x00\x00\x00\x00\x00\x00\x00\x05", "\x02..\x00\x00\x00\x00\x00\x00\x00\x05hello",
		"\x05a/../\x00\x00\x00\x00\x00\x00\x00\x05hello", "\x01a\x00\x00\x00\x00\x00\x00\x00\x05hell",
		"\x01a\x80\x00\x00\x00\x00\x00\x00\x00hello", "\x01", "",
	} {
		s, err := rudp.Dial(context.Background(), "udp", addr, &rudp.Config{TLS: tlsConfig})
		require.NoError(t, err)
		_, err = s.Write([]byte(head))
		require.NoError(t, err)
		require.NoError(t, s.CloseWrite())
		_, err = s.Read(make([]byte, 1))
		var reset *rudp.ResetError
		require.ErrorAs(t, err, &reset, "%q", head)
		assert.EqualValues(t, 1, reset.Code)
		s.Close()
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, files)
}

func TestRudpcopy_BadCommandLine(t *testing.T) {
	for _, args := range [][]string{
		{}, {"file", "127.0.0.1:1"}, {"-pin", "x", "file"}, {"-serve", ":0", "file"}, {"-pin", "x", "-migrate-after", "-1", "a", "b"},
	} {
		status, _, _ := program.Run(t, args...)
		assert.Equal(t, 2, status, "%q", args)
	}
	for _, args := range [][]string{{"-pin", "x", "/nonexistent", "127.0.0.1:1"}, {"-pin", "x", os.Args[0], "127.0.0.1:1"}, {"-serve", "nowhere"}} {
		status, _, _ := program.Run(t, args...)
		assert.Equal(t, 1, status, "%q", args)
	}
}
