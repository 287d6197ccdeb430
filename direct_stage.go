package veloq

// How a net-door connection's staged bytes, deadlines and close go together.

import (
	"errors"
	"math"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/veloq/veloq/internal/core"
	"github.com/veloq/veloq/internal/rawio"
)

// settleGrace is how long Close itself waits for staged bytes, which is for the end of one enter;
// beyond it that is left to a goroutine.
const settleGrace = 5 * time.Millisecond

// resendEvery is the longest pause of resend.
const resendEvery = 100 * time.Millisecond

// longAgo is the deadline that wakes calls.
var longAgo = time.Unix(1, 0)

// stageBy has small writes staged by st from now on. Only before others know the connection.
func (d *directIO) stageBy(st *stager) {
	if st.mode != StageOff && core.SharesSockets && rawio.Available {
		d.stage = &stagedSend{st: st, d: d, fd: -1}
	}
}

// clear sends what is staged, with the lock of out held, or after the end that of ending. The error is
// what goes into the OpError.
func (d *directIO) clear() error {
	c := d.stage
	if !c.used {
		return nil
	}
	if err := c.settle(); err != nil {
		return d.whyNot(err)
	}
	if rest := c.leftOver(); rest != nil {
		n, err := d.sendNow(rest)
		c.sentRest(n)
		if err != nil {
			return err
		}
	}
	c.used = false
	return nil
}

// whyNot is why a write could not be made: what close or closeWrite woke did not miss its deadline.
func (d *directIO) whyNot(err error) error {
	if c := d.stage; c != nil && c.ends() && errors.Is(err, os.ErrDeadlineExceeded) {
		return d.whyEnds()
	}
	return err
}

// whyOver is package net's error of a call that close may have woken.
func (d *directIO) whyOver(err error) error {
	if d.closing.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		if oe, ok := err.(*net.OpError); ok { //nolint:errorlint // made for this call, wrapped by nobody
			oe.Err = net.ErrClosed
		}
	}
	return err
}

// whyEnds is what a Write gets after close or closeWrite.
func (d *directIO) whyEnds() error {
	if d.closing.Load() {
		return net.ErrClosed
	}
	return os.NewSyscallError(core.NameWrite, syscall.EPIPE)
}

// flush sends what is staged, before somebody sends in another way. A Write that waits has seen to that
// itself.
func (d *directIO) flush() error {
	if d.stage == nil || (d.stage.idle() && !d.stage.lost()) {
		return nil
	}
	d.out.Lock()
	defer d.out.Unlock()
	if d.stage.ends() {
		return d.whyEnds()
	}
	return d.clear()
}

// resend is for bytes that a batch could not send: a goroutine of its own waits for room. They are the
// system's for whoever wrote them, so the write deadline does not end it: once that has passed, which
// ends what package net waits for, it tries now and then.
func (d *directIO) resend() {
	go func() {
		for wait := time.Millisecond; d.resendSome(); wait = min(2*wait, resendEvery) {
			time.Sleep(wait)
		}
	}()
}

// resendSome reports whether there is more to send, by nobody else, and the deadline has passed.
func (d *directIO) resendSome() bool {
	d.out.Lock()
	defer d.out.Unlock()
	c := d.stage
	if c.ends() || !errors.Is(d.clear(), os.ErrDeadlineExceeded) {
		return false // the next Write meets the same error
	}
	if !c.settled() {
		return true
	}
	w := &d.out
	w.p = c.leftOver()
	failed := d.raw.Control(func(fd uintptr) { d.send(fd) })
	c.sentRest(w.n)
	more := w.n < len(w.p) && w.err == nil && failed == nil
	w.p, w.n, w.err = nil, 0, nil
	return more
}

// bypass is flush for when others will send by means that are not seen here: nothing is staged until
// resume, or if that never comes, any more.
func (d *directIO) bypass() error {
	if d.stage == nil {
		return nil
	}
	d.stage.bypass(1)
	return d.flush()
}

// yieldSocket is bypass for good, for who may close the socket: no batch may have bytes for a number
// that can be another's then.
func (d *directIO) yieldSocket() {
	if d.stage != nil {
		_ = d.bypass() // the error comes back from the socket
		d.stage.awaitDone(0)
	}
}

