package core

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/rudp/internal/mono"
)

var testCert = sync.OnceValue(func() tls.Certificate {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

var (
	clientAddr = netip.MustParseAddrPort("192.0.2.1:1000")
	serverAddr = netip.MustParseAddrPort("192.0.2.2:2000")
	toServer   = Path{Local: clientAddr, Remote: serverAddr}
	toClient   = Path{Local: serverAddr, Remote: clientAddr}
)

// pair is two endpoints with nothing between them: what one sends the other has a moment later.
type pair struct {
	t              testing.TB
	now            mono.Time
	client, server *Endpoint
	buf            []byte
	drop           func(fromClient bool, b []byte) bool
}

func newPair(t testing.TB, client, server Config) *pair {
	t.Helper()
	if client.TLS == nil {
		client.TLS = &tls.Config{InsecureSkipVerify: true, ServerName: "x"}
	}
	if server.TLS == nil {
		server.TLS = &tls.Config{Certificates: []tls.Certificate{testCert()}}
	}
	c, err := NewEndpoint(&client, false)
	require.NoError(t, err)
	s, err := NewEndpoint(&server, true)
	require.NoError(t, err)
	return &pair{t: t, now: mono.Time(time.Hour), client: c, server: s, buf: make([]byte, SendMax)}
}

// step moves every datagram that is due and says whether there was one.
func (p *pair) step() bool {
	moved := false
	for _, side := range [...]struct {
		from, to *Endpoint
		path     Path
	}{{p.client, p.server, toClient}, {p.server, p.client, toServer}} {
		for {
			b := side.from.Send(p.now, p.buf)
			if b.N == 0 {
				break
			}
			moved = true
			for at := 0; at < b.N; at += b.Segment {
				d := p.buf[at:min(at+b.Segment, b.N)]
				if p.drop == nil || !p.drop(side.from == p.client, d) {
					side.to.Recv(p.now, side.path, NotECT, d)
				}
			}
		}
	}
	return moved
}

// run lets d pass.
func (p *pair) run(d time.Duration) {
	end := p.now.Add(d)
	for {
		for p.step() {
			p.now += mono.Time(10 * time.Microsecond)
		}
		at := min(p.client.Deadline(), p.server.Deadline())
		if at > end {
			p.now = max(p.now, end)
			return
		}
		p.now = max(p.now+1, at)
		p.client.Tick(p.now)
		p.server.Tick(p.now)
	}
}

// connect makes a connection.
func (p *pair) connect() (c, s *Conn) {
	p.t.Helper()
	c, err := p.client.Dial(p.now, toServer, nil)
	require.NoError(p.t, err)
	p.run(20 * time.Millisecond)
	s = p.server.Accept()
	require.NotNil(p.t, s, "%v", c.Err())
	require.True(p.t, c.Connected())
	return c, s
}
