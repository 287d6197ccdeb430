package recovery

// This file changes if the validation of ECN (RFC 9000, section 13.4.2) does.

import "github.com/veloq/veloq/rudp/internal/wire"

type ecnState struct {
	total  wire.ECNCounts // as last reported
	failed bool
}

// checkECN holds an ACK's counts against what was marked, and says whether there are new CE marks.
func (r *Recovery) checkECN(sp *space, f *wire.Frame, newest *Packet) (ce bool) {
	e := &sp.ecn
	if e.failed || newest.Path != r.Path {
		if f.Type == wire.FrameAckECN {
			e.total = f.ECN
		}
		return false
	}
	if f.Type != wire.FrameAckECN {
		// Marked packets were acknowledged without counts: the marks don't get through, or the peer
		// doesn't look.
		if newest.ECT {
			e.failed = true
		}
		return false
	}
	if int64(f.Largest) < sp.largestAcked {
		return false // reordered: counts may be older than the last
	}
	if f.ECN.CE < e.total.CE || f.ECN.ECT0 < e.total.ECT0 || f.ECN.ECT1 > e.total.ECT1 {
		e.failed = true
		return false
	}
	ce = f.ECN.CE > e.total.CE
	e.total = f.ECN
	return ce
}

// ECNFailed says that marks must no longer be set.
func (r *Recovery) ECNFailed() bool { return r.spaces[AppSpace].ecn.failed }
