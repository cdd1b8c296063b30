package volume

// stream is a reader that goes through a file in order. Clients send several
// reads at once, which arrive in any order: near its front counts. So would one in
// twenty of reads at random, each with a window for nothing. What tells them apart is what they leave out.
type stream struct {
	next   uint64 // above everything read so far
	ahead  uint64 // below it everything was asked for
	window uint64 // how far to read ahead; 0 unless it leaves little out

	span uint64 // how far it came, lately
	got  uint64 // how much of that was read, at most all
}

const (
	streamNear  = 4 << 20  // how far out of order a read of a stream may be
	streamSpan  = 8 << 20  // what happened longer ago than this counts less and less
	windowFirst = 1 << 20  // after the second read of a stream
	windowMax   = 16 << 20 // doubles up to here
	aheadAtOnce = 16       // units that are read ahead at one time, of the volume
)

// dense reports whether most of what the stream went over was read.
func (s *stream) dense() bool { return 2*s.got >= s.span }

// add counts a read of [off, end), which is near the front, and reports whether it moved the front.
func (s *stream) add(off, end uint64) bool {
	forward := end > s.next
	if forward {
		s.span += end - s.next
		s.next = end
	}
	s.got = min(s.got+end-off, s.span)
	if s.span > streamSpan {
		s.span, s.got = s.span/2, s.got/2
	}
	return forward
}

// follow finds the stream that a read of [off, end) continues, or begins one.
// It returns the range to read ahead. e.mu is held.
func (e *inode) follow(off, end uint64) (from, to uint64) {
	for i := range e.streams {
		s := &e.streams[i]
		if s.next == 0 || off > s.next+streamNear || end+streamNear < s.next {
			continue
		}
		forward := s.add(off, end)
		switch {
		case !s.dense():
			s.window = 0
		case forward:
			s.window = min(max(2*s.window, windowFirst), windowMax)
		}
		if i != 0 {
			e.streams[0], e.streams[i] = e.streams[i], e.streams[0]
			s = &e.streams[0]
		}
		from, to = max(s.ahead, s.next), s.next+s.window
		// Not for every little read: when half of the window is used up.
		if s.window == 0 || to < from+s.window/2 {
			return 0, 0
		}
		s.ahead = to
		return from, to
	}
	copy(e.streams[1:], e.streams[:])
	e.streams[0] = stream{next: end, ahead: end, span: end - off, got: end - off}
	return 0, 0
}

// sequential reports whether a read at off continues a stream.
func (e *inode) sequential(off uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.streams {
		s := &e.streams[i]
		if s.window > 0 && off <= s.next+streamNear && off+streamNear >= s.next {
			return true
		}
	}
	return false
}

// readAhead starts to read what will be asked for next. It needs no answer
// from the metadata: what is not known is left.
func (v *Volume) readAhead(e *inode, off, end uint64) {
	if end <= off {
		return
	}
	e.mu.Lock()
	from, to := e.follow(off, end)
	var segs []segment
	if from < to {
		segs, _ = e.ext.find(from, to, nil) // what is known of it
	}
	e.mu.Unlock()
	for i := range segs {
		if s := &segs[i]; s.block.ID != 0 {
			v.cache.prefetch(s.block, s.blockOff, uint32(s.end-s.off))
		}
	}
}
