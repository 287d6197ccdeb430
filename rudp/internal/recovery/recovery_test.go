package recovery

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/wire"
)

const ms = mono.Time(time.Millisecond)

// book notes what became of packets, and what the controller was told.
type book struct {
	acked, lost []uint64
	spurious    int
	persistent  bool
	last        Sample
}

func (b *book) PacketAcked(_ SpaceID, p *Packet)      { b.acked = append(b.acked, p.PN) }
func (b *book) PacketLost(_ SpaceID, p *Packet)       { b.lost = append(b.lost, p.PN) }
func (b *book) OnSent(mono.Time, uint64, int, uint64) {}
func (b *book) OnSpurious(mono.Time, mono.Time)       { b.spurious++ }
func (b *book) Window() uint64                        { return 1 << 20 }
func (b *book) Rate() uint64                          { return 1 << 20 }
func (b *book) SetDatagram(int)                       {}
func (b *book) OnAck(s *Sample, _ *RTT, _ mono.Time, p bool) {
	b.last, b.persistent = *s, b.persistent || p
}

func fixture() (*Recovery, *book) {
	b := &book{}
	r := New(b, b, true)
	r.HandshakeConfirmed, r.PeerValidated = true, true
	return r, b
}

func send(r *Recovery, at mono.Time, n int) {
	for range n {
		r.OnSent(at, AppSpace, &Packet{Size: 1000, Eliciting: true, InFlight: true, AckedUpTo: -1})
	}
}

func ack(t *testing.T, r *Recovery, at mono.Time, ranges ...wire.Range) {
	t.Helper()
	var f wire.Frame
	_, err := f.Parse(wire.AppendAck(nil, ranges, 0, wire.ECNCounts{}, 1000))
	require.NoError(t, err)
	require.NoError(t, r.OnAck(at, AppSpace, &f, 0))
	require.Empty(t, r.Check())
}

// RFC 9002, section 5.3, computed by hand.
func TestRTT(t *testing.T) {
	var r RTT
	assert.Equal(t, 333*time.Millisecond, r.SmoothedOr())
	assert.Equal(t, 999*time.Millisecond, r.PTO(0))
	r.Update(100*time.Millisecond, 0)
	assert.Equal(t, 100*time.Millisecond, r.Smoothed)
	assert.Equal(t, 50*time.Millisecond, r.Var)
	r.Update(140*time.Millisecond, 20*time.Millisecond)
	assert.Equal(t, 102500*time.Microsecond, r.Smoothed)
	assert.Equal(t, 42500*time.Microsecond, r.Var)
	r.Update(90*time.Millisecond, 50*time.Millisecond)
	assert.Equal(t, 90*time.Millisecond, r.Min, "a delay that would go below the least is not taken off")
	assert.Equal(t, r.Smoothed+4*r.Var+25*time.Millisecond, r.PTO(25*time.Millisecond))
}

func TestRecovery_LossByPacketThreshold(t *testing.T) {
	r, b := fixture()
	send(r, 0, 5)
	ack(t, r, 50*ms, wire.Range{Start: 2, End: 3})
	assert.Empty(t, b.lost, "two later is not three later")
	ack(t, r, 50*ms, wire.Range{Start: 2, End: 4})
	assert.Equal(t, []uint64{0}, b.lost)
	assert.Equal(t, uint64(2000), r.Inflight)
}

// Runs are counted once each, also where an acknowledgment shows only the rest of one.
func TestRecovery_LossRuns(t *testing.T) {
	r, b := fixture()
	send(r, 0, 20)
	ack(t, r, 50*ms, wire.Range{Start: 2, End: 3}, wire.Range{Start: 6, End: 9})
	assert.Equal(t, []uint64{0, 1, 3, 4, 5}, b.lost)
	assert.Equal(t, 2, b.last.LostRuns)
	ack(t, r, 51*ms, wire.Range{Start: 13, End: 14})
	assert.Equal(t, []uint64{0, 1, 3, 4, 5, 9, 10}, b.lost)
	assert.Equal(t, 1, b.last.LostRuns)
	ack(t, r, 52*ms, wire.Range{Start: 15, End: 16})
	assert.Equal(t, []uint64{0, 1, 3, 4, 5, 9, 10, 11, 12}, b.lost)
	assert.Zero(t, b.last.LostRuns, "it goes on")
}

