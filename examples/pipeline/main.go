// Command pipeline counts prime numbers in three stages that run on different workers and talk over
// meshes: one worker makes ranges of numbers, all of them look for primes, the first adds up.
//
//	pipeline -below 10000000 -workers 2
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/veloq/veloq"
)

// span is the numbers of one job, from included to excluded.
type span struct{ from, to uint64 }

// spanLen is how many numbers a job has: enough that a message costs nothing beside it, and few enough
// that the worker looks at its other work between two.
const spanLen = 1000

func main() {
	below := flag.Uint64("below", 1_000_000, "count the primes below this")
	workers := flag.Int("workers", 0, "workers; 0 is veloq's default")
	flag.Parse()
	start := time.Now()
	primes, err := count(context.Background(), *workers, *below)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pipeline:", err)
		os.Exit(1)
	}
	fmt.Printf("%d primes below %d, %v\n", primes, *below, time.Since(start).Round(time.Millisecond))
}

func count(ctx context.Context, workers int, below uint64) (int, error) {
	rt, err := veloq.New(veloq.Config{Workers: workers})
	if err != nil {
		return 0, err
	}
	defer rt.Close()
	// Few jobs wait at a worker: the one who makes them parks, and a slow worker gets no heap of them.
	jobs, err := veloq.NewMesh[span](rt, veloq.MeshConfig{Capacity: 16})
	if err != nil {
		return 0, err
	}
	results, err := veloq.NewMesh[int](rt, veloq.MeshConfig{})
	if err != nil {
		return 0, err
	}
	maker := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) { return makeJobs(c, jobs, below) })
	for i := range rt.Workers() {
		veloq.SpawnTo(rt, i, func(c *veloq.Context) (int, error) { return 0, work(c, jobs, results) })
	}
	adder := veloq.SpawnTo(rt, 0, func(c *veloq.Context) (int, error) {
		made, err := maker.Join(c)
		if err != nil {
			return 0, err
		}
		sum := 0
		for range made {
			n, _, err := results.Recv(c)
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	})
	return adder.Wait(ctx)
}

// makeJobs sends the ranges to the workers in turn and returns how many there are.
func makeJobs(c *veloq.Context, jobs *veloq.Mesh[span], below uint64) (made int, err error) {
	for from := uint64(0); from < below; from += spanLen {
		job := span{from, min(from+spanLen, below)}
		if err := jobs.Send(c, made%c.Runtime().Workers(), job); err != nil {
			return made, err
		}
		made++
	}
	jobs.Close()
	return made, nil
}

// work does the jobs of its worker until there are no more.
func work(c *veloq.Context, jobs *veloq.Mesh[span], results *veloq.Mesh[int]) error {
	for {
		job, from, err := jobs.Recv(c)
		if errors.Is(err, veloq.ErrMeshClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		n := 0
		for v := job.from; v < job.to; v++ {
			if isPrime(v) {
				n++
			}
		}
		if err := results.Send(c, from, n); err != nil {
			return err
		}
	}
}

func isPrime(v uint64) bool {
	if v < 4 {
		return v >= 2
	}
	if v%2 == 0 {
		return false
	}
	for d := uint64(3); d*d <= v; d += 2 {
		if v%d == 0 {
			return false
		}
	}
	return true
}
