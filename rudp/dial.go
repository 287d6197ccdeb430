package rudp

// This file changes if how names become addresses, or in which order those are tried, does.

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

func checkNetwork(network string) error {
	switch network {
	case "udp", "udp4", "udp6":
		return nil
	}
	return net.UnknownNetworkError(network)
}

// resolve returns the addresses of addr, IPv4 first where both are meant.
func resolve(ctx context.Context, network, addr string) (
	list []netip.AddrPort, host string, err error,
) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, "", err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil {
		return nil, "", err
	}
	if port == 0 {
		return nil, "", &net.AddrError{Err: "missing port", Addr: addr}
	}
	lookup := host
	if lookup == "" {
		lookup = "localhost" // as package net, which dials the local system
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip"+network[len("udp"):], lookup)
	if err != nil {
		return nil, "", err
	}
	var six []netip.AddrPort
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.Is4() {
			list = append(list, netip.AddrPortFrom(ip, uint16(port)))
		} else {
			six = append(six, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	list = append(list, six...)
	if len(list) == 0 {
		return nil, "", &net.AddrError{Err: "no suitable address", Addr: addr}
	}
	return list, host, nil
}

// dialEach calls connect with each address of addr until one succeeds; the first error is the one
// returned.
func dialEach(ctx context.Context, network, addr string, cfg *Config,
	connect func(context.Context, netip.AddrPort, string) (*Stream, error),
) (*Stream, error) {
	fail := func(to net.Addr, err error) (*Stream, error) {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return nil, err
		}
		return nil, &net.OpError{Op: "dial", Net: networkName, Addr: to, Err: contextError(err)}
	}
	list, host, err := resolve(ctx, network, addr)
	if err != nil {
		return fail(textAddr(addr), err)
	}
	end := time.Now().Add(cfg.handshakeTimeout())
	if at, ok := ctx.Deadline(); ok && at.Before(end) {
		end = at
	}
	var first error
	for i, to := range list {
		s, err := tryFor(ctx, end, len(list)-i, func(ctx context.Context) (*Stream, error) {
			return connect(ctx, to, host)
		})
		if err == nil {
			return s, nil
		}
		if errors.Is(err, errPartOver) {
			err = &timeoutError{what: "handshake timeout"}
		}
		if first == nil {
			first = &net.OpError{Op: "dial", Net: networkName, Addr: Addr{to}, Err: contextError(err)}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fail(nil, first)
}

// tryFor gives one of several tries that are left its part of the time; the last one may have all
// of it.
func tryFor(ctx context.Context, end time.Time, left int,
	try func(context.Context) (*Stream, error),
) (*Stream, error) {
	if left == 1 {
		return try(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Until(end)/time.Duration(left), errPartOver)
	defer cancel()
	return try(ctx)
}

// errPartOver is why a try ends that is not the last.
var errPartOver = errors.New("rudp: time for this address is over")
