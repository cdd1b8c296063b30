package files

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// shard is shard 0 as a state machine, which answers at once.
type shard struct {
	store *fsm.MemStore
	m     *fsm.Machine
	index uint64
	down  func(*metapb.Command) bool // a command that is not applied; nil: all are
}

type writer struct{ s *fsm.MemStore }

func (w writer) Set(k, v []byte) error { return w.s.Set(k, v) }
func (w writer) Delete(k []byte) error { return w.s.Delete(k) }

func newShard(t *testing.T) *shard {
	s := &shard{store: fsm.NewMemStore()}
	var err error
	if s.m, err = fsm.Open(s.store, fsm.Options{Cluster: []byte("test cluster id.")}); err != nil {
		t.Fatal(err)
	}
	for l := uint32(2); l <= fsm.Level; l++ {
		if _, err := s.Apply(t.Context(), 0, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: l}}}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *shard) Apply(_ context.Context, _ uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if s.down != nil && s.down(cmd) {
		return nil, vfs.Errorf(vfs.KindUnavailable, "test", "nobody answers")
	}
	cmd = cmd.CloneVT()
	cmd.Time = &metapb.Time{Sec: 1000}
	b, err := (&metapb.Entry{Format: fsm.EntryFormat, Commands: []*metapb.Command{cmd}}).MarshalVT()
	if err != nil {
		return nil, err
	}
	s.index++
	res, err := s.m.Apply(s.index, b, writer{s.store})
	if err != nil {
		return nil, err
	}
	s.m.Flushed()
	if k := vfs.Kind(res[0].Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "test", "%s", res[0].Text)
	}
	return res[0], nil
}

func (s *shard) Query(_ context.Context, _ uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	r := fsm.Query(s.store, nil, q)
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "test", "%s", r.Text)
	}
	return r, nil
}

// rig has uploads into a file system in memory, with a directory in the place of the hidden one.
type rig struct {
	*testing.T
	meta   *shard
	up     *Uploads
	tree   *Tree
	hidden vfs.Ino
	now    time.Time
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t, meta: newShard(t), tree: &Tree{FS: memfs.New(memfs.Options{}), Cred: vfs.Root}, now: time.Unix(5000, 0)}
	r.up = &Uploads{Meta: r.meta, Now: func() time.Time { return r.now }}
	d, err := r.tree.Mkdir(t.Context(), "/hidden", false, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	r.hidden = d.Attr.Ino
	return r
}

// begin records an upload.
func (r *rig) begin(id byte, fs uint32, length uint64, digest []byte) *metapb.Upload {
	r.Helper()
	rec := &metapb.Upload{
		Id: bytes.Repeat([]byte{id}, 16), Fs: fs, Path: []byte("/file"), Length: length, Staging: uint64(r.hidden), Digest: digest,
		Created: stamp(r.now), Expires: stamp(r.now.Add(UploadLife)),
	}
	if err := r.up.put(r.Context(), rec); err != nil {
		r.Fatal(err)
	}
	return rec
}

// content is what the file has, nil if there is none.
func (r *rig) content() []byte {
	r.Helper()
	f, err := r.tree.Open(r.Context(), "/file")
	if vfs.KindOf(err) == vfs.KindNotFound {
		return nil
	}
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	if err := f.Copy(r.Context(), &b, 0, f.Node.Attr.Size); err != nil {
		r.Fatal(err)
	}
	return b.Bytes()
}

// zeros are n of them; their end comes by a read of its own, as that of a body whose length was not announced.
type zeros struct{ n int }

func (z *zeros) Read(b []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(z.n, len(b))
	clear(b[:n])
	z.n -= n
	return n, nil
}

// A piece is checked against its sum wherever its end comes.
func TestPieceHasItsSum(t *testing.T) {
	for what, size := range map[string]int{"nothing": 0, "little": 1000, "as much as is noted at once": pieceDurable, "more than that": pieceDurable + 1} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			rec := r.begin(1, 1, uint64(max(size, 1)), nil)
			after, err := r.up.Append(t.Context(), r.tree, rec, &zeros{size}, &Check{Hash: sha1.New(), Sum: make([]byte, sha1.Size)})
			if !errors.Is(err, ErrSum) || after.Offset != 0 || r.content() != nil {
				t.Errorf("another sum: %d bytes are taken, %v", after.Offset, err)
			}
			h := sha1.New()
			_, _ = io.Copy(h, &zeros{size})
			after, err = r.up.Append(t.Context(), r.tree, rec, &zeros{size}, &Check{Hash: sha1.New(), Sum: h.Sum(nil)})
			if noted, ferr := r.up.Find(t.Context(), rec.Id); err != nil || ferr != nil || after.Offset != uint64(size) || noted.Offset != after.Offset || noted.Done != (size > 0) {
				t.Errorf("its sum: %d bytes are taken, %v; noted is %v %v", after.Offset, err, noted, ferr)
			}
		})
	}
}

