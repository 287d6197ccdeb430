module github.com/veloq/veloq/examples/http

go 1.26.0

require (
	github.com/valyala/fasthttp v1.62.0
	github.com/veloq/veloq v0.0.0
)

require (
	github.com/andybalholm/brotli v1.1.1 // indirect
	github.com/klauspost/compress v1.18.0 // indirect
	github.com/valyala/bytebufferpool v1.0.0 // indirect
)

replace github.com/veloq/veloq => ../..