func TestRecovery_LossByTimeThreshold(t *testing.T) {
	r, b := fixture()
	send(r, 0, 1)
	send(r, 1*ms, 1)
	ack(t, r, 41*ms, wire.Range{Start: 1, End: 2})
	assert.Equal(t, 45*ms, r.Timer(), "9/8 of 40 ms after it was sent")
	probe, _ := r.OnTimer(44 * ms)
	assert.False(t, probe)
	assert.Empty(t, b.lost)
	probe, _ = r.OnTimer(50 * ms)
	assert.False(t, probe)
	assert.Equal(t, []uint64{0}, b.lost)
	assert.Zero(t, r.Inflight)
	assert.Equal(t, mono.Never, r.Timer())
}

func TestRecovery_SpuriousLossWidensAndUndoes(t *testing.T) {
	r, b := fixture()
	send(r, 0, 10)
	ack(t, r, 50*ms, wire.Range{Start: 5, End: 6})
	assert.Equal(t, []uint64{0, 1, 2}, b.lost)
	assert.Zero(t, b.spurious)
	ack(t, r, 60*ms, wire.Range{Start: 0, End: 6})
	assert.Equal(t, uint64(3), r.SpuriousPackets)
	assert.Equal(t, 1, b.spurious)
	assert.Subset(t, b.acked, []uint64{0, 1, 2}, "what they carried need not go again")
	b.lost = nil
	send(r, 100*ms, 10)
	ack(t, r, 150*ms, wire.Range{Start: 14, End: 16})
	assert.NotContains(t, b.lost, uint64(11), "reordering by three was seen and is allowed now")
}

func TestRecovery_ProbeTimeoutBacksOff(t *testing.T) {
	r, _ := fixture()
	send(r, 0, 1)
	ack(t, r, 40*ms, wire.Range{Start: 0, End: 1})
	r.MaxAckDelay = 10 * time.Millisecond
	send(r, 100*ms, 1)
	first := r.Timer()
	assert.Equal(t, 190*ms, first, "two round trips and the peer's delay: the variance is a guess")
	assert.Greater(t, 100*ms+mono.Time(r.PTO()), first)
	probe, s := r.OnTimer(first)
	assert.True(t, probe)
	assert.Equal(t, AppSpace, s)
	assert.Equal(t, 100*ms+2*mono.Time(r.PTO()), r.Timer(), "twice as long, from the last packet that asked")
	ack(t, r, 300*ms, wire.Range{Start: 1, End: 2})
	assert.Zero(t, r.PTOCount)
}

// Once the variance is known it is what the first probe waits for, and on short paths no less than what
// timers may add.
func TestRecovery_ProbeTimeoutBySpread(t *testing.T) {
	for _, c := range []struct{ rtt, jitter, timeout mono.Time }{
		{50 * ms, 0, 61 * ms},   // and the granularity
		{50 * ms, 40 * ms, 0},   // bounded by two round trips
		{1 * ms, 0, 12 * ms},    // granularity
		{100_000, 8 * ms, 0},    // bounded by spreadMin
		{200 * ms, 5 * ms, 0},   // below both bounds
		{200 * ms, 150 * ms, 0}, // bounded by two round trips
	} {
		r, _ := fixture()
		r.MaxAckDelay = 10 * time.Millisecond
		now := mono.Time(0)
		for i := range uint64(100) {
			send(r, now, 1)
			now += c.rtt + mono.Time(i%2)*c.jitter
			ack(t, r, now, wire.Range{Start: i, End: i + 1})
		}
		send(r, now, 1)
		got := r.Timer() - now
		if c.timeout != 0 {
			assert.InDelta(t, float64(c.timeout), float64(got), 10_000, "%v", c)
		}
		assert.LessOrEqual(t, got, mono.Time(r.PTO()), "%v", c)
		bound := mono.Time(r.RTT.Smoothed+max(r.RTT.Smoothed, spreadMin)) + 10*ms
		assert.Equal(t, min(bound, mono.Time(r.PTO())), got, "%v", c)
		assert.Equal(t, c.jitter >= 8*ms, bound < mono.Time(r.PTO()), "%v", c)
	}
}