// An upload that was put to its place says so, although the gateway could not note it then; one that was damaged never does.
func TestEndOfUpload(t *testing.T) {
	data := []byte("content")
	sum := sha256.Sum256(data)
	t.Run("not noted", func(t *testing.T) {
		r := newRig(t)
		rec := r.begin(1, 1, uint64(len(data)), sum[:])
		r.meta.down = func(c *metapb.Command) bool { return c.GetPutUpload().GetUpload().GetDone() }
		if _, err := r.up.Append(t.Context(), r.tree, rec, bytes.NewReader(data), nil); vfs.KindOf(err) != vfs.KindUnavailable {
			t.Fatal(err)
		}
		r.meta.down = nil
		rec, err := r.up.Find(t.Context(), rec.Id)
		if err != nil || rec.Done || !bytes.Equal(r.content(), data) {
			t.Fatalf("%v %v", rec, err)
		}
		if rec, err = r.up.Append(t.Context(), r.tree, rec, bytes.NewReader(nil), nil); err != nil || !rec.Done || !bytes.Equal(r.content(), data) {
			t.Errorf("asked again: %v %v", rec, err)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		r := newRig(t)
		rec := r.begin(1, 1, uint64(len(data)), make([]byte, sha256.Size))
		r.meta.down = func(c *metapb.Command) bool { return c.GetRemoveUpload() != nil }
		if _, err := r.up.Append(t.Context(), r.tree, rec, bytes.NewReader(data), nil); err == nil {
			t.Fatal("it is taken")
		}
		r.meta.down = nil
		rec, err := r.up.Find(t.Context(), rec.Id)
		if err != nil {
			t.Fatal(err)
		}
		if after, err := r.up.Append(t.Context(), r.tree, rec, bytes.NewReader(nil), nil); vfs.KindOf(err) != vfs.KindInvalid || after.Done || r.content() != nil {
			t.Errorf("asked again: %v %v", after, err)
		}
		if rec, err := r.up.Find(t.Context(), rec.Id); vfs.KindOf(err) != vfs.KindNotFound {
			t.Errorf("its record: %v %v", rec, err)
		}
		if _, err := r.tree.FS.Lookup(t.Context(), &vfs.Root, r.hidden, uploadName(rec.Id)); vfs.KindOf(err) != vfs.KindNotFound {
			t.Errorf("its file: %v", err)
		}
	})
}

// A piece whose sender did not know yet what had come before changes nothing of that.
func TestLatePiece(t *testing.T) {
	r := newRig(t)
	first := r.begin(1, 1, 6, nil)
	rec, err := r.up.Append(t.Context(), r.tree, first, bytes.NewReader([]byte("abc")), nil)
	if err != nil || rec.Offset != 3 {
		t.Fatal(rec, err)
	}
	if now, err := r.up.Append(t.Context(), r.tree, first, bytes.NewReader([]byte("a")), nil); vfs.KindOf(err) != vfs.KindLocked || now.Offset != 3 {
		t.Errorf("a late piece: %v %v", now, err)
	}
	if rec, err = r.up.Append(t.Context(), r.tree, rec, bytes.NewReader([]byte("def")), nil); err != nil || !rec.Done || string(r.content()) != "abcdef" {
		t.Errorf("%q, %v %v", r.content(), rec, err)
	}
}

// hungUp is a body of which nothing comes: its sender has gone to another gateway, which this one is told when it is read.
type hungUp struct{ meanwhile func() }

func (h hungUp) Read([]byte) (int, error) {
	h.meanwhile()
	return 0, io.ErrUnexpectedEOF
}

// A sender whose gateway is out of reach goes on at another one. What comes there, and is said to be durable, stays when the first one finds out that he is gone.
func TestSenderGoesToAnotherGateway(t *testing.T) {
	for what, pieces := range map[string][]string{"a piece": {"abc"}, "all of it": {"abc", "def"}} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			other := &Uploads{Meta: r.meta, Now: r.up.Now}
			rec := r.begin(1, 1, 6, nil)
			noted := rec.CloneVT()
			send := func(piece string) {
				t.Helper()
				var err error
				if noted, err = other.Append(t.Context(), r.tree, noted, bytes.NewReader([]byte(piece)), nil); err != nil {
					t.Fatal(err)
				}
			}
			_, err := r.up.Append(t.Context(), r.tree, rec, hungUp{func() {
				for _, p := range pieces {
					send(p)
				}
			}}, nil)
			if err == nil {
				t.Error("a piece of which nothing came is taken")
			}
			if len(pieces) == 1 {
				send("def")
			}
			if got := r.content(); string(got) != "abcdef" || !noted.Done {
				t.Errorf("%q, %v", got, noted)
			}
		})
	}
}

// Bytes that are noted and are not there are not made up.
func TestNotedBytesAreGone(t *testing.T) {
	r := newRig(t)
	rec, err := r.up.Append(t.Context(), r.tree, r.begin(1, 1, 6, nil), bytes.NewReader([]byte("abc")), nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.tree.FS.Lookup(t.Context(), &vfs.Root, r.hidden, uploadName(rec.Id))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.tree.FS.SetAttr(t.Context(), &vfs.Root, f.Ino, vfs.SetAttr{Size: new(uint64)}, false); err != nil {
		t.Fatal(err)
	}
	if after, err := r.up.Append(t.Context(), r.tree, rec, bytes.NewReader([]byte("def")), nil); vfs.KindOf(err) != vfs.KindStale || after.Done || r.content() != nil {
		t.Errorf("%q, %v %v", r.content(), after, err)
	}
}

// Uploads end when they have expired, whatever became of their file systems; not while a piece comes in.
func TestExpire(t *testing.T) {
	r := newRig(t)
	old, busy := r.begin(1, 99, 1, nil), r.begin(2, 1, 1, nil)
	r.now = r.now.Add(UploadLife / 2)
	live := r.begin(3, 1, 1, nil)
	r.now = r.now.Add(UploadLife / 2)
	unlock, err := r.up.lock(busy.Id)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.up.Expire(t.Context()); err != nil || n != 1 {
		t.Errorf("%d ended, %v", n, err)
	}
	unlock()
	if left, err := r.up.all(t.Context()); err != nil || len(left) != 2 || !bytes.Equal(left[0].Id, busy.Id) || !bytes.Equal(left[1].Id, live.Id) {
		t.Errorf("left: %v %v, ended was to be %x", left, err, old.Id)
	}
	if n, err := r.up.Expire(t.Context()); err != nil || n != 1 {
		t.Errorf("%d ended later, %v", n, err)
	}
}
