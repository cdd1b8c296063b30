package devcluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

var testDefaults = shape{Voters: 3, BlockStores: 6, Profile: "4+2", LogStore: "raft-wal"}

func TestDataDirKeepsItsShape(t *testing.T) {
	dir := t.TempDir()
	d, err := openDataDir(vfile.OS{}, dir, shape{BlockStores: 8}, testDefaults)
	if err != nil {
		t.Fatal(err)
	}
	first := d.shape
	if !d.fresh || first.Voters != 3 || first.BlockStores != 8 || first.Profile != "4+2" || len(d.shape.clusterID()) != 16 {
		t.Fatalf("fresh directory has shape %+v", first)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	d, err = openDataDir(vfile.OS{}, dir, shape{}, testDefaults)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if d.fresh || d.shape != first {
		t.Fatalf("second start sees %+v, first made %+v", d.shape, first)
	}
}

func TestDataDirRefuses(t *testing.T) {
	made := func(t *testing.T) string {
		dir := t.TempDir()
		d, err := openDataDir(vfile.OS{}, dir, shape{}, testDefaults)
		if err != nil {
			t.Fatal(err)
		}
		d.close()
		return dir
	}
	edit := func(t *testing.T, dir, from, to string) {
		p := filepath.Join(dir, shapeFile)
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(raw), from, to, 1)
		if changed == string(raw) {
			t.Fatalf("%q not in %s", from, raw)
		}
		if err := os.WriteFile(p, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T) string
		want    shape
		kind    vfs.Kind
		says    string
	}{
		"in use": {func(t *testing.T) string {
			dir := t.TempDir()
			d, err := openDataDir(vfile.OS{}, dir, shape{}, testDefaults)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.close() })
			return dir
		}, shape{}, vfs.KindBusy, "in use by another process"},
		"newer format": {func(t *testing.T) string {
			dir := made(t)
			edit(t, dir, `"format": 1`, `"format": 2`)
			return dir
		}, shape{}, vfs.KindIncompatible, "format version 2"},
		"torn file": {func(t *testing.T) string {
			dir := made(t)
			edit(t, dir, `"cluster"`, `"clus`)
			return dir
		}, shape{}, vfs.KindCorrupt, "JSON"},
		"somebody's files": {func(t *testing.T) string {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return dir
		}, shape{}, vfs.KindIncompatible, "thesis.tex"},
		"other voters":   {made, shape{Voters: 5}, vfs.KindInvalid, "--meta 3"},
		"other stores":   {made, shape{BlockStores: 9}, vfs.KindInvalid, "--block-stores 6"},
		"other profile":  {made, shape{Profile: "2+1"}, vfs.KindInvalid, "--profile 4+2"},
		"other raft log": {made, shape{LogStore: "raft-boltdb"}, vfs.KindInvalid, "--raft-log raft-wal"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := openDataDir(vfile.OS{}, c.prepare(t), c.want, testDefaults)
			if err == nil {
				d.close()
				t.Fatal("accepted")
			}
			if vfs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("refused with %q (kind %v), want kind %v saying %q", err, vfs.KindOf(err), c.kind, c.says)
			}
		})
	}
}
