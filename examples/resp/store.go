package main

import (
	"bytes"
	"errors"
	"hash/maphash"
	"strconv"
	"strings"

	"github.com/veloq/veloq"
)

// store is the keys, each on the worker that its hash names.
type store struct {
	shards *veloq.Sharded[shard]
	seed   maphash.Seed
	count  int
}

// shard is one worker's keys; nobody else touches them.
type shard struct{ values map[string][]byte }

func newStore(rt *veloq.Runtime) (*store, error) {
	shards, err := veloq.NewSharded(rt, func(*veloq.Context) (shard, error) {
		return shard{values: map[string][]byte{}}, nil
	})
	return &store{shards: shards, seed: maphash.MakeSeed(), count: rt.Workers()}, err
}

func (st *store) home(key []byte) int { return int(maphash.Bytes(st.seed, key) % uint64(st.count)) }

// A command is one key's part of what a client asked for. Its bytes are the connection's until the batch
// that it is in is answered.
type command struct {
	op     op
	key    []byte
	value  []byte
	answer []byte
	n      int64 // of those that count
}

type op uint8

const (
	opGet op = iota
	opSet
	opDel
	opExists
	opIncr
	opSize
	opFlush
)

// A reply is one answer of a batch: text that is known already, or made of the commands first to first+n-1.
type reply struct {
	text     string
	first, n int
	sum      bool // one number, of all the commands
	array    bool
}

// batch is what a client sent together.
type batch struct {
	commands []command
	replies  []reply
	shards   [][]*command // by worker
	quit     bool
}

// serve is a connection: it reads what there is, does all complete commands of it, and answers them with
// one write.
func (st *store) serve(c *veloq.Context, s *veloq.Stream) error {
	b := &batch{shards: make([][]*command, st.count)}
	buf := make([]byte, 16<<10)
	var out []byte
	var args [][]byte
	used := 0
	for !b.quit {
		n, err := s.Read(buf[used:])
		if err != nil {
			return err
		}
		used += n
		at := 0
		var wrong error
		for {
			var took int
			args, took, wrong = parse(buf[at:used], args)
			if wrong != nil {
				break
			}
			at += took
			if len(args) > 0 {
				st.add(b, args)
			}
		}
		if err := st.do(c, b); err != nil {
			return err
		}
		out = b.answer(out[:0])
		if !errors.Is(wrong, errMore) {
			_, _ = s.Write(appendError(out, wrong.Error()))
			return wrong
		}
		if len(out) > 0 {
			if _, err := s.Write(out); err != nil {
				return err
			}
		}
		// The rest is the beginning of a command.
		used = copy(buf, buf[at:used])
		if used == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
	return nil
}

// add puts a client's command into the batch.
func (st *store) add(b *batch, args [][]byte) {
	name := strings.ToUpper(string(args[0]))
	first := len(b.commands)
	keys := func(op op, args [][]byte) {
		for _, key := range args {
			b.commands = append(b.commands, command{op: op, key: key})
		}
	}
	r := reply{first: first}
	switch {
	case name == "PING" && len(args) == 1:
		r.text = "+PONG\r\n"
	case (name == "PING" || name == "ECHO") && len(args) == 2:
		r.text = string(appendBulk(nil, args[1]))
	case name == "QUIT":
		r.text, b.quit = "+OK\r\n", true
	case name == "COMMAND" || name == "CONFIG":
		r.text = "*0\r\n" // what redis-cli and redis-benchmark ask first
	case name == "GET" && len(args) == 2:
		keys(opGet, args[1:])
	case name == "MGET" && len(args) > 1:
		keys(opGet, args[1:])
		r.array = true
	case name == "SET" && len(args) == 3:
		b.commands = append(b.commands, command{op: opSet, key: args[1], value: args[2]})
	case name == "MSET" && len(args) > 1 && len(args)%2 == 1:
		for i := 1; i < len(args); i += 2 {
			b.commands = append(b.commands, command{op: opSet, key: args[i], value: args[i+1]})
		}
		r.text = "+OK\r\n"
	case name == "INCR" && len(args) == 2:
		keys(opIncr, args[1:])
	case name == "DEL" && len(args) > 1:
		keys(opDel, args[1:])
		r.sum = true
	case name == "EXISTS" && len(args) > 1:
		keys(opExists, args[1:])
		r.sum = true
	case (name == "DBSIZE" || name == "FLUSHALL") && len(args) == 1:
		op := opSize
		if r.sum = name == "DBSIZE"; !r.sum {
			op, r.text = opFlush, "+OK\r\n"
		}
		for range st.count {
			b.commands = append(b.commands, command{op: op})
		}
	default:
		r.text = string(appendError(nil, "unknown command or wrong number of arguments for '"+printable(args[0])+"'"))
	}
	r.n = len(b.commands) - first
	b.replies = append(b.replies, r)
}

// printable keeps what a client sent from ending the line of an answer.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return '?'
		}
		return r
	}, string(b[:min(len(b), 64)]))
}

