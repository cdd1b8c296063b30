package devcluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// inlineOf is how many bytes of a file the metadata holds, and in how many pieces the file is.
func (c *Cluster) inlineOf(t *testing.T, ino vfs.Ino) (inline, pieces int) {
	t.Helper()
	q := &metapb.ExtentsQ{Ino: uint64(ino)}
	for {
		r, err := c.meta.Query(t.Context(), namespaceShard, &metapb.Query{Fs: defaultFS, Q: &metapb.Query_Extents{Extents: q}})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.GetExtents().GetExtents() {
			inline += len(e.Inline)
			pieces++
		}
		if q.Offset = r.GetExtents().GetNext(); q.Offset == 0 {
			return inline, pieces
		}
	}
}

// Files that were written in many small flushes move from the metadata to the stores while they are read and other
// parts of them written, a file of one page stays, and when they are removed all space comes back.
func TestFolding(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.foldAge = 300 * time.Millisecond
	c := startQuick(t, cfg)
	fs, empty := c.fs(), c.used()
	mode := uint32(0o644)
	const files, pages = 3, 100
	content := map[string][]byte{}
	inos := map[string]vfs.Ino{}
	flushes := func(name string, data []byte) {
		f, err := fs.Create(t.Context(), &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenWrite})
		if err != nil {
			t.Fatal(err)
		}
		for off := 0; off < len(data); off += 4096 {
			if _, _, err := fs.Write(t.Context(), &vfs.Root, f.Attr.Ino, uint64(off), data[off:min(off+4096, len(data))], vfs.FileSync); err != nil {
				t.Fatal(err)
			}
		}
		content[name], inos[name] = data, f.Attr.Ino
	}
	flushes("small", fileContent(0)[:4000])
	for i := range files {
		flushes(fmt.Sprintf("log%d", i), fileContent(2)[:pages*4096])
	}
	check := func() {
		t.Helper()
		for name, data := range content {
			checkFile(t, c.fs(), name, data)
		}
	}
	rounds := 0
	await(t, func() string {
		check()
		// One file is being written, above the chunk that is folded.
		if _, _, err := fs.Write(t.Context(), &vfs.Root, inos["log0"], 5<<20, []byte{byte(rounds)}, vfs.FileSync); err != nil {
			t.Fatal(err)
		}
		whole := content["log0"]
		whole = append(whole, make([]byte, 5<<20+1-len(whole))...)
		whole[5<<20] = byte(rounds)
		content["log0"] = whole
		rounds++
		for i := range files {
			if inline, pieces := c.inlineOf(t, inos[fmt.Sprintf("log%d", i)]); inline > 1 {
				return fmt.Sprintf("file %d has %d bytes in the metadata and %d pieces: %+v", i, inline, pieces, c.gateway.Rewriting())
			}
		}
		return ""
	})
	check()
	if inline, _ := c.inlineOf(t, inos["small"]); inline != 4000 {
		t.Errorf("%d bytes of the small file are in the metadata", inline)
	}
	if s := c.status().Rewriting["fold"]; s.Files < files || s.Bytes < files*pages*4096 || s.Blocks < files || s.Failures != 0 {
		t.Errorf("status %+v", s)
	}
	t.Logf("%+v after %d rounds", c.status().Rewriting["fold"], rounds)
	for name := range content {
		if err := fs.Close(t.Context(), inos[name], vfs.OpenWrite); err != nil {
			t.Fatal(err)
		}
	}
	c.mustStop(t)

	c = startQuick(t, cfg)
	defer c.mustStop(t)
	check()
	for name := range content {
		if _, err := c.fs().Remove(t.Context(), &vfs.Root, vfs.RootIno, name, vfs.RemoveAny); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() string {
		if n := c.used(); n > empty {
			return fmt.Sprintf("%d bytes are used of %d", n, empty)
		}
		return ""
	})
}

// What a gateway left in pieces and did not fold before it died, the leader of the shard finds, and the next gateway folds.
func TestForgottenPiecesAreFolded(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.foldAge = 24 * time.Hour
	c := startQuick(t, cfg)
	const pages = 100
	data := fileContent(2)[:pages*4096]
	mode := uint32(0o644)
	f, err := c.fs().Create(t.Context(), &vfs.Root, vfs.RootIno, "log", vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenWrite})
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(data); off += 4096 {
		if _, _, err := c.fs().Write(t.Context(), &vfs.Root, f.Attr.Ino, uint64(off), data[off:off+4096], vfs.FileSync); err != nil {
			t.Fatal(err)
		}
	}
	if inline, _ := c.inlineOf(t, f.Attr.Ino); inline != len(data) {
		t.Fatalf("%d bytes of the file are in the metadata", inline)
	}
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	_ = c.Close(dead) // as by a crash

	cfg.foldAge, cfg.pieceAge = 0, 300*time.Millisecond
	c = startQuick(t, cfg)
	defer c.mustStop(t)
	await(t, func() string {
		if inline, pieces := c.inlineOf(t, f.Attr.Ino); inline > 0 {
			return fmt.Sprintf("%d bytes in the metadata and %d pieces: %+v", inline, pieces, c.gateway.Rewriting())
		}
		return ""
	})
	checkFile(t, c.fs(), "log", data)
}
