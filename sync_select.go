package veloq

// Select: waiting for the first of several things.

import (
	"context"
	"math/rand/v2"
)

// Select waits until one of the cases is ready, takes that one and no other, and returns its index
// with the error that the case ended with (ErrChanClosed, for example). Of several that are ready
// it takes any, each as likely as the others. The index is -1 when nothing was taken: the error is
// then the caller's Context's, ErrNotTask or ErrWrongWorker. Without cases it waits for the
// Context's end.
//
// A Case may be used again, but by one caller at a time where it is of a Chan or of After.
//
// It parks a task whose Context ctx is or is derived from, and blocks a goroutine; timers can be
// waited for by tasks of their own worker only. Any goroutine. Blocks.
func Select(ctx context.Context, cases ...Case) (int, error) {
	return choose(ctx, cases, true)
}

// SelectBiased is Select that takes the first in order of those that are ready. A case that is
// always ready starves those behind it. Any goroutine. Blocks.
func SelectBiased(ctx context.Context, cases ...Case) (int, error) {
	return choose(ctx, cases, false)
}

// TrySelect is SelectBiased that never waits: its index is -1, and its error nil, when no case is
// ready. Any goroutine.
func TrySelect(cases ...Case) (int, error) {
	for i, of := range cases {
		if done, err := of.begin(nil, nil); done || err != nil {
			return taken(i, done), err
		}
	}
	return -1, nil
}

// taken is the index to return for a case that began with done.
func taken(i int, done bool) int {
	if done {
		return i
	}
	return -1
}

// shuffleMax is how many cases are shuffled without an allocation.
const shuffleMax = 16

func choose(ctx context.Context, cases []Case, fair bool) (int, error) {
	w, t, err := caller(ctx)
	if err != nil {
		return -1, err
	}
	var few [shuffleMax]int
	order := few[:0]
	for i := range cases {
		order = append(order, i)
	}
	if fair {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	for _, i := range order {
		if done, err := cases[i].begin(w, nil); done || err != nil {
			return taken(i, done), err
		}
	}
	cl := &claimant{waiter: waiter{w: w, t: t}}
	if t == nil {
		if err := mayBlock(); err != nil {
			return -1, err
		}
		cl.woken = make(chan struct{}, 1)
	}
	return cl.choose(ctx, cases, order)
}

// choose waits in the queues of all cases.
func (cl *claimant) choose(ctx context.Context, cases []Case, order []int) (index int, err error) {
	places := make([]place, len(cases))
	began, unwound := 0, true
	defer func() {
		if unwound {
			cl.giveUp()
		}
		for _, i := range order[:began] {
			cases[i].leave(&places[i])
		}
		won := int(cl.won.Load()) - 1
		switch {
		case won < 0:
		case unwound:
			cases[won].undo(&places[won])
		default:
			index, err = won, places[won].err
		}
	}()
	index = -1
	for _, i := range order {
		p := &places[i]
		p.by, p.of, p.index = cl, cases[i], int32(i)
		done, err := cases[i].begin(cl.w, p)
		if done {
			p.err = err // claimed for p
		} else if err != nil && cl.giveUp() {
			unwound = false
			return -1, err
		}
		began++
		if cl.won.Load() != 0 {
			unwound = false
			return -1, nil // the claimed one is returned above
		}
	}
	err = cl.await(ctx)
	unwound = false
	return -1, err
}
