package replica

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
)

// FuzzMarkers puts anything in the place of a node's and a replica's identity: it is refused, or read as what it says.
func FuzzMarkers(f *testing.F) {
	src := f.TempDir()
	if _, err := Format(vfile.OS{}, src, []byte("cluster"), "m1", []uint16{1}, WAL); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{nodeFile, filepath.Join(shardName(1), replicaFile)} {
		b, err := os.ReadFile(filepath.Join(src, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, shardName(1)), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range []string{nodeFile, filepath.Join(shardName(1), replicaFile)} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if m, err := readNode(vfile.OS{}, dir); err == nil && (m.Magic != nodeMagic || m.Version != formatVersion) {
			t.Fatalf("accepted %+v", m)
		}
		if i, err := ReadInfo(vfile.OS{}, dir, 1); err == nil && (i.Magic != replicaMagic || i.Version != formatVersion || i.Shard != 1) {
			t.Fatalf("accepted %+v", i)
		}
	})
}
