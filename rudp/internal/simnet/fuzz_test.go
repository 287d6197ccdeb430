package simnet

import (
	"testing"
	"time"

	"github.com/veloq/veloq/rudp/internal/core"
)

// FuzzSim draws a seed's world, then the fates of the first datagrams of each side from a script.
func FuzzSim(f *testing.F) {
	f.Add(uint64(1), uint32(0), uint32(0))
	f.Add(uint64(77), uint32(0x30), uint32(0x0f))
	f.Fuzz(func(t *testing.T, seed uint64, up, down uint32) {
		script = [2]uint32{up & 0x3f, down & 0x3f}
		patience = 5 * time.Minute
		defer func() { script, patience = [2]uint32{}, time.Minute }()
		if sc, err := runSeed(seed, core.FaultNone); err != nil {
			t.Fatalf("%v\n%v", err, sc)
		}
	})
}
