package main

import "github.com/veloq/veloq"

// outboxMax is how many lines wait in an outbox. As many again may be under way.
const outboxMax = 64

// A carrier brings lines to where they belong, and may park while it does. lost is how many lines
// found no room since the last call.
type carrier func(c *veloq.Context, lines []string, lost int) error

// outbox is a bounded queue that a task of its own empties, one batch after another. The task is
// started when there is something to carry and ends when there is nothing: an outbox that rests
// costs no task. It belongs to one worker, so it needs no lock.
type outbox struct {
	carry   carrier
	lines   []string
	lost    int
	carried *veloq.LocalHandle[struct{}] // the task that empties it; nil while none does
	failed  bool
}

func newOutbox(carry carrier) *outbox { return &outbox{carry: carry} }

// put adds a line, or counts it as lost. It never waits.
func (o *outbox) put(c *veloq.Context, line string) {
	if o.failed {
		return
	}
	if len(o.lines) == outboxMax {
		o.lost++
		return
	}
	o.lines = append(o.lines, line)
	if o.carried == nil {
		o.carried = veloq.SpawnLocal(c, o.empty)
	}
}

func (o *outbox) empty(c *veloq.Context) (struct{}, error) {
	for len(o.lines) > 0 {
		lines, lost := o.lines, o.lost
		o.lines, o.lost = nil, 0
		if err := o.carry(c, lines, lost); err != nil {
			o.failed, o.lines = true, nil
			return struct{}{}, err
		}
	}
	o.carried = nil
	return struct{}{}, nil
}

// flush waits until all that was put has been carried.
func (o *outbox) flush(c *veloq.Context) error {
	if o.carried == nil {
		return nil
	}
	_, err := o.carried.Join(c)
	return err
}
