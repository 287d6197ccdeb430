// Package include carries the C headers as a Go package, so that the go tool hashes them into
// builds and `go mod vendor` keeps them. Every package whose cgo preamble includes a veloq header
// imports this one.
package include

import "embed"

// Headers holds veloq/*.h.
//
//go:embed veloq/*.h
var Headers embed.FS
