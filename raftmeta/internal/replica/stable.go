package replica

import (
	"encoding/binary"
	"hash/crc32"
	"runtime"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/vfs"
)

// stable is Raft's stable store, in which term and vote are kept, with a checksum behind each value: magic "RKS1" and CRC32C
// of key and value. A release that does not know them reads numbers right, and takes a vote for one for
// somebody else, which is safe.
type stable struct {
	store raft.StableStore
	all   bool // every value has a checksum
	fault *fault
}

const stableMagic = "RKS1"

func stableSum(key, val []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, val)
}

// Set implements raft.StableStore. When it fails the replica stops, as with a log that cannot be written. Where
// Raft would end the process because of it, this ends the calling goroutine instead.
func (s *stable) Set(key, val []byte) error {
	b := append(append([]byte(nil), val...), stableMagic...)
	b = binary.BigEndian.AppendUint32(b, stableSum(key, val))
	err := caught("the stable store", func() error { return s.store.Set(key, b) })
	if err != nil {
		s.fault.damaged(vfs.Errorf(vfs.KindOf(err), "raftmeta.stable", "%s cannot be saved: %w", key, err))
		if calledBy(raftTerm) {
			runtime.Goexit()
		}
	}
	return err
}

// Get implements raft.StableStore.
func (s *stable) Get(key []byte) (val []byte, err error) {
	err = caught("the stable store", func() error {
		b, err := s.store.Get(key)
		if err != nil {
			return err
		}
		n := len(b) - len(stableMagic) - 4
		if n < 0 || string(b[n:n+len(stableMagic)]) != stableMagic {
			if s.all {
				return vfs.Errorf(vfs.KindCorrupt, "raftmeta.stable", "%q has no checksum", key)
			}
			val = b
			return nil
		}
		val = b[:n]
		if stableSum(key, val) != binary.BigEndian.Uint32(b[n+len(stableMagic):]) {
			return vfs.Errorf(vfs.KindCorrupt, "raftmeta.stable", "%q has a wrong checksum: the replica forgot its term or vote", key)
		}
		return nil
	})
	return val, err
}

// SetUint64 implements raft.StableStore.
func (s *stable) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore.
func (s *stable) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, vfs.Errorf(vfs.KindCorrupt, "raftmeta.stable", "%q has %d bytes", key, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// check reads what Raft keeps here. A term and the two halves of a vote are each written whole, a vote never without a term.
func (s *stable) check() error {
	have := map[string]bool{}
	for _, key := range []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"} {
		_, err := s.Get([]byte(key))
		if err != nil && err.Error() != "not found" { // the contract of raft.StableStore
			return err
		}
		have[key] = err == nil
	}
	if have["LastVoteTerm"] && !have["CurrentTerm"] || have["LastVoteCand"] && !have["LastVoteTerm"] {
		return vfs.Errorf(vfs.KindCorrupt, "raftmeta.stable", "there is a vote, but no term of it")
	}
	return nil
}