func TestRecovery_PersistentCongestion(t *testing.T) {
	r, b := fixture()
	send(r, 0, 1)
	ack(t, r, 40*ms, wire.Range{Start: 0, End: 1})
	for i := range 10 {
		send(r, 50*ms+mono.Time(i)*100*ms, 1)
	}
	send(r, 1500*ms, 4)
	ack(t, r, 1550*ms, wire.Range{Start: 14, End: 15})
	assert.True(t, b.persistent)
}

func TestRecovery_Refused(t *testing.T) {
	r, _ := fixture()
	send(r, 0, 2)
	r.Skip(AppSpace)
	send(r, 0, 2)
	for name, x := range map[string]wire.Range{"never sent": {Start: 5, End: 6}, "left out": {Start: 1, End: 4}} {
		var f wire.Frame
		_, err := f.Parse(wire.AppendAck(nil, []wire.Range{x}, 0, wire.ECNCounts{}, 100))
		require.NoError(t, err)
		var e *wire.Error
		require.ErrorAs(t, r.OnAck(1, AppSpace, &f, 0), &e, name)
		assert.Equal(t, uint64(wire.ProtocolViolation), e.Code)
	}
}

// The rate of a steady stream of packets is what leaves a second; a pause doesn't count against it.
func TestRecovery_DeliveryRate(t *testing.T) {
	r, b := fixture()
	for i := range 100 {
		at := mono.Time(i) * ms
		send(r, at, 1)
		if i >= 20 {
			ack(t, r, at, wire.Range{Start: 0, End: uint64(i - 19)})
		}
	}
	assert.InEpsilon(t, 1e6, b.last.Rate, 0.06, "1000 bytes a millisecond")
	assert.False(t, b.last.AppLimited)
	for i := 81; i <= 100; i++ {
		ack(t, r, mono.Time(i+19)*ms, wire.Range{Start: 0, End: uint64(i)})
	}
	r.SetAppLimited()
	send(r, 5000*ms, 1)
	ack(t, r, 5020*ms, wire.Range{Start: 100, End: 101})
	assert.True(t, b.last.AppLimited)
}

func TestRecovery_NewPathForgetsTheOld(t *testing.T) {
	r, b := fixture()
	send(r, 0, 4)
	other := &book{}
	r.NewPath(other, false)
	assert.Zero(t, r.Inflight)
	assert.False(t, r.RTT.Sampled())
	send(r, 10*ms, 1)
	ack(t, r, 500*ms, wire.Range{Start: 0, End: 4})
	assert.False(t, r.RTT.Sampled(), "a packet of the old path tells nothing of the new one")
	assert.Len(t, b.acked, 4)
	assert.Equal(t, uint64(1000), r.Inflight)
	_ = other
}

// The list of packets stays small in a long transfer with losses, and never loses count.
func TestRecovery_ListIsBounded(t *testing.T) {
	r, _ := fixture()
	for i := range 20_000 {
		at := mono.Time(i) * ms
		send(r, at, 1)
		if i > 50 && i%2 == 0 && i%10 != 0 {
			ack(t, r, at, wire.Range{Start: uint64(i - 50), End: uint64(i - 48)})
		}
	}
	assert.LessOrEqual(t, len(r.spaces[AppSpace].slots), 256)
	assert.Empty(t, r.Check())
}
