package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// began is a node that began a cluster and was stopped.
func began(t *testing.T, name string) *Config {
	t.Helper()
	c := testConfig(t, name, RoleMeta, RoleBlock)
	if _, _, err := Init(c, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	n, err := Start(t.Context(), c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// swap exchanges two directories.
func swap(t *testing.T, a, b string) {
	t.Helper()
	for _, x := range [][2]string{{a, a + ".x"}, {b, a}, {a + ".x", b}} {
		if err := os.Rename(x[0], x[1]); err != nil {
			t.Fatal(err)
		}
	}
}

// A node that starts with metadata, a disk or a whole directory of another cluster says so and changes nothing: with its own it starts again.
func TestForeignData(t *testing.T) {
	a, b := began(t, "a"), began(t, "b")
	meta := func() { swap(t, filepath.Join(a.Data, metaDir), filepath.Join(b.Data, metaDir)) }
	disk := func() { swap(t, a.Disks[0], b.Disks[0]) }
	data := func() { swap(t, a.Data, b.Data) }
	for what, c := range map[string]struct {
		swap func()
		kind vfs.Kind
		says string
	}{
		"metadata":  {meta, vfs.KindIncompatible, "holds metadata of cluster"},
		"disk":      {disk, vfs.KindUnavailable, "cluster"},
		"directory": {data, vfs.KindInvalid, "is that of node b"},
	} {
		c.swap()
		_, err := Start(t.Context(), a, Options{})
		refusal(t, what, err, c.kind, c.says)
		c.swap()
	}
	for _, c := range []*Config{a, b} {
		startNode(t, c)
	}
}

// A certificate that has expired, and a clock that is far behind, are said to be the reason, and nothing is waited for.
func TestCertificateAtStart(t *testing.T) {
	c := began(t, "a")
	dir := filepath.Join(c.Data, pkiDir)
	ca, err := pki.LoadCA(vfile.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(at time.Time) {
		t.Helper()
		id, err := ca.Issue(c.Name, c.Roles, nil, at)
		if err != nil {
			t.Fatal(err)
		}
		if err := id.Save(vfile.OS{}, dir); err != nil {
			t.Fatal(err)
		}
	}
	issue(time.Now().Add(-pki.NodeValidity - time.Hour))
	_, err = Start(t.Context(), c, Options{})
	refusal(t, "expired", err, vfs.KindUnauthorized, "has to join anew")
	issue(time.Now().AddDate(0, 1, 0))
	_, err = Start(t.Context(), c, Options{})
	refusal(t, "of the future", err, vfs.KindUnauthorized, "set the clock")
}
