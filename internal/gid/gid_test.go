package gid

import (
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func TestGet_DiffersBetweenLiveGoroutines(t *testing.T) {
	if !Supported {
		t.Skipf("no goroutine identity on %s", runtime.GOARCH)
	}
	const goroutines = 64
	seen := make([]uintptr, goroutines)
	var ready, done sync.WaitGroup
	release := make(chan struct{})
	for i := range goroutines {
		ready.Add(1)
		done.Add(1)
		go func() {
			defer done.Done()
			seen[i] = Get()
			ready.Done()
			<-release // alive until every other one has looked
			if Get() != seen[i] {
				t.Errorf("goroutine %d: identity changed", i)
			}
		}()
	}
	ready.Wait()
	close(release)
	done.Wait()
	distinct := map[uintptr]bool{Get(): true}
	for _, g := range seen {
		distinct[g] = true
	}
	if len(distinct) != goroutines+1 {
		t.Fatalf("%d identities for %d goroutines", len(distinct), goroutines+1)
	}
}

func TestGet_CoroutineIsNotItsCaller(t *testing.T) {
	if !Supported {
		t.Skipf("no goroutine identity on %s", runtime.GOARCH)
	}
	next, stop := iter.Pull(func(yield func(uintptr) bool) {
		for yield(Get()) {
		}
	})
	defer stop()
	first, _ := next()
	second, _ := next()
	if first == Get() || first != second {
		t.Fatalf("caller %x, coroutine %x then %x", Get(), first, second)
	}
}

func BenchmarkGet(b *testing.B) {
	for b.Loop() {
		Get()
	}
}

// Others, born and ended all the time so that their descriptors are used again, never find themselves in
// what a thread sets for its coroutines; each of those finds itself.
func TestRunning_NamesNobodyElse(t *testing.T) {
	if !Supported {
		t.Skipf("no goroutine identity on %s", runtime.GOARCH)
	}
	var now Running
	var wrong atomic.Int32
	over := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				var one sync.WaitGroup
				one.Go(func() {
					if now.Load() == Get() {
						wrong.Add(1)
					}
				})
				one.Wait()
			}
		})
	}
	for range 2_000 {
		next, stop := iter.Pull(func(yield func(uintptr) bool) {
			for {
				now.Set(Get())
				if now.Load() != Get() {
					wrong.Add(1)
				}
				if !yield(Get()) {
					now.Set(0)
					return
				}
			}
		})
		for range 5 {
			next()
			now.Set(Get())
		}
		stop()
		now.Set(Get())
	}
	now.Set(0)
	close(over)
	others.Wait()
	if n := wrong.Load(); n != 0 {
		t.Fatalf("wrong %d times", n)
	}
}
