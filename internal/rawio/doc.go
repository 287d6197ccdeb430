// Package rawio has the system calls of the net door: they never wait, so they are made without
// telling Go's scheduler, which is what makes them cheap.
//
// A call that the scheduler knows of (syscall.Syscall) lets it give the caller's processor to another
// thread, and keeps its monitor thread awake. A raw one has neither cost, and two duties: it must
// return soon, since the collector can't stop its thread meanwhile, and it must never block, whatever
// somebody has done to the descriptor's O_NONBLOCK. So every call here carries MSG_DONTWAIT, and one
// that may copy more than RawBytesMax is made the ordinary way.
package rawio
