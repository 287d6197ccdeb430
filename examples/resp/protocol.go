package main

import (
	"bytes"
	"errors"
	"strconv"
)

const (
	argsMax  = 1 << 16
	argMax   = 16 << 20 // bytes
	lineMax  = 64 << 10 // bytes of a line, with its end
	queueMax = 64 << 20 // bytes of one command
)

// errMore says that a command is not complete yet.
var errMore = errors.New("more bytes are needed")

// protocolError is what the client is told before the connection ends.
type protocolError string

func (e protocolError) Error() string { return "Protocol error: " + string(e) }

// parse reads one command at the start of b: an array of bulk strings, or a line of words. It returns the
// arguments, which lie in b, and how many bytes the command took. No arguments means an empty line.
func parse(b []byte, args [][]byte) ([][]byte, int, error) {
	args = args[:0]
	line, at, err := readLine(b, 0)
	if err != nil {
		return nil, 0, err
	}
	if len(line) == 0 || line[0] != '*' {
		return append(args, bytes.Fields(line)...), at, nil
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n > argsMax {
		return nil, 0, protocolError("invalid multibulk length")
	}
	for range n {
		if line, at, err = readLine(b, at); err != nil {
			return nil, 0, err
		}
		if len(line) == 0 || line[0] != '$' {
			return nil, 0, protocolError("expected '$'")
		}
		size, err := strconv.Atoi(string(line[1:]))
		if err != nil || size < 0 || size > argMax {
			return nil, 0, protocolError("invalid bulk length")
		}
		if len(b)-at < size+2 {
			if at+size > queueMax {
				return nil, 0, protocolError("command too long")
			}
			return nil, 0, errMore
		}
		if b[at+size] != '\r' || b[at+size+1] != '\n' {
			return nil, 0, protocolError("bulk string without its end")
		}
		args = append(args, b[at:at+size:at+size])
		at += size + 2
	}
	return args, at, nil
}

// readLine returns the line at b[at:] without its end, and where the next one begins.
func readLine(b []byte, at int) ([]byte, int, error) {
	i := bytes.IndexByte(b[at:], '\n')
	if i < 0 {
		if len(b)-at > lineMax {
			return nil, 0, protocolError("too long a line")
		}
		return nil, 0, errMore
	}
	return bytes.TrimSuffix(b[at:at+i], []byte{'\r'}), at + i + 1, nil
}

func appendBulk(b, value []byte) []byte {
	b = append(b, '$')
	b = strconv.AppendInt(b, int64(len(value)), 10)
	b = append(b, '\r', '\n')
	b = append(b, value...)
	return append(b, '\r', '\n')
}

func appendInt(b []byte, n int64) []byte {
	b = append(b, ':')
	b = strconv.AppendInt(b, n, 10)
	return append(b, '\r', '\n')
}

func appendError(b []byte, text string) []byte {
	b = append(b, "-ERR "...)
	b = append(b, text...)
	return append(b, '\r', '\n')
}

const nothing = "$-1\r\n"
