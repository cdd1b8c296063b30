package v4

import "time"

// SetCopyBound sets how many bytes a COPY reads and writes while its client waits.
func (s *Server) SetCopyBound(bytes uint64) { s.copies.sync = bound{bytes, time.Hour} }
