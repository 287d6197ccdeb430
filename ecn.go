package veloq

// The marks of explicit congestion notification.

// ECN is a datagram's mark of congestion, RFC 3168: the low two bits of its traffic class.
type ECN uint8

// The marks.
const (
	ECNNone ECN = 0 // not capable of it; to send: the socket's own
	ECNOne  ECN = 1 // ECT(1)
	ECNZero ECN = 2 // ECT(0)
	ECNCE   ECN = 3 // congestion experienced
)
