//go:build !veloq_debug

package debugtag

// Enabled reports whether the build tag veloq_debug is set.
const Enabled = false

// Note is a field that exists only with the tag. Elsewhere it takes no room and holds nothing; put it
// before a struct's last field, since one of no size takes room at the end.
type Note[T any] struct{}

// Get returns what Set stored, nil before.
func (Note[T]) Get() *T { return nil }

// Set stores p.
func (*Note[T]) Set(*T) {}
