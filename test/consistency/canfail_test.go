package consistency

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const (
	// What makes reads linearizable, and what it is replaced with: a leader that believes it is one.
	readIndexFile = "raftmeta/internal/readindex/readindex.go"
	confirms      = "func (c *Confirmer) Confirm(ctx context.Context) error {\n"
	believes      = confirms + "\tif true {\n\t\treturn nil\n\t}\n"
	// Pieces that may pass before one shows that voters built so are wrong.
	enoughPieces = 400
)

// Voters that do not ask whether they still lead before they answer a read are
// found out. They run a build of the test in which the round that confirms the term is left out.
func TestFindsStaleReads(t *testing.T) {
	if os.Getenv("RACKFS_TEST_LONG") == "" {
		t.Skip("builds the test a second time: runs with RACKFS_TEST_LONG=1")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, readIndexFile)
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(src, []byte(confirms)) != 1 {
		t.Fatalf("%s has changed: adapt what this test replaces", readIndexFile)
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	broken := write("readindex.go", bytes.Replace(src, []byte(confirms), []byte(believes), 1))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: broken}})
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "consistency.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", write("overlay.json", overlay), "-o", binary, "./test/consistency")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build without the confirmation: %v\n%s", err, out)
	}
	r := newRun(t, binary)
	for r.pieces < enoughPieces {
		for _, f := range faults {
			if f.pauses && !r.piece(f) {
				t.Logf("found in piece %d, after %d operations", r.pieces, r.ops)
				return
			}
		}
	}
	t.Fatalf("%d pieces without a violation: the test shows nothing", r.pieces)
}
