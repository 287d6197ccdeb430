module github.com/veloq/veloq/tests/interop

go 1.26.0

replace github.com/veloq/veloq => ../..

require (
	github.com/miekg/dns v1.1.73
	github.com/quic-go/quic-go v0.65.0
	github.com/stretchr/testify v1.12.1
	github.com/veloq/veloq v0.0.0
	golang.org/x/net v0.62.0
)
