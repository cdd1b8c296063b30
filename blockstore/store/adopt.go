package store

import (
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// Adopt makes the store one of a later incarnation of the cluster's metadata, durably: what that does not know may be deleted from then on. An
// operator decided that; see package upkeep.
func (s *Store) Adopt(incarnation uint64) error {
	const op = "store.adopt"
	if err := s.enter(op); err != nil {
		return err
	}
	defer s.leave()
	s.adopting.Lock()
	defer s.adopting.Unlock()
	s.mu.Lock()
	next, failed := s.super, s.failed
	s.mu.Unlock()
	switch {
	case incarnation == next.incarnation:
		return nil
	case incarnation < next.incarnation:
		return vfs.Errorf(vfs.KindInvalid, op, "%s is of incarnation %d of the metadata, which is later than %d", s.o.Dir, next.incarnation, incarnation)
	case failed != nil:
		return failed
	}
	next.incarnation = incarnation
	if err := vfile.WriteFileAtomic(s.fs, s.o.Dir, superblockName, next.encode()); err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	s.mu.Lock()
	s.super.incarnation = incarnation
	s.mu.Unlock()
	return nil
}
