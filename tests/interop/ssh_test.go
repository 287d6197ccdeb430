package interop

// golang.org/x/crypto/ssh over the net door: a server that runs two commands, and a client.

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// sshServer serves connections until the listener is closed; they end with their clients.
type sshServer struct {
	config *ssh.ServerConfig
	all    sync.WaitGroup
}

func (s *sshServer) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.all.Go(func() { s.connection(c) })
	}
}

func (s *sshServer) connection(c net.Conn) {
	defer func() { _ = c.Close() }()
	_, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return
	}
	s.all.Go(func() { ssh.DiscardRequests(requests) })
	for ch := range channels {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		s.all.Go(func() { s.session(channel, requests) })
	}
}

// session knows "echo ARGUMENTS" and "cat"; anything else has exit status 127.
func (s *sshServer) session(ch ssh.Channel, requests <-chan *ssh.Request) {
	defer func() { _ = ch.Close() }()
	for r := range requests {
		var exec struct{ Command string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exec) != nil {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		status := uint32(0)
		switch name, arguments, _ := strings.Cut(exec.Command, " "); name {
		case "echo":
			_, _ = io.WriteString(ch, arguments+"\n")
		case "cat":
			_, _ = io.Copy(ch, ch)
		default:
			_, _ = io.WriteString(ch.Stderr(), name+": not found\n")
			status = 127
		}
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		return
	}
}

func TestSSH_Exec(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		host, err := ssh.NewSignerFromKey(key)
		require.NoError(t, err)
		s := &sshServer{config: &ssh.ServerConfig{
			PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
				if string(password) != "right" {
					return nil, errors.New("wrong password")
				}
				return nil, nil
			},
		}}
		s.config.AddHostKey(host)
		l := server.listen(t, "tcp")
		s.all.Go(func() { s.serve(l) })
		connect := func(password string) (*ssh.Client, error) {
			c, channels, requests, err := ssh.NewClientConn(client.dial(t, l), l.Addr().String(), &ssh.ClientConfig{
				User: "someone", Auth: []ssh.AuthMethod{ssh.Password(password)},
				HostKeyCallback: ssh.FixedHostKey(host.PublicKey()),
			})
			if err != nil {
				return nil, err
			}
			return ssh.NewClient(c, channels, requests), nil
		}
		_, err = connect("wrong")
		require.ErrorContains(t, err, "unable to authenticate")
		c, err := connect("right")
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { sshCommands(t, c, byte(i)) })
		}
		wg.Wait()
		require.NoError(t, c.Close())
		require.NoError(t, l.Close())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.all.Wait()
		}()
		await(t, "end of the server", ended)
	})
}

// sshCommands runs each kind of command in a session of its own.
func sshCommands(t *testing.T, c *ssh.Client, seed byte) {
	run := func(command string, stdin io.Reader) ([]byte, []byte, error) {
		session, err := c.NewSession()
		if err != nil {
			return nil, nil, err
		}
		defer func() { _ = session.Close() }()
		var stdout, stderr bytes.Buffer
		session.Stdin, session.Stdout, session.Stderr = stdin, &stdout, &stderr
		err = session.Run(command)
		return stdout.Bytes(), stderr.Bytes(), err
	}
	out, _, err := run("echo over ssh", nil)
	assert.NoError(t, err)
	assert.Equal(t, "over ssh\n", string(out))
	want := bytesOf(t, seed, sized(1<<20, 200_000))
	out, _, err = run("cat", bytes.NewReader(want))
	assert.NoError(t, err)
	assert.True(t, bytes.Equal(want, out), "%d bytes came back as %d others", len(want), len(out))
	_, complaint, err := run("rm everything", nil)
	var exit *ssh.ExitError
	assert.ErrorAs(t, err, &exit)
	assert.Equal(t, 127, exit.ExitStatus())
	assert.Equal(t, "rm: not found\n", string(complaint))
}
