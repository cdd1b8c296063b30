package state

import (
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs/byterange"
)

// Sequences and seqids wrap around (RFC 8881, 2.10.6.1 and 8.2.2): a test
// cannot send 2^32 requests, so it starts near the end.
func TestWrapAround(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := New(Config{Boot: 1}, now)
	x, _, _ := s.ExchangeID(now, ExchangeIDArgs{Owner: []byte("a")})
	ss, _, st := s.CreateSession(now, CreateSessionArgs{ClientID: x.ClientID, Sequence: x.Sequence,
		Fore: ChannelAttrs{MaxRequest: 4096, MaxResponse: 4096, MaxOps: 8, MaxSlots: 1}})
	if st != nfsv4.NFS4_OK {
		t.Fatal(st)
	}
	slot := s.sessions[ss.SessionID].slots[0]
	slot.sequence, slot.used = ^uint32(0), true
	r, st := s.Sequence(now, SequenceArgs{SessionID: ss.SessionID, Sequence: 0})
	if st != nfsv4.NFS4_OK || r.Call == nil {
		t.Fatalf("sequence 0 after the largest: %v", st)
	}
	s.Finish(now, r.Call, nil)
	if _, st := s.Sequence(now, SequenceArgs{SessionID: ss.SessionID, Sequence: ^uint32(0)}); st != nfsv4.NFS4ERR_SEQ_MISORDERED {
		t.Errorf("the largest sequence after 0: %v", st)
	}

	if _, st := s.ReclaimComplete(now, x.ClientID, false); st != nfsv4.NFS4_OK {
		t.Fatal(st)
	}
	f := File{1, 1}
	a := OpenArgs{Client: x.ClientID, Owner: []byte("o"), File: f, Access: nfsv4.OPEN4_SHARE_ACCESS_READ}
	id, _, _ := s.Open(now, a)
	s.stateids[id.Other].holder().seqid = ^uint32(0)
	id.Seqid = ^uint32(0)
	next, _, _ := s.Open(now, a)
	if next.Seqid != 1 {
		t.Errorf("seqid after the largest is %d, want 1: 0 has a meaning", next.Seqid)
	}
	if st := s.TestStateid(x.ClientID, id); st != nfsv4.NFS4ERR_OLD_STATEID {
		t.Errorf("the largest seqid after 1: %v", st)
	}
}

func BenchmarkSequence(b *testing.B) {
	now := time.Unix(1e9, 0)
	s := New(Config{Boot: 1}, now)
	x, _, _ := s.ExchangeID(now, ExchangeIDArgs{Owner: []byte("a")})
	ss, _, _ := s.CreateSession(now, CreateSessionArgs{ClientID: x.ClientID, Sequence: x.Sequence,
		Fore: ChannelAttrs{MaxRequest: 4096, MaxResponse: 4096, MaxCachedResponse: 4096, MaxOps: 8, MaxSlots: 1}})
	reply := make([]byte, 200)
	b.ReportAllocs()
	for seq := uint32(1); b.Loop(); seq++ {
		r, st := s.Sequence(now, SequenceArgs{SessionID: ss.SessionID, Sequence: seq, CacheThis: true})
		if st != nfsv4.NFS4_OK {
			b.Fatal(st)
		}
		s.Finish(now, r.Call, reply)
	}
}

func BenchmarkLockUnlock(b *testing.B) {
	var t byterange.Table[*lockState]
	owners := make([]*lockState, 100)
	for i := range owners {
		owners[i] = new(lockState)
		for j := range uint64(100) {
			t.Set(owners[i], uint64(i)*1000+j*2, uint64(i)*1000+j*2, true)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		t.Conflicts(owners[0], 500000, 500010, true, func(*lockState, byterange.Range) bool { panic("no conflict") })
		t.Set(owners[0], 500000, 500010, true)
		t.Clear(owners[0], 500000, 500010)
	}
}
