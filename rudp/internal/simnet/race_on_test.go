//go:build race

package simnet

// raceOn says whether the race detector is on.
const raceOn = true
