package main

// The protocol: a header, the bytes, and the receiver's checksum as the answer.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const nameMax = 255

// giveFile sends f, and compares its checksum with the one that comes back.
func giveFile(peer interface {
	io.ReadWriter
	CloseWrite() error
}, f *os.File, b *bar,
) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	name := filepath.Base(f.Name())
	if len(name) > nameMax || !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file with a name of up to %d bytes", name, nameMax)
	}
	b.total = info.Size()
	head := append([]byte{byte(len(name))}, name...)
	head = binary.BigEndian.AppendUint64(head, uint64(info.Size()))
	if _, err := peer.Write(head); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(peer, sum, b), f, info.Size()); err != nil {
		return err
	}
	if err := peer.CloseWrite(); err != nil {
		return err
	}
	theirs, err := io.ReadAll(io.LimitReader(peer, sha256.Size+1))
	if err != nil {
		return err
	}
	b.end()
	if !bytes.Equal(theirs, sum.Sum(nil)) {
		return errors.New("another checksum came back: the copy is wrong")
	}
	return nil
}

// takeFile receives a file into dir. The file has its name only once it is complete.
func takeFile(peer io.ReadWriter, dir string) (name string, err error) {
	var length [1]byte
	if _, err := io.ReadFull(peer, length[:]); err != nil {
		return "", err
	}
	head := make([]byte, int(length[0])+8)
	if _, err := io.ReadFull(peer, head); err != nil {
		return "", err
	}
	name, size := string(head[:length[0]]), binary.BigEndian.Uint64(head[length[0]:])
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\\:\x00") {
		return "", fmt.Errorf("%q is not a file's name", name)
	}
	part, err := os.CreateTemp(dir, ".rudpcopy-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(part, sum), io.LimitReader(peer, int64(min(size, 1<<62))))
	if err == nil && uint64(n) != size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		// The sender's CloseWrite, which would fail once this side has closed.
		if _, end := io.ReadFull(peer, length[:]); end != io.EOF { //nolint:errorlint // io.EOF comes bare
			err = errors.Join(errors.New("more bytes than were announced"), end)
		}
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return name, err
	}
	if err = os.Rename(part.Name(), filepath.Join(dir, name)); err != nil {
		return name, err
	}
	_, err = peer.Write(sum.Sum(nil))
	return name, err
}

// bar shows how far it is, ten times a second at most, and calls reached once at bytes have gone
// by.
type bar struct {
	out         io.Writer
	total, done int64
	at          int64
	reached     func()
	begun, last time.Time
}

func (b *bar) Write(p []byte) (int, error) {
	b.done += int64(len(p))
	if b.reached != nil && b.done >= b.at {
		b.reached()
		b.reached = nil
	}
	now := time.Now()
	if b.begun.IsZero() {
		b.begun = now
	}
	if now.Sub(b.last) >= 100*time.Millisecond {
		b.last = now
		b.show(now)
	}
	return len(p), nil
}

func (b *bar) wasReached() bool { return b.reached == nil }

func (b *bar) show(now time.Time) {
	const width = 40
	share := 1.0
	if b.total > 0 {
		share = float64(b.done) / float64(b.total)
	}
	full := int(share * width)
	rate := float64(b.done) / max(now.Sub(b.begun).Seconds(), 1e-3) / 1e6
	fmt.Fprintf(b.out, "\r[%s%s] %3.0f %% %8.1f MB/s", strings.Repeat("#", full), strings.Repeat(".", width-full),
		100*share, rate)
}

func (b *bar) end() {
	b.show(time.Now())
	fmt.Fprintln(b.out)
}
