module github.com/veloq/veloq/bench/udp

go 1.26.0

replace github.com/veloq/veloq => ../..

require (
	github.com/veloq/veloq v0.0.0
	golang.org/x/net v0.62.0
)

require golang.org/x/sys v0.49.0 // indirect
