package core

// This file changes if what must hold between calls does. Tests call it after every event.

import (
	"fmt"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/recovery"
)

// Check returns what doesn't hold in the connection, nil if all does. It counts after Send has returned
// nothing: whatever is left to do must have a time by then.
func (c *Conn) Check() error {
	if s := c.rec.Check(); s != "" && c.state < closing {
		return fmt.Errorf("recovery: %s", s)
	}
	if held, bound := c.MemoryBound(); held > bound {
		return fmt.Errorf("%d bytes held, at most %d allowed", held, bound)
	}
	for s := range c.spaces {
		if n := len(c.spaces[s].acks.ranges); n > ackRangesMax {
			return fmt.Errorf("%d ranges to acknowledge", n)
		}
	}
	if n := c.recv.high - c.recv.read; n > c.windowMax {
		return fmt.Errorf("%d bytes in a window of %d", n, c.windowMax)
	}
	if c.send.next > max(c.sendLimit(), 0) && c.state < closing {
		return fmt.Errorf("sent up to %d, allowed %d", c.send.next, c.sendLimit())
	}
	return c.checkWork()
}

func (c *Conn) checkWork() error {
	for s := recovery.InitialSpace; s < recovery.AppSpace && c.state < closing && !c.limited(); s++ {
		if c.spaces[s].write != nil && c.spaces[s].out.wants(1<<62) && c.rec.Timer() == mono.Never {
			return fmt.Errorf("TLS messages wait without a deadline")
		}
	}
	if c.state != established || c.limited() {
		if c.state != gone && c.Deadline() == mono.Never && c.idle > 0 {
			return fmt.Errorf("state %d without a deadline", c.state)
		}
		return nil
	}
	at := min(c.rec.Timer(), c.paceAt, c.pathDeadline())
	for s := range c.spaces {
		if c.spaces[s].acks.eliciting > 0 && c.spaces[s].acks.at == mono.Never {
			return fmt.Errorf("owes an ACK without a deadline")
		}
	}
	if (c.rec.Inflight > 0 || c.wants(recovery.AppSpace)) && at == mono.Never && c.confirmed {
		return fmt.Errorf("work without a deadline: %d in flight, wants %v", c.rec.Inflight, c.wants(recovery.AppSpace))
	}
	return nil
}
