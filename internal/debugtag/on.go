//go:build veloq_debug

package debugtag

// Enabled reports whether the build tag veloq_debug is set.
const Enabled = true

// Note is a field that exists only with the tag. Elsewhere it takes no room and holds nothing; put it
// before a struct's last field, since one of no size takes room at the end.
type Note[T any] struct{ p *T }

// Get returns what Set stored, nil before.
func (n Note[T]) Get() *T { return n.p }

// Set stores p.
func (n *Note[T]) Set(p *T) { n.p = p }
