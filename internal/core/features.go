package core

// What of the boundary features.h is.

// What the system's sockets may be able to do: include/veloq/features.h.
const (
	FeatureUnix = 1 << iota
	FeatureUDPSegment
	FeatureUDPGRO
	FeaturePacketInfo
	FeatureECN
	FeatureKeepAliveTimes
	FeatureSocketReuse
	FeatureRegisteredIO
)

// FeatureNames names the bits, lowest first.
var FeatureNames = [...]string{
	"UNIX", "UDP_SEGMENT", "UDP_GRO", "PACKET_INFO", "ECN", "KEEPALIVE_TIMES", "SOCKET_REUSE",
	"REGISTERED_IO",
}
