package segment

import (
	"context"
	"io"
)

// How much Scan and Walk read at a time.
const (
	scanWindow = 1 << 20
	walkWindow = 64 << 10
)

// ScanResult says what a scan met.
type ScanResult struct {
	// End is behind the last record whose header checked out: where new
	// records may go.
	End int64
	// Torn counts records with a sound header and data that does not match it.
	Torn int
	// Unreadable counts pages that could not be read.
	Unreadable int
}

// Scan calls fn for each record of the segment at from or behind it, in
// order. from is a page boundary. data is the record's data and is only valid
// during the call. Records whose data does not match are counted and not
// reported. A page that cannot be read is treated as one without a record, for
// the records behind it may be sound. An error of fn ends the scan.
func Scan(ctx context.Context, f io.ReaderAt, h *Header, from int64, fn func(r Record, data []byte) error) (ScanResult, error) {
	s := newScanner(f, h, scanWindow)
	res := ScanResult{End: max(from, HeaderSize)}
	for off := res.End; off < s.size; {
		if err := ctx.Err(); err != nil {
			return res, err
		}
		rec, crcs, ok := s.record(h, off)
		if !ok {
			off += PageSize
			continue
		}
		res.End = rec.Offset + int64(RecordLen(int(rec.Length)))
		data, ok := s.data(off+int64(HeaderLen(int(rec.Length))), int(rec.Length))
		if !ok || !crcs.Check(0, data) {
			res.Torn++
		} else if err := fn(rec, data); err != nil {
			return res, err
		}
		off = res.End
	}
	res.Unreadable = s.unreadable
	return res, nil
}

// Walk calls fn for the header of each record of the segment, in order. It reads no more of
// the data than lies beside headers, so unlike Scan it says nothing about the data.
// An error of fn ends it.
func Walk(ctx context.Context, f io.ReaderAt, h *Header, fn func(r Record) error) error {
	s := newScanner(f, h, walkWindow)
	for off := int64(HeaderSize); off < s.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec, _, ok := s.record(h, off)
		if !ok {
			off += PageSize
			continue
		}
		if err := fn(rec); err != nil {
			return err
		}
		off += int64(RecordLen(int(rec.Length)))
	}
	return nil
}

// scanner reads a segment front to back through a window.
type scanner struct {
	f          io.ReaderAt
	size       int64
	window     []byte
	winOff     int64 // of the window; what it holds is window[:winLen]
	winLen     int
	head       [MaxRecordHeader]byte
	big        []byte // data of a record that is longer than the window
	unreadable int
}

func newScanner(f io.ReaderAt, h *Header, window int) *scanner {
	return &scanner{f: f, size: h.End(), window: make([]byte, window)}
}

// record decodes the record header at off. The CRCs stay valid until the next call.
func (s *scanner) record(h *Header, off int64) (Record, CRCs, bool) {
	p, ok := s.bytes(off, PageSize)
	if !ok {
		s.unreadable++
		return Record{}, nil, false
	}
	n := headerSpan(p, h, off)
	if n == 0 {
		return Record{}, nil, false
	}
	if n > PageSize {
		if p, ok = s.bytes(off, roundUp(n)); !ok {
			return Record{}, nil, false
		}
	}
	// The window may move on before the CRCs are used.
	copy(s.head[:], p[:n])
	return DecodeRecord(s.head[:n], h, off)
}

// data returns n bytes at off, valid until the next call of any method.
func (s *scanner) data(off int64, n int) ([]byte, bool) {
	if roundUp(n) <= len(s.window) {
		p, ok := s.bytes(off, roundUp(n))
		if !ok {
			return nil, false
		}
		return p[:n], true
	}
	if cap(s.big) < n {
		s.big = make([]byte, MaxData)
	}
	return s.big[:n], readFull(s.f, s.big[:n], off)
}

// bytes returns n bytes at off from the window, moving it if needed. When a
// large read fails, exactly the wanted bytes are tried, so that one bad
// sector costs no more than the record it is in.
func (s *scanner) bytes(off int64, n int) ([]byte, bool) {
	if off < s.winOff || off+int64(n) > s.winOff+int64(s.winLen) {
		want := int(min(int64(len(s.window)), s.size-off))
		if want < n {
			return nil, false
		}
		s.winOff, s.winLen = off, want
		if !readFull(s.f, s.window[:want], off) {
			s.winLen = n
			if !readFull(s.f, s.window[:n], off) {
				s.winLen = 0
				return nil, false
			}
		}
	}
	in := int(off - s.winOff)
	return s.window[in : in+n], true
}

// readFull reads len(p) bytes; a file that ends early is read as zeros, as its header says how long it is.
func readFull(f io.ReaderAt, p []byte, off int64) bool {
	n, err := f.ReadAt(p, off)
	if err == io.EOF {
		clear(p[n:])
		return true
	}
	return err == nil && n == len(p)
}
