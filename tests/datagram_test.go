package tests

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/veloq/veloq"
)

func TestX(t *testing.T) {
	rt := newRuntime(t, veloq.Config{Workers: 1})
	err := inTask(t, rt, func(c *veloq.Context) error {
		a, err := c.ListenDatagram("udp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		b, err := c.DialDatagram("udp", a.LocalAddr().String())
		if err != nil {
			return err
		}
		for range 1000 {
			if err := b.Send([]byte("hello")); err != nil {
				return err
			}
			p, err := a.Recv()
			if err != nil {
				return err
			}
			require.Equal(t, "hello", string(p.Data.Bytes()))
			require.Equal(t, b.LocalAddr().String(), p.From.String())
			p.Release()
		}
		return nil
	})
	require.NoError(t, err)
}