// shareSocket is bypass for good, for who gets a copy of the socket, which is there to be had even if it
// sends no more.
func (d *directIO) shareSocket() error {
	err := d.bypass()
	if d.closing.Load() || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

func (d *directIO) resume() {
	if d.stage != nil {
		d.stage.bypass(-1)
	}
}

// close closes what is below, after what is staged. Calls that wait are woken at once.
func (d *directIO) close() error {
	noteOver(d.note)
	c := d.stage
	if c == nil {
		return d.under.Close()
	}
	d.deadlines.Lock()
	first := d.closing.CompareAndSwap(false, true)
	idle := first && c.close()
	d.deadlines.Unlock()
	switch {
	case !first:
		return d.opError("close", net.ErrClosed)
	case idle || (c.awaitDone(settleGrace) && c.idle()):
		if c.lost() {
			d.loseAll()
		}
		return d.under.Close()
	}
	_ = d.under.SetDeadline(longAgo)
	c.setUntil(longAgo)
	go func() {
		if !d.reset.Load() && d.clearLate(func() error { return nil }) != nil {
			d.loseAll()
		}
		c.awaitDone(0)
		_ = d.under.Close()
	}()
	return nil
}

// loseAll is for bytes that are lost, which a FIN would hide from the peer.
func (d *directIO) loseAll() {
	if l, ok := d.under.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
}

// closeWrite shuts down the sending direction by shut, after what is staged, which it does not wait for.
// Writes that wait are woken.
func (d *directIO) closeWrite(shut func() error) error {
	c := d.stage
	if c == nil {
		return shut()
	}
	d.deadlines.Lock()
	before := c.ends()
	idle := c.close()
	d.deadlines.Unlock()
	switch {
	case d.closing.Load():
		return d.opError("close", net.ErrClosed)
	case idle || (c.awaitDone(settleGrace) && c.idle()):
		return shut()
	case before:
		return nil // which is on its way
	}
	d.deadlines.Lock()
	if !d.closing.Load() { // else the deadline is that of the last bytes
		_ = d.under.SetWriteDeadline(longAgo)
		c.setUntil(longAgo)
	}
	d.deadlines.Unlock()
	// If the bytes are lost the peer gets no FIN, but the reset of a close, whose bytes they are now.
	go func() { _ = d.clearLate(shut) }()
	return nil
}

// clearLate is clear for the last bytes of a connection, or direction, that has ended, and then does what
// follows. Their deadline is their own, and nobody waits for them: the lock of out is free.
func (d *directIO) clearLate(then func() error) error {
	d.outPassed()
	d.ending.Lock()
	defer d.ending.Unlock()
	until := time.Now().Add(d.stage.st.lateClose)
	d.stage.setUntil(until)
	_ = d.under.SetWriteDeadline(until)
	if err := d.clear(); err != nil {
		return err
	}
	return then()
}

// endPassed waits for whoever sends the last bytes of a direction that has ended.
func (d *directIO) endPassed() {
	d.ending.Lock()
	defer d.ending.Unlock()
}

// outPassed waits for whoever had the lock of out before the end, which whoever gets it later sees.
func (d *directIO) outPassed() {
	d.out.Lock()
	defer d.out.Unlock()
}

// untilOf is t in Unix nanoseconds, 0 for none, brought into their range.
func untilOf(t time.Time) int64 {
	switch sec := t.Unix(); {
	case t.IsZero():
		return 0
	case sec < 1:
		return 1
	case sec >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return t.UnixNano()
}

func (d *directIO) setDeadline(t time.Time) error {
	c := d.stage
	if c == nil {
		return d.under.SetDeadline(t)
	}
	d.deadlines.Lock()
	defer d.deadlines.Unlock()
	if err := d.checkOpen(); err != nil {
		return err
	}
	if c.ends() {
		return d.under.SetReadDeadline(t)
	}
	c.setUntil(t)
	return d.under.SetDeadline(t)
}

func (d *directIO) setReadDeadline(t time.Time) error {
	if d.stage == nil {
		return d.under.SetReadDeadline(t)
	}
	d.deadlines.Lock()
	defer d.deadlines.Unlock()
	if err := d.checkOpen(); err != nil {
		return err
	}
	return d.under.SetReadDeadline(t)
}

func (d *directIO) setWriteDeadline(t time.Time) error {
	c := d.stage
	if c == nil {
		return d.under.SetWriteDeadline(t)
	}
	d.deadlines.Lock()
	defer d.deadlines.Unlock()
	if err := d.checkOpen(); err != nil {
		return err
	}
	if c.ends() {
		return nil // nobody can write any more
	}
	c.setUntil(t)
	return d.under.SetWriteDeadline(t)
}

func (d *directIO) checkOpen() error {
	if d.closing.Load() {
		return &net.OpError{Op: "set", Net: d.network, Source: nil, Addr: d.under.LocalAddr(), Err: net.ErrClosed}
	}
	return nil
}
