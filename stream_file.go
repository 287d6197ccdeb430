package veloq

// Sending a file's bytes.

import (
	"context"
	"errors"
	"io"
	"math"
	"os"

	"github.com/veloq/veloq/internal/core"
)

const (
	// fileChunk is what is read at a time where the driver sends no files.
	fileChunk = 256 << 10
	// fileSendMax is what one op sends.
	fileSendMax = 1 << 30
)

// fileSend is the op that sends a part of the writer's file.
type fileSend struct {
	inFlight bool
	res      int32
}

// SendFile sends n bytes of f from offset off on, or with n < 0 all up to its end, after everything
// that was written before. It neither uses nor moves f's own position. It returns how many bytes were
// sent: fewer than n only with an error, io.ErrUnexpectedEOF where the file ends before. Where the
// system sends, the kernel has them all by then; where a goroutine reads, a last piece of up to 16 KiB
// is only accepted, as by Write. The write deadline and Close end it as they end a large Write; what
// was sent by then was sent.
//
// On Windows the system sends from its cache (TransmitFile); its editions for desktops serve two such
// calls at a time. Elsewhere a goroutine reads, 256 KiB at a time. f must not be changed or cut
// meanwhile; it may be closed, which takes effect when the part under way is over. ErrNotTask in a
// handler. Worker only. Blocks.
func (s *Stream) SendFile(f *os.File, off, n int64) (int64, error) {
	if err := s.checkWrite(); err != nil {
		return 0, err
	}
	t := s.w.running
	if t == nil {
		return 0, s.opError("write", ErrNotTask)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if n < 0 {
		n = max(info.Size()-off, 0)
	}
	if off < 0 || n > math.MaxInt64-off {
		return 0, s.opError("write", os.ErrInvalid)
	}
	if err := s.lockWriter(t); err != nil {
		return 0, err
	}
	defer s.unlockWriter()
	if s.w.driver.Report.Caps&core.CapSendFile == 0 || !info.Mode().IsRegular() {
		return s.copyFile(t, f, off, n)
	}
	have := min(max(info.Size()-off, 0), n)
	sent, err := s.transmitFile(t, f, off, have)
	if err == nil && have < n {
		err = io.ErrUnexpectedEOF
	}
	return sent, err
}

// copyFile reads what it then writes. t is the stream's writer.
func (s *Stream) copyFile(t *task, f *os.File, off, n int64) (int64, error) {
	buf := make([]byte, min(n, fileChunk))
	var sent int64
	for sent < n {
		part := buf[:min(n-sent, int64(len(buf)))]
		at := off + sent
		got, err := offload(&t.ctx, func(context.Context) (int, error) {
			got, err := f.ReadAt(part, at)
			if errors.Is(err, io.EOF) && got > 0 {
				err = nil
			}
			return got, err
		})
		if why := s.interrupted(t); why != nil {
			return sent, why
		}
		if errors.Is(err, io.EOF) {
			return sent, io.ErrUnexpectedEOF
		}
		if err != nil {
			return sent, err
		}
		m, err := s.writeTask(t, part[:got])
		sent += int64(m)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// transmitFile has the driver send the file's bytes. t is the stream's writer.
func (s *Stream) transmitFile(t *task, f *os.File, off, n int64) (sent int64, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	// Within Control the handle stays the file's, whoever closes it.
	controlErr := raw.Control(func(handle uintptr) {
		if err = s.awaitSent(t); err != nil {
			return
		}
		for sent < n && err == nil {
			var m int64
			m, err = s.transmitPart(t, handle, off+sent, min(n-sent, fileSendMax))
			sent += m
		}
	})
	if err == nil {
		err = controlErr
	}
	return sent, err
}

// awaitSent parks the writer until all that was written is with the kernel.
func (s *Stream) awaitSent(t *task) error {
	for s.unconfirmed() || s.send.out != nil {
		if err := s.parkWriter(t); err != nil {
			return err
		}
	}
	return nil
}

// transmitPart is one op. The task is the writer until it is over, so nothing else is sent meanwhile. It
// may send less: why, the next one says.
func (s *Stream) transmitPart(t *task, handle uintptr, off, n int64) (int64, error) {
	p := &s.send.writers.file
	sqe := s.w.stage(core.OpSendFile, opSendFile, s.slot)
	sqe.FD = s.fd
	sqe.Addr = uint64(handle)
	sqe.Off = uint64(off)
	sqe.Len = uint32(n)
	s.inFlight++
	*p = fileSend{inFlight: true}
	cancelled := false
	for p.inFlight {
		if !cancelled && s.interrupted(t) != nil {
			cancelled = true
			s.w.stageCancel(opSendFile, s.slot)
		}
		t.park()
	}
	sent := int64(max(p.res, 0))
	switch {
	case s.failedSend(p.res):
		return 0, s.send.failed
	case sent == n:
		return n, nil
	}
	err := s.interrupted(t)
	if err == nil && sent == 0 {
		err = io.ErrUnexpectedEOF // the file was cut
	}
	return sent, err
}

func (s *Stream) sendingFile() bool { return s.send.writers != nil && s.send.writers.file.inFlight }

// onSendFile takes the completion of such an op.
func (s *Stream) onSendFile(res int32) {
	s.inFlight--
	p := &s.send.writers.file
	p.inFlight, p.res = false, res
	s.w.wake(s.send.writer)
	s.settle()
}
