package main

// The servers of the worker doors: a socket of a runtime with one worker, for a handler or a task.
// VELOQ_DRIVER chooses the driver.

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/veloq/veloq"
)

func serveHandler(s *sink) error      { return serveWorker(s, workerForm{}) }
func serveHandlerGRO(s *sink) error   { return serveWorker(s, workerForm{gro: true}) }
func serveHandlerDelay(s *sink) error { return serveWorker(s, workerForm{delay: true}) }
func serveTask(s *sink) error         { return serveWorker(s, workerForm{task: true}) }
func serveTaskGRO(s *sink) error      { return serveWorker(s, workerForm{task: true, gro: true}) }
func serveTaskDelay(s *sink) error    { return serveWorker(s, workerForm{task: true, delay: true}) }

// workerForm is what differs between these servers.
type workerForm struct{ task, gro, delay bool }

func serveWorker(s *sink, form workerForm) error {
	var config veloq.Config
	config.Workers = 1
	if form.delay {
		config.WakeDelay = s.delay
	}
	rt, err := veloq.New(config)
	if err != nil {
		return err
	}
	defer rt.Close()
	ws := &workerSink{sink: s, gro: form.gro}
	if form.task {
		return rt.ServeDatagram(context.Background(), "udp4", "127.0.0.1:0", ws.run)
	}
	return rt.ServeDatagramHandler(context.Background(), "udp4", "127.0.0.1:0", ws)
}

// workerSink is a sink as a handler, and as what a task runs.
type workerSink struct {
	veloq.DatagramHandlerBase
	sink *sink
	gro  bool
	out  []veloq.Message
}

func (ws *workerSink) open(d *veloq.Datagram) error {
	if ws.gro {
		on, err := d.SetGRO(true)
		if err != nil {
			return err
		}
		if !on {
			return errors.New("the kernel has no GRO for UDP")
		}
	}
	return ready(d)
}

func (ws *workerSink) OnOpen(_ *veloq.Context, d *veloq.Datagram) {
	if err := ws.open(d); err != nil {
		die(err)
	}
}

func (ws *workerSink) OnPackets(_ *veloq.Context, d *veloq.Datagram, ps []veloq.Packet) {
	// What finds no room is dropped, and is lost to the client, who says so.
	if err := ws.take(d, ps); err != nil && !errors.Is(err, veloq.ErrFull) {
		die(err)
	}
}

func (ws *workerSink) OnClose(_ *veloq.Context, _ *veloq.Datagram, err error) { die(err) }

func (ws *workerSink) run(_ *veloq.Context, d *veloq.Datagram) error {
	if err := ws.open(d); err != nil {
		return err
	}
	ps := make([]veloq.Packet, batchSize)
	for {
		n, err := d.RecvBatch(ps)
		if err != nil {
			return err
		}
		err = ws.take(d, ps[:n])
		for i := range ps[:n] {
			ps[i].Release()
		}
		if err != nil {
			return err
		}
	}
}

// take answers what is to be answered; sending copies it.
func (ws *workerSink) take(d *veloq.Datagram, ps []veloq.Packet) error {
	ws.out = ws.out[:0]
	for i := range ps {
		p := &ps[i]
		ws.sink.answers(p.Data.Bytes(), p.SegmentSize, func(b []byte, segment int) {
			ws.out = append(ws.out, veloq.Message{Data: b, To: p.From, SegmentSize: segment})
		})
	}
	_, err := d.SendBatch(ws.out)
	return err
}

// die ends the process from a callback, which returns no error.
func die(err error) {
	fmt.Fprintln(os.Stderr, "the server's socket ended:", err)
	os.Exit(1)
}
