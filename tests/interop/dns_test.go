package interop

// miekg/dns over UDPConn, and beside it over TCP and TLS, as a DNS server has them.

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answers has an A record for every name, and for long.test. more TXT records than a datagram takes.
func answers(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	name := q.Question[0].Name
	switch {
	case name != "long.test.":
		a := &dns.A{A: net.IPv4(192, 0, 2, byte(len(name)))}
		a.Hdr = dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}
		m.Answer = append(m.Answer, a)
	default:
		for i := range 40 {
			txt := &dns.TXT{Txt: []string{strings.Repeat(fmt.Sprint(i%10), 200)}}
			txt.Hdr = dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 1}
			m.Answer = append(m.Answer, txt)
		}
		if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
			m.Truncate(dns.MinMsgSize)
		}
	}
	_ = w.WriteMsg(m)
}

// startDNS serves until the end of the test.
func startDNS(t *testing.T, s *dns.Server) {
	t.Helper()
	started, ended := make(chan struct{}), make(chan error, 1)
	s.Handler, s.NotifyStartedFunc = dns.HandlerFunc(answers), func() { close(started) }
	go func() { ended <- s.ActivateAndServe() }()
	await(t, "start of the DNS server", started)
	t.Cleanup(func() {
		assert.NoError(t, s.Shutdown())
		assert.NoError(t, await(t, "end of the DNS server", ended))
	})
}

func query(name string, kind uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	return q
}

func TestDNS_Queries(t *testing.T) {
	forEnds(t, func(t *testing.T, serverKind, clientKind kind) {
		packets := listen(t, serverKind, loopback)
		startDNS(t, &dns.Server{PacketConn: packets})
		ln := newDoor(serverKind.name).listen(t, "tcp")
		startDNS(t, &dns.Server{Listener: ln})
		client := &dns.Client{Timeout: patience}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				conn, err := clientKind.dial(packets.LocalAddr().(*net.UDPAddr))
				if !assert.NoError(t, err) {
					return
				}
				defer func() { _ = conn.Close() }()
				name := dns.Fqdn(strings.Repeat("a", i+1) + ".test")
				res, _, err := client.ExchangeWithConn(query(name, dns.TypeA), &dns.Conn{Conn: conn})
				if !assert.NoError(t, err) || !assert.Len(t, res.Answer, 1) {
					return
				}
				assert.Equal(t, name, res.Answer[0].Header().Name)
				assert.EqualValues(t, len(name), res.Answer[0].(*dns.A).A.To4()[3])
			})
		}
		wg.Wait()
		// What a datagram can't take is said to be truncated, and is whole over TCP.
		conn, err := clientKind.dial(packets.LocalAddr().(*net.UDPAddr))
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		res, _, err := client.ExchangeWithConn(query("long.test.", dns.TypeTXT), &dns.Conn{Conn: conn})
		require.NoError(t, err)
		require.True(t, res.Truncated)
		stream := newDoor(clientKind.name).dial(t, ln)
		res, _, err = client.ExchangeWithConn(query("long.test.", dns.TypeTXT), &dns.Conn{Conn: stream})
		require.NoError(t, err)
		require.False(t, res.Truncated)
		require.Len(t, res.Answer, 40)
	})
}

// Goal: a connection carries many queries, in the clear (RFC 7766) and by TLS (RFC 7858).
func TestDNS_Streams(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %t", secure), func(t *testing.T) {
			forDoors(t, func(t *testing.T, server, client door) {
				serverTLS, clientTLS := certificates(t)
				ln := server.listen(t, "tcp")
				if secure {
					startDNS(t, &dns.Server{Listener: tls.NewListener(ln, serverTLS)})
				} else {
					startDNS(t, &dns.Server{Listener: ln})
				}
				var wg sync.WaitGroup
				for range 4 {
					c := client.dial(t, ln)
					if secure {
						c = tls.Client(c, clientTLS)
					}
					wg.Go(func() { dnsQueries(t, &dns.Conn{Conn: c}) })
				}
				wg.Wait()
			})
		})
	}
}

// dnsQueries asks one after another, with short and long answers, and closes the connection.
func dnsQueries(t *testing.T, conn *dns.Conn) {
	defer func() { _ = conn.Close() }()
	client := &dns.Client{Timeout: patience}
	for i := range 20 {
		want := 1
		q := query(fmt.Sprintf("n%d.test.", i), dns.TypeA)
		if i%5 == 0 {
			q, want = query("long.test.", dns.TypeTXT), 40
		}
		res, _, err := client.ExchangeWithConn(q, conn)
		if !assert.NoError(t, err) {
			return
		}
		assert.Len(t, res.Answer, want)
		assert.Equal(t, q.Question[0].Name, res.Answer[0].Header().Name)
	}
}

// Goal: a query that nobody answers ends by its deadline.
func TestDNS_NoAnswer(t *testing.T) {
	noLeak(t)
	silent := listen(t, kinds["veloq"], loopback)
	conn, err := kinds["veloq"].dial(silent.LocalAddr().(*net.UDPAddr))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	client := &dns.Client{Timeout: 10 * time.Millisecond}
	_, _, err = client.ExchangeWithConn(query("nobody.test.", dns.TypeA), &dns.Conn{Conn: conn})
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
}
