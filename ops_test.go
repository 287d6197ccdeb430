package veloq

import (
	"testing"

	"github.com/stretchr/testify/require"
)

type fakeOperand struct{ aborted int }

func (*fakeOperand) complete(opKind, int32, uint32) {}
func (f *fakeOperand) abort()                       { f.aborted++ }

func TestSlotTable_StaleTokenFindsNobody(t *testing.T) {
	var s slotTable
	s.init()
	first, second := &fakeOperand{}, &fakeOperand{}
	old := s.add(first)
	require.Same(t, first, s.find(opRecv.token(old)))
	s.remove(old)
	require.Nil(t, s.find(opRecv.token(old)))

	// The slot is used again, under another generation.
	reused := s.add(second)
	require.Equal(t, uint32(old), uint32(reused))
	require.NotEqual(t, old, reused)
	require.Nil(t, s.find(opRecv.token(old)), "a completion for the slot's earlier owner")
	require.Same(t, second, s.find(opSend.token(reused)))
	require.Equal(t, 1, s.used)
}

func TestSlotTable_GenerationWraps(t *testing.T) {
	var s slotTable
	s.init()
	token := s.add(&fakeOperand{})
	s.slots[0].gen = tokenGenMask
	last := uint64(tokenGenMask)<<tokenGenShift | uint64(uint32(token))
	require.NotNil(t, s.find(last))
	s.remove(last)
	again := s.add(&fakeOperand{})
	require.Zero(t, again>>tokenGenShift)
	require.NotNil(t, s.find(opRecv.token(again)))
	require.Equal(t, opRecv, opKind(opRecv.token(again)>>tokenKindShift))
}

func TestSlotTable_UnknownIndexFindsNobody(t *testing.T) {
	var s slotTable
	s.init()
	require.Nil(t, s.find(opRecv.token(12345)))
}
