//go:build race

package core

// raceOn says whether the race detector is on.
const raceOn = true
