package v4

// SetCopyBound sets how many bytes a COPY reads and writes while its client waits.
func (s *Server) SetCopyBound(bytes uint64) { s.copies.syncBytes.Store(bytes) }
