package rudp

// This file changes if how a group finds the worker that a stateless reset is for does.

import (
	"sync"

	"github.com/veloq/veloq/rudp/internal/core"
)

// resetOwners knows whose connections end with which stateless reset (RFC 9000, section 10.3): such a
// datagram has no connection ID, and may come to any worker of a group.
type resetOwners struct {
	mu    sync.RWMutex
	owner map[[16]byte]uint16
}

var _ core.Resets = (*resetOwners)(nil)

// Await implements core.Resets.
func (o *resetOwners) Await(token [16]byte, worker uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.owner == nil {
		o.owner = map[[16]byte]uint16{}
	}
	o.owner[token] = worker
}

// Forget implements core.Resets.
func (o *resetOwners) Forget(token [16]byte, worker uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w, ok := o.owner[token]; ok && w == worker {
		delete(o.owner, token)
	}
}

// Owner implements core.Resets.
func (o *resetOwners) Owner(token [16]byte) (worker uint16, ok bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	worker, ok = o.owner[token]
	return worker, ok
}

// leave forgets what a worker's endpoint awaited, which has ended.
func (o *resetOwners) leave(worker uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for token, w := range o.owner {
		if w == worker {
			delete(o.owner, token)
		}
	}
}
