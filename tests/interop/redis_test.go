package interop

// go-redis against miniredis, whose commands are served on connections that the door's listener took.

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startRedis serves l to the end of the test. miniredis listens by package net and nothing else, so
// its server is given l's connections.
func startRedis(t *testing.T, l net.Listener) {
	t.Helper()
	mini := miniredis.NewMiniRedis()
	require.NoError(t, mini.Start())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mini.Server().ServeConn(c)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		mini.Close()
	})
}

func TestRedis_Commands(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		l := server.listen(t, "tcp")
		startRedis(t, l)
		c := redis.NewClient(&redis.Options{
			Addr: l.Addr().String(), Dialer: client.dialContext, PoolSize: 8,
			DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience,
		})
		t.Cleanup(func() { _ = c.Close() })
		ctx := soon(t)
		require.Equal(t, "PONG", c.Ping(ctx).Val())
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() { redisCommands(ctx, t, c, i) })
		}
		wg.Wait()
		count, err := c.Get(ctx, "count").Int()
		require.NoError(t, err)
		require.Equal(t, 8*redisRounds, count)
		require.Positive(t, c.PoolStats().Hits, "kept connections, each looked at before its use")
	})
}

const redisRounds = 20

// redisCommands sets and gets values, alone, in pipelines and in transactions.
func redisCommands(ctx context.Context, t *testing.T, c *redis.Client, i int) {
	for n := range redisRounds {
		key, value := fmt.Sprintf("key%d", i), strings.Repeat(fmt.Sprint(n%10), 1+n*n*200)
		assert.NoError(t, c.Set(ctx, key, value, 0).Err())
		got, err := c.Get(ctx, key).Result()
		assert.NoError(t, err)
		assert.True(t, value == got, "%d bytes came back as %d others", len(value), len(got))
		assert.NoError(t, c.Incr(ctx, "count").Err())
	}
	list := fmt.Sprintf("list%d", i)
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for n := range 100 {
			p.RPush(ctx, list, n)
		}
		return nil
	})
	assert.NoError(t, err)
	results, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.LLen(ctx, list)
		p.LRange(ctx, list, 97, -1)
		return nil
	})
	if assert.NoError(t, err) {
		assert.EqualValues(t, 100, results[0].(*redis.IntCmd).Val())
		assert.Equal(t, []string{"97", "98", "99"}, results[1].(*redis.StringSliceCmd).Val())
	}
	assert.ErrorIs(t, c.Get(ctx, "nothing").Err(), redis.Nil)
}

// Goal: messages reach their subscriber; a blocking command ends with its context.
func TestRedis_SubscribeAndBlock(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		l := server.listen(t, "tcp")
		startRedis(t, l)
		c := redis.NewClient(&redis.Options{
			Addr: l.Addr().String(), Dialer: client.dialContext, ContextTimeoutEnabled: true,
			DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience,
		})
		t.Cleanup(func() { _ = c.Close() })
		ctx := soon(t)
		sub := c.Subscribe(ctx, "news")
		_, err := sub.Receive(ctx) // the subscription is there
		require.NoError(t, err)
		for i := range 50 {
			want := fmt.Sprint("message ", i)
			require.EqualValues(t, 1, c.Publish(ctx, "news", want).Val())
			got, err := sub.ReceiveMessage(ctx)
			require.NoError(t, err)
			require.Equal(t, want, got.Payload)
		}
		require.NoError(t, sub.Close())
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		err = c.BLPop(short, 0, "empty").Err()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded) // of the connection: that is how go-redis has it
	})
}