// do runs the batch's commands: each worker does those of its keys, all workers at the same time, in
// the client's order for each key.
func (st *store) do(c *veloq.Context, b *batch) error {
	for _, r := range b.replies {
		for i := range b.commands[r.first : r.first+r.n] {
			cmd := &b.commands[r.first+i]
			home := i // of DBSIZE and FLUSHALL: one for each worker
			if cmd.op < opSize {
				home = st.home(cmd.key)
			}
			b.shards[home] = append(b.shards[home], cmd)
		}
	}
	var asked []*veloq.JoinHandle[struct{}]
	for home, commands := range b.shards {
		if len(commands) > 0 && home != c.Worker() {
			asked = append(asked, veloq.SpawnTo(c, home, func(c *veloq.Context) (struct{}, error) {
				st.shards.Local(c).do(commands)
				return struct{}{}, nil
			}))
		}
	}
	st.shards.Local(c).do(b.shards[c.Worker()])
	var failed error
	for _, h := range asked {
		// A cancelled Join leaves the others writing into the batch: the connection ends with it.
		if _, err := h.Join(c); err != nil && failed == nil {
			failed = err
		}
	}
	for home := range b.shards {
		clear(b.shards[home])
		b.shards[home] = b.shards[home][:0]
	}
	return failed
}

func (s *shard) do(commands []*command) {
	for _, cmd := range commands {
		switch cmd.op {
		case opGet:
			if v, ok := s.values[string(cmd.key)]; ok {
				cmd.answer = appendBulk(nil, v)
			} else {
				cmd.answer = []byte(nothing)
			}
		case opSet:
			s.values[string(cmd.key)] = bytes.Clone(cmd.value)
			cmd.answer = []byte("+OK\r\n")
		case opDel, opExists:
			if _, ok := s.values[string(cmd.key)]; ok {
				cmd.n = 1
			}
			if cmd.op == opDel {
				delete(s.values, string(cmd.key))
			}
		case opIncr:
			n, err := strconv.ParseInt(string(s.values[string(cmd.key)]), 10, 64)
			if err != nil && len(s.values[string(cmd.key)]) > 0 || n == 1<<63-1 {
				cmd.answer = appendError(nil, "value is not an integer or out of range")
				break
			}
			s.values[string(cmd.key)] = strconv.AppendInt(nil, n+1, 10)
			cmd.answer = appendInt(nil, n+1)
		case opSize:
			cmd.n = int64(len(s.values))
		case opFlush:
			clear(s.values)
		}
	}
}

// answer appends the answers to out and empties the batch.
func (b *batch) answer(out []byte) []byte {
	for _, r := range b.replies {
		switch {
		case r.text != "":
			out = append(out, r.text...)
			continue
		case r.sum:
			sum := int64(0)
			for _, cmd := range b.commands[r.first : r.first+r.n] {
				sum += cmd.n
			}
			out = appendInt(out, sum)
			continue
		case r.array:
			out = append(out, '*')
			out = strconv.AppendInt(out, int64(r.n), 10)
			out = append(out, '\r', '\n')
		}
		for _, cmd := range b.commands[r.first : r.first+r.n] {
			out = append(out, cmd.answer...)
		}
	}
	clear(b.commands)
	b.commands, b.replies = b.commands[:0], b.replies[:0]
	return out
}
