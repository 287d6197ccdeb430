package veloq

import (
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// opOpenat is an operation of io_uring that veloq does not use.
const opOpenat = 18

// A restricted ring serves as any other, and refuses what is not veloq's: here to open a file.
func TestConfig_RestrictedRingRefusesOtherOps(t *testing.T) {
	for _, restrict := range []bool{true, false} {
		rt := newTestRuntime(t, Config{Workers: 1, Restrict: restrict})
		if rt.Report().Driver != "uring" {
			t.Skipf("%s has no ring to restrict", rt.Report().Driver)
		}
		require.Equal(t, restrict, slices.Contains(rt.Report().Caps, "RESTRICTED"))
		h := Spawn(rt, func(c *Context) (int32, error) {
			p := &probe{w: c.w, t: c.t}
			slot := c.w.slots.add(p)
			sqe := c.w.stage(opOpenat, opRecv, slot) // a null path: EFAULT where it is tried at all
			sqe.FD = -1
			for !p.done {
				c.t.park()
			}
			c.w.slots.remove(slot)
			return p.res, c.Sleep(1)
		})
		res, err := h.Wait(t.Context())
		require.NoError(t, err)
		if restrict {
			require.Equal(t, syscall.EACCES, syscall.Errno(-res))
		} else {
			require.Equal(t, syscall.EFAULT, syscall.Errno(-res))
		}
	}
}

type probe struct {
	w    *worker
	t    *task
	done bool
	res  int32
}

func (p *probe) complete(_ opKind, res int32, _ uint32) {
	p.done, p.res = true, res
	p.w.wake(p.t)
}

func (*probe) abort() {}
