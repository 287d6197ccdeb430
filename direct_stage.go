package veloq

// How a net-door connection's staged bytes, deadlines and close go together.

import (
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
		return d.whyClosed(err)
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

func (d *directIO) whyClosed(err error) error {
	if d.closing.Load() {
		return net.ErrClosed
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
	if d.stage == nil || d.stage.idle() {
		return nil
	}
	d.out.Lock()
	defer d.out.Unlock()
	if d.stage.ends() {
		return d.whyEnds()
	}
	return d.clear()
}

// resend is for bytes that a batch could not send: a goroutine of its own waits for room.
func (d *directIO) resend() {
	go func() {
		d.out.Lock()
		defer d.out.Unlock()
		if !d.stage.ends() {
			_ = d.clear() // the next Write meets the same error
		}
	}()
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
	if !d.closing.CompareAndSwap(false, true) {
		return d.opError("close", net.ErrClosed)
	}
	if c.close() || (c.awaitDone(settleGrace) && c.idle()) {
		return d.under.Close()
	}
	past := time.Unix(1, 0)
	_ = d.under.SetDeadline(past)
	c.setUntil(past)
	go func() {
		if d.clearLate() != nil {
			// The bytes are lost, which a FIN would hide from the peer.
			if l, ok := d.under.(interface{ SetLinger(sec int) error }); ok {
				_ = l.SetLinger(0)
			}
		}
		_ = d.under.Close()
	}()
	return nil
}

// closeWrite shuts down the sending direction by shut, after what is staged, which it does not wait for.
func (d *directIO) closeWrite(shut func() error) error {
	c := d.stage
	if c == nil || c.close() || (c.awaitDone(settleGrace) && c.idle()) {
		return shut()
	}
	go func() {
		// If the bytes are lost the peer gets no FIN, but the reset of a close, whose bytes they are now.
		if d.clearLate() == nil {
			_ = shut()
		}
	}()
	return nil
}

// clearLate is clear for the last bytes of a connection, or direction, that has ended. Their deadline is
// their own, and nobody waits for them: the lock of out is free.
func (d *directIO) clearLate() error {
	d.outPassed()
	d.ending.Lock()
	defer d.ending.Unlock()
	until := time.Now().Add(d.stage.st.lateClose)
	d.stage.setUntil(until)
	_ = d.under.SetWriteDeadline(until)
	return d.clear()
}

// outPassed waits for whoever had the lock of out before the end, which whoever gets it later sees.
func (d *directIO) outPassed() {
	d.out.Lock()
	defer d.out.Unlock()
}

func (d *directIO) setDeadline(t time.Time) error {
	if err := d.checkOpen(); err != nil {
		return err
	}
	if c := d.stage; c != nil {
		if c.ends() {
			return d.under.SetReadDeadline(t)
		}
		c.setUntil(t)
	}
	return d.under.SetDeadline(t)
}

func (d *directIO) setReadDeadline(t time.Time) error {
	if err := d.checkOpen(); err != nil {
		return err
	}
	return d.under.SetReadDeadline(t)
}

func (d *directIO) setWriteDeadline(t time.Time) error {
	if err := d.checkOpen(); err != nil {
		return err
	}
	if c := d.stage; c != nil {
		if c.ends() {
			return nil // nobody can write any more
		}
		c.setUntil(t)
	}
	return d.under.SetWriteDeadline(t)
}

func (d *directIO) checkOpen() error {
	if d.closing.Load() {
		return &net.OpError{Op: "set", Net: d.network, Source: nil, Addr: d.under.LocalAddr(), Err: net.ErrClosed}
	}
	return nil
}
