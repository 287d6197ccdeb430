// Command hello is the smallest web server: net/http's, plain or with TLS, or fasthttp's, on a
// listener of package net or of veloq.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/bench/servers/start"
)

const greeting = "Hello, World!\n"

func main() {
	from := flag.String("net", "veloq", "whose listener: go or veloq")
	kind := flag.String("kind", "http", "http, https or fasthttp")
	busy := flag.Int("busy", 0, "goroutines that use the CPUs beside the server's")
	addr, _ := start.Flags() // goroutines have no event loops to count
	listen, ok := map[string]func(network, address string) (net.Listener, error){
		"go": net.Listen, "veloq": veloq.Listen,
	}[*from]
	if !ok {
		start.Fail(fmt.Errorf("-net %q: go or veloq", *from))
	}
	serve, ok := map[string]func(net.Listener) error{
		"http": serveHTTP, "https": serveHTTPS, "fasthttp": serveFastHTTP,
	}[*kind]
	if !ok {
		start.Fail(fmt.Errorf("-kind %q: http, https or fasthttp", *kind))
	}
	ln, err := listen("tcp", addr)
	if err != nil {
		start.Fail(err)
	}
	for range *busy {
		go burn()
	}
	start.Announce(ln.Addr())
	start.Fail(serve(ln))
}

func server() *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(hello),
		ReadHeaderTimeout: time.Minute,
	}
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, greeting) }

// burn uses a CPU for as long as the process runs.
func burn() {
	for n := uint64(1); n != 0; n += 2 { // odd for ever
	}
}

func serveHTTP(ln net.Listener) error { return server().Serve(ln) }

func serveHTTPS(ln net.Listener) error {
	cert, err := certificate()
	if err != nil {
		return err
	}
	srv := server()
	srv.ErrorLog = log.New(io.Discard, "", 0) // wrk tries the port first, without a handshake
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	return srv.ServeTLS(ln, "", "")
}

// certificate is a new one that signs itself: wrk doesn't look.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func serveFastHTTP(ln net.Listener) error {
	srv := &fasthttp.Server{
		Handler: func(c *fasthttp.RequestCtx) { c.SetBodyString(greeting) },
	}
	return srv.Serve(ln)
}
