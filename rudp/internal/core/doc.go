// Package core is a reliable byte stream over datagrams: QUIC version 1 (RFC 8999, 9000, 9001, 9002)
// with one client-initiated bidirectional stream a connection. It does no I/O and has no goroutine, lock,
// clock or randomness of its own: a driver owns an Endpoint and all its Conns, on one goroutine at a time.
// (crypto/tls runs a handshake on a goroutine of its own while a call waits for it; it ends with the
// handshake or the connection.)
//
// The driver's loop:
//
//	Endpoint.Recv     for each datagram that came, with its path and ECN mark
//	Endpoint.Tick     when Endpoint.Deadline has passed
//	Endpoint.Send     until it fills nothing; each Batch is one send of equal segments (GSO)
//	Endpoint.Next     until nil: the connections of which something changed; Conn.Events says what
//
// in any order, and Send after anything else: it alone produces datagrams. Every call takes the time as a
// mono.Time, which never goes back. A connection's user calls Write, Read, CloseWrite, Reset, Close,
// Migrate and Stats on its Conn, on the driver's goroutine. The driver's own word about a connection goes
// into Conn.User.
//
// Life of a Conn: Endpoint.Dial makes a client's, which reports EventConnected. A server's is made by an
// Initial packet and waits in Endpoint.Accept once its handshake is done: ask it after Recv. EventClosed is
// the last event; Err says why. Read hands out what had come in order even after that. The endpoint forgets
// a Conn when its draining time is over, about three probe timeouts later.
//
// Datagrams handed to Recv are decrypted in place and not kept; what Send fills is the caller's. Write
// copies, Read copies out. Refer and Share are for drivers that keep the bytes themselves: nothing is copied
// but into the datagrams, and out of them.
//
// Close lets what was written be delivered, then closes; with unread bytes it resets instead. Reset gives
// up both directions with an application's code; the peer's Read fails with *CloseError of kind
// KindReset once it has handed out what came before. Abort closes at once and delivers nothing.
//
// Memory is bounded for each connection: the send buffer, the receive window (out-of-order bytes count
// against it), 64 ranges of packet numbers to acknowledge a space, the list of sent packets, and 64 KiB of
// TLS messages.
package core

// This file changes if the core's contract with its driver does.
