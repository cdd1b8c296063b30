package store

import (
	"github.com/rackfs/rackfs/internal/vfile/pebblefs"
	"github.com/rackfs/rackfs/vfs"
)

// beReadOnly makes the store one that writes nothing, from before it is opened.
func (s *Store) beReadOnly() {
	s.failed = vfs.Errorf(vfs.KindReadOnly, "store.write", "%s cannot be written; it is served read-only: make it writable and restart: %w", s.o.Dir, s.readOnly)
	close(s.broken)
	s.m.WriteFailed.Set(1)
	s.m.ReadOnly.Set(1)
	s.o.IndexFS = pebblefs.NewScratch(s.o.IndexFS, s.o.MemoryIndexBytes)
}
