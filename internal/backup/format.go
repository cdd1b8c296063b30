package backup

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash"
	"hash/crc32"
	"io"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	magic   = "RKFSBKUP"
	version = 1

	kindHead  = 1
	kindShard = 2
	kindState = 3
	kindEnd   = 4

	sectionHeader = 4 + 8 + 4
	maxJSON       = 1 << 20
	maxShards     = 1 << 16
)

var (
	be         = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Head begins a file.
type Head struct {
	Cluster     string    `json:"cluster"`     // id, hex
	Incarnation uint64    `json:"incarnation"` // of the metadata
	Release     string    `json:"release"`     // that made the file
	Began       time.Time `json:"began"`       // everything that was acknowledged before is in it
	GoodUntil   time.Time `json:"good_until"`  // until then block stores have every block that is in it
	Shards      []uint16  `json:"shards"`      // in the order of the file
}

// Shard describes the state that follows.
type Shard struct {
	Shard   uint16 `json:"shard"`
	Applied uint64 `json:"applied"` // the Raft index up to which everything is in it, at least
	Level   uint32 `json:"level"`   // feature level
	Bytes   int64  `json:"bytes"`   // of the stream
}

// End ends a file.
type End struct {
	Shards int `json:"shards"`
}

// writer writes sections.
type writer struct{ w io.Writer }

func (w writer) begin() error {
	_, err := w.w.Write(be.AppendUint32([]byte(magic), version))
	return err
}

func (w writer) section(kind uint32, length int64, body io.Reader) error {
	h := be.AppendUint64(be.AppendUint32(nil, kind), uint64(length))
	if _, err := w.w.Write(be.AppendUint32(h, crc32.Checksum(h, castagnoli))); err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	n, err := io.Copy(io.MultiWriter(w.w, sum), body)
	if err != nil {
		return err
	}
	if n != length {
		return vfs.Errorf(vfs.KindInternal, "backup.write", "a section of %d bytes has %d", length, n)
	}
	_, err = w.w.Write(be.AppendUint32(nil, sum.Sum32()))
	return err
}

func (w writer) json(kind uint32, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.section(kind, int64(len(b)), &sliceReader{b})
}

type sliceReader struct{ b []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

// Reader reads a file from its beginning to its end.
type Reader struct {
	Head
	r    io.Reader
	body *body // of the state that is being read
	seen int
}

func corrupt(format string, args ...any) error {
	return vfs.Errorf(vfs.KindCorrupt, "backup.read", format, args...)
}

// NewReader reads the head.
func NewReader(r io.Reader) (*Reader, error) {
	var h [len(magic) + 4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, corrupt("the file is too short to be a backup: %w", err)
	}
	if string(h[:len(magic)]) != magic {
		return nil, corrupt("this is not a backup of rackfs metadata")
	}
	if v := be.Uint32(h[len(magic):]); v != version {
		return nil, vfs.Errorf(vfs.KindIncompatible, "backup.read", "backup format %d, this release reads %d: use the release that made it, or a newer one", v, version)
	}
	x := &Reader{r: r}
	if err := x.json(kindHead, &x.Head); err != nil {
		return nil, err
	}
	if len(x.Shards) == 0 || len(x.Shards) > maxShards || x.Shards[len(x.Shards)-1] != 0 {
		return nil, corrupt("shards %v: shard 0 has to be the last one", x.Shards)
	}
	had := map[uint16]bool{}
	for _, s := range x.Shards {
		if had[s] {
			return nil, corrupt("shard %d is in the file twice", s)
		}
		had[s] = true
	}
	return x, nil
}

// section begins to read one of this kind.
func (r *Reader) section(kind uint32) (*body, error) {
	var h [sectionHeader]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return nil, corrupt("the file ends early, it is no complete backup: %w", err)
	}
	if be.Uint32(h[12:]) != crc32.Checksum(h[:12], castagnoli) {
		return nil, corrupt("the header of a section has a wrong checksum")
	}
	n := be.Uint64(h[4:])
	if k := be.Uint32(h[:]); k != kind || n > 1<<62 || kind != kindState && n > maxJSON {
		return nil, corrupt("a section of kind %d with %d bytes, want kind %d", k, n, kind)
	}
	return &body{r: r.r, left: int64(n), sum: crc32.New(castagnoli)}, nil
}

func (r *Reader) json(kind uint32, v any) error {
	b, err := r.section(kind)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(b)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return corrupt("section of kind %d: %w", kind, err)
	}
	return nil
}

// Next returns the next shard and its state, which has to be read to its end. io.EOF: there is none, and the file is whole.
func (r *Reader) Next() (Shard, io.Reader, error) {
	var s Shard
	if r.body != nil {
		if _, err := io.Copy(io.Discard, r.body); err != nil {
			return s, nil, err
		}
	}
	if r.seen == len(r.Shards) {
		var end End
		if err := r.json(kindEnd, &end); err != nil {
			return s, nil, err
		}
		if end.Shards != r.seen {
			return s, nil, corrupt("the file has %d shards, its end says %d", r.seen, end.Shards)
		}
		if n, err := io.ReadFull(r.r, make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
			return s, nil, corrupt("bytes behind the end: %w", err)
		}
		return s, nil, io.EOF
	}
	if err := r.json(kindShard, &s); err != nil {
		return s, nil, err
	}
	if s.Shard != r.Shards[r.seen] {
		return s, nil, corrupt("shard %d where the head says %d", s.Shard, r.Shards[r.seen])
	}
	b, err := r.section(kindState)
	if err != nil {
		return s, nil, err
	}
	if b.left != s.Bytes {
		return s, nil, corrupt("the state of shard %d has %d bytes, announced %d", s.Shard, b.left, s.Bytes)
	}
	r.seen++
	r.body = b
	return s, b, nil
}

// body reads a section's body and checks it at its end.
type body struct {
	r    io.Reader
	left int64
	sum  hash.Hash32
	done bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	if b.left == 0 {
		var c [4]byte
		if _, err := io.ReadFull(b.r, c[:]); err != nil {
			return 0, corrupt("the file ends early: %w", err)
		}
		if be.Uint32(c[:]) != b.sum.Sum32() {
			return 0, corrupt("a section has a wrong checksum")
		}
		b.done = true
		return 0, io.EOF
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.sum.Write(p[:n])
	b.left -= int64(n)
	if err == io.EOF {
		if err = nil; b.left > 0 {
			err = corrupt("the file ends early, it is no complete backup: %w", io.ErrUnexpectedEOF)
		}
	}
	return n, err
}

// Verify reads a whole file and checks everything that can be checked without restoring it.
func Verify(r io.Reader) (Head, []Shard, error) {
	x, err := NewReader(r)
	if err != nil {
		return Head{}, nil, err
	}
	var shards []Shard
	for {
		s, state, err := x.Next()
		if err == io.EOF {
			return x.Head, shards, nil
		}
		if err == nil {
			_, err = io.Copy(io.Discard, state)
		}
		if err != nil {
			return x.Head, shards, err
		}
		shards = append(shards, s)
	}
}
