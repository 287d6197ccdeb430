package rudp_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/veloq/veloq/rudp"
	"github.com/veloq/veloq/rudp/pin"
)

// A server that echoes, and a client that knows its certificate by its pin.
func Example() {
	serverTLS, pinned, err := pin.Server()
	if err != nil {
		log.Fatal(err)
	}
	l, err := rudp.Listen("udp", "127.0.0.1:0", &rudp.Config{TLS: serverTLS})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			s, err := l.AcceptStream()
			if err != nil {
				return
			}
			go func() {
				defer s.Close()
				_, _ = io.Copy(s, s)
			}()
		}
	}()

	clientTLS, err := pin.Client(pinned)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	s, err := rudp.Dial(ctx, "udp", l.Addr().String(), &rudp.Config{TLS: clientTLS})
	if err != nil {
		log.Fatal(err)
	}
	_, _ = io.WriteString(s, "hello")
	_ = s.CloseWrite()
	answer, err := io.ReadAll(s)
	fmt.Println(string(answer), err)
	_ = s.Close()
	_ = l.Endpoint().Shutdown(ctx) // what was written has been delivered when it returns
	// Output: hello <nil>
}
