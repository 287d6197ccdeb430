package interop

// A process whose goroutines use every CPU still serves.

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
)

// burn keeps every CPU of Go's scheduler busy until the end of the test.
func burn(t *testing.T) {
	t.Helper()
	var stop atomic.Bool
	var all, running sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		running.Add(1)
		all.Go(func() {
			running.Done()
			for n := 0; !stop.Load(); n++ {
				if n < 0 {
					panic("unreachable")
				}
			}
		})
	}
	running.Wait()
	t.Cleanup(func() {
		stop.Store(true)
		all.Wait()
	})
}

// Goal: requests on old and new connections are answered while other goroutines use every CPU. How
// fast is bench/busy's matter.
func TestBusy_Serves(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		w := newWeb(t, server, client, httpKinds[0], http.HandlerFunc(wholeBody), nil)
		burn(t)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range sized(5, 2) {
					want := strings.Repeat(fmt.Sprint(i), 1+n*1000)
					res, err := w.do(t, http.MethodPost, "/", strings.NewReader(want))
					assert.Equal(t, want, string(bodyOf(t, res, err)))
				}
			})
		}
		wg.Wait()
	})
}
